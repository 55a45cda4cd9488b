use std::collections::BTreeSet;
use std::fs;
use std::io::Write;

use clap::CommandFactory;
use vmm_sys_util::tempfile::TempFile;

use super::*;
use crate::cli::{Cli, CliError};

/// For each flag of a run, a line of a file and the arguments of the same meaning.
const SAMPLES: &[(&str, &str, &[&str])] = &[
    ("kernel", "kernel = 'vmlinux'", &["--kernel", "vmlinux"]),
    ("initrd", "initrd = \"i\"", &["--initrd", "i"]),
    (
        "cmdline",
        "cmdline = 'quiet a=\"b c\"'",
        &["--cmdline", "quiet a=\"b c\""],
    ),
    ("cpus", "cpus = 4", &["--cpus", "4"]),
    (
        "memory",
        "memory = '2G,hugepages=2M'",
        &["--memory", "2G,hugepages=2M"],
    ),
    (
        "vfio",
        "vfio = ['b', 'a,port=on']",
        &["--vfio", "b", "--vfio", "a,port=on"],
    ),
    ("ports", "ports = '3,io=on'", &["--ports", "3,io=on"]),
    ("iommu", "iommu = 'container'", &["--iommu", "container"]),
    ("kvm", "kvm = 'fd=7'", &["--kvm", "fd=7"]),
    ("host-timeout", "host-timeout = 3", &["--host-timeout", "3"]),
    ("no-reboot", "no-reboot = true", &["--no-reboot"]),
    ("sandbox", "sandbox = 'on'", &["--sandbox", "on"]),
    ("run-as", "run-as = 'u'", &["--run-as", "u"]),
    ("api-socket", "api-socket = 's'", &["--api-socket", "s"]),
    ("stats", "stats = 'f'", &["--stats=f"]),
    ("verbose", "verbose = 2", &["-vv"]),
];

fn file(text: &str) -> TempFile {
    let file = TempFile::new().unwrap();
    file.as_file().write_all(text.as_bytes()).unwrap();
    file
}

fn read(before: &[&str], file: &TempFile, after: &[&str]) -> Result<Cli, CliError> {
    let path = file.as_path().to_str().unwrap();
    let all = [&["mini-vmm"], before, &["--config", path], after].concat();
    Cli::read(all.into_iter().map(OsString::from))
}

/// All that was read, as text.
fn outcome(before: &[&str], file: &TempFile, after: &[&str]) -> String {
    let cli = read(before, file, after).unwrap_or_else(|e| panic!("{e}"));
    let text = format!("{cli:?}");
    text.replace(file.as_path().to_str().unwrap(), "FILE")
}

/// The sentence and the hint, where `FILE` stands for the file.
fn refused(text: &str, after: &[&str]) -> (String, String) {
    let file = file(text);
    match read(&[], &file, after) {
        Err(CliError::File(e)) => {
            let text = e.to_string();
            let path = file.as_path().to_str().unwrap();
            (text.replace(path, "FILE"), e.hint())
        }
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn every_flag_of_a_run_has_a_key() {
    let run = Cli::command();
    let longs: BTreeSet<_> = run.get_arguments().filter_map(Arg::get_long).collect();
    let expected: BTreeSet<_> = SAMPLES
        .iter()
        .map(|sample| sample.0)
        .chain(["config"])
        .collect();
    assert_eq!(longs, expected, "a flag and its sample");
    for (key, line, arguments) in SAMPLES {
        let kernel: &[&str] = if *key == "kernel" {
            &[]
        } else {
            &["--kernel", "k"]
        };
        let (with_key, empty) = (file(line), file(""));
        let by_file = outcome(&[], &with_key, kernel);
        assert_eq!(by_file, outcome(arguments, &empty, kernel), "{key}");
        let none = file("");
        let nothing = outcome(&[], &none, &["--kernel", "k"]);
        assert_ne!(by_file, nothing, "{key} has no effect");
        let by_file = outcome(&["explain"], &with_key, kernel);
        let by_line = outcome(&[&["explain"], *arguments].concat(), &empty, kernel);
        assert_eq!(by_file, by_line, "explain with {key}");
    }
}

#[test]
fn flags_override_keys() {
    for (key, line, arguments) in SAMPLES {
        let other: &[&str] = match *key {
            "cpus" => &["--cpus", "2"],
            "host-timeout" => &["--host-timeout", "5"],
            "vfio" => &["--vfio", "c"],
            "verbose" => &["-v"],
            "stats" => &["--stats"],
            "iommu" => &["--iommu", "iommufd"],
            "no-reboot" => arguments,
            "initrd" => &["--initramfs", "other"],
            "ports" => &["--ports", "1"],
            "sandbox" => &["--sandbox", "log"],
            _ => &[arguments[0], "other"],
        };
        let kernel: &[&str] = if *key == "kernel" {
            &[]
        } else {
            &["--kernel", "k"]
        };
        let all = [other, kernel].concat();
        let overridden = outcome(&[], &file(line), &all);
        assert_eq!(overridden, outcome(&[], &file(""), &all), "{key}");
    }
    // The others of the file stay.
    let both = file("kernel = 'k'\ncpus = 2\nmemory = '1G'\n");
    let cli = outcome(&[], &both, &["--cpus", "3"]);
    assert_eq!(
        cli,
        outcome(
            &[],
            &file(""),
            &["--kernel", "k", "--cpus", "3", "--memory", "1G"]
        )
    );
}

#[test]
fn other_kinds_of_values() {
    let kernel: &[&str] = &["--kernel", "k"];
    for (line, arguments) in [
        ("no-reboot = false", &[][..]),
        ("stats = true", &["--stats"]),
        ("stats = false", &[]),
        ("verbose = 0", &[]),
        ("vfio = []", &[]),
        ("vfio = '01:00.0'", &["--vfio", "01:00.0"]),
        ("memory = 512", &["--memory", "512"]),
        ("memory = 0x1_00", &["--memory", "256"]),
        ("memory = -1", &["--memory", "-1"]),
        ("cpus = '2,pin=0,1'", &["--cpus", "2,pin=0,1"]),
        ("cmdline = '-quiet'", &["--cmdline", "-quiet"]),
        ("cmdline = ''", &["--cmdline", ""]),
        ("initramfs = 'i'", &["--initrd", "i"]),
        ("# nothing", &[]),
    ] {
        let by_file = outcome(&[], &file(line), kernel);
        let by_line = outcome(arguments, &file(""), kernel);
        assert_eq!(by_file, by_line, "{line}");
    }
    // A word of the command line that is empty or the name of the command.
    let config = file("kernel = 'k'");
    outcome(&[], &config, &["--cmdline", ""]);
    outcome(&["explain", "-v"], &config, &["--cmdline", "explain"]);
}

/// Wrong files, with parts of the sentence and of the hint.
const WRONG: &[(&str, &str, &str)] = &[
    (
        "kernel = 'k'\n\nmemroy = '1G'",
        "FILE: line 3: `memroy` is not a key",
        "did you mean `memory`?",
    ),
    (
        "no_reboot = true",
        "FILE: line 1: `no_reboot` is not a key",
        "`no-reboot`",
    ),
    ("KERNEL = ''", "`KERNEL` is not a key", "`kernel`"),
    ("qqq = 1", "`qqq` is not a key", "the keys are kernel, "),
    ("config = 'x'", "`config` is not a key", ""),
    ("help = true", "`help` is not a key", ""),
    (
        "kernel = k",
        "FILE: line 1: this is not TOML",
        "key = value",
    ),
    ("cpus = 1\ncpus = 2", "FILE: line 2: this is not TOML", ""),
    (
        "cpus = [1]",
        "the value of `cpus` is an array, not a text or a",
        "cpus = \"VALUE\"",
    ),
    (
        "[memory]\nsize = '1G'",
        "`memory` is a table",
        "memory = \"VALUE\"",
    ),
    ("cpus = 1.5", "`cpus` is the number 1.5", ""),
    (
        "cpus = 99999999999999999999",
        "`cpus` is the number 9999",
        "",
    ),
    ("kernel = true", "`kernel` is true, not a text", ""),
    ("kernel = 1979-05-27", "`kernel` is a date", ""),
    (
        "kernel = 'k'\nvfio = [\n'a',\n1]",
        "line 4: the value of `vfio` is the number 1",
        "[",
    ),
    (
        "no-reboot = 1",
        "`no-reboot` is the number 1, not true or false",
        "no-reboot = true",
    ),
    (
        "verbose = true",
        "`verbose` is true, not a number",
        "verbose = 1",
    ),
    ("verbose = 256", "`verbose` is the number 256", ""),
    ("verbose = -1", "`verbose` is the number -1", ""),
    (
        "stats = 3",
        "`stats` is the number 3, not true, false or a text",
        "",
    ),
    (
        "cmdline = \"a\\u0000\"",
        "`cmdline` has a NUL character",
        "\\u0000",
    ),
    (
        "kernel = 'k'\ncpus = 0",
        "FILE: ",
        "takes what the flag of the same name takes",
    ),
    (
        "kernel = 'k'\niommu = 'x'",
        "[possible values: auto, container, iommufd, fd=N]",
        "",
    ),
    (
        "kernel = ''",
        "FILE: a value is required for '--kernel <PATH>'",
        "",
    ),
    (
        "kernel = 'k'\ninitrd = 'a'\ninitramfs = 'b'",
        "cannot be used multiple times",
        "",
    ),
    ("cpus = 1", "FILE has no `kernel`", "kernel = \"PATH\""),
];

#[test]
fn mistakes_in_a_file_are_named_with_their_line() {
    for (text, message, hint) in WRONG {
        let (said, remedy) = refused(text, &[]);
        assert!(said.contains(message), "{text}: {said}");
        assert!(
            !said.contains('\n') && !said.contains("error:"),
            "{text}: {said}"
        );
        assert!(remedy.contains(hint), "{text}: {remedy}");
    }
    // Also where the command line overrides the key.
    let (said, _) = refused("cpus = []", &["--kernel", "k", "--cpus", "2"]);
    assert!(said.contains("`cpus` is an array"), "{said}");
}

#[test]
fn files_that_cannot_be_read() {
    let long = file(&"# a comment\n".repeat(100_000));
    let bytes = TempFile::new().unwrap();
    bytes.as_file().write_all(b"kernel = '\xff'").unwrap();
    for (file, cause) in [(&long, "larger than 1024 KiB"), (&bytes, "UTF-8")] {
        match read(&[], file, &[]) {
            Err(CliError::File(e @ ConfigFileError::Read { .. })) => {
                let source = std::error::Error::source(&e).unwrap().to_string();
                assert!(source.contains(cause), "{source}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn usage_errors_stay_usage_errors() {
    let config = file("kernel = 'k'");
    for arguments in [&["--frob"][..], &["--cpus", "0"], &["host", "list"]] {
        assert!(matches!(
            read(&[], &config, arguments),
            Err(CliError::Usage(_))
        ));
    }
}

/// The example of docs/config.md has each key, and can be read.
#[test]
fn the_example_of_the_page_has_each_key() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.md");
    let page = fs::read_to_string(page).unwrap();
    let example = page.split("```toml\n").nth(1).unwrap();
    let example = example.split("```").next().unwrap();
    let run = Cli::command();
    for long in keyed(&run).filter_map(Arg::get_long) {
        let key = format!("{long} = ");
        // A key that most runs leave out is a comment.
        let named = |line: &str| line.trim_start_matches("# ").starts_with(&key);
        assert!(example.lines().any(named), "{long}");
    }
    let prose = "# Most runs need none of these.\n";
    let all = example.replace(prose, "").replace("\n# ", "\n");
    for text in [example, &all] {
        let cli = read(&[], &file(text), &[]).unwrap_or_else(|e| panic!("{e:?}"));
        assert!(cli.kernel.is_some());
    }
}
