//! The command line itself.

use crate::process::{PROGRAM, refused};

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = assert_cmd::Command::new(PROGRAM)
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn mistakes_end_with_2() {
    for arguments in [
        &[][..],
        &["--initrd", "x"],
        &["--kernel"],
        &["--kernel", ""],
        &["--kernel", "x", "--frobnicate"],
        &["--kernel", "x", "stray"],
        &["--kernel", "x", "--cpus", "0"],
        &["--kernel", "x", "--cpus", "65"],
        &["--kernel", "x", "--cpus", "many"],
        &["--kernel", "x", "--kernel", "y"],
    ] {
        let (status, stdout, stderr) = run(arguments);
        assert_eq!(status, Some(2), "{arguments:?}: {stderr}");
        assert!(stdout.is_empty(), "{arguments:?}: {stdout}");
        assert!(stderr.starts_with("error: "), "{arguments:?}: {stderr}");
        assert!(stderr.contains("--help"), "{arguments:?}: {stderr}");
    }
}

#[test]
fn help_teaches() {
    let (status, help, stderr) = run(&["--help"]);
    assert_eq!((status, &*stderr), (Some(0), ""));
    for flag in [
        "--kernel",
        "--initrd",
        "--cmdline",
        "--cpus",
        "--memory",
        "--vfio",
        "rombar=off",
        "romfile=PATH",
        "--no-reboot",
        "-v",
    ] {
        assert!(help.contains(flag), "{flag} is not in {help}");
    }
    // How a device is bound, how one gets out, and what the end means.
    for lesson in [
        "vfio-pci",
        "driver_override",
        "Ctrl-A x",
        "SIGUSR1",
        "Exit status",
    ] {
        assert!(help.contains(lesson), "{lesson} is not in {help}");
    }
}

#[test]
fn the_version() {
    let (status, version, stderr) = run(&["--version"]);
    assert_eq!((status, &*stderr), (Some(0), ""));
    assert_eq!(
        version,
        concat!("mini-vmm ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn memory() {
    let sizes = "for example --memory 512M";
    for size in [
        "",
        "lots",
        "12X",
        "-5",
        "1.5G",
        "4 G",
        "99999999999999999999",
        "99999999T",
    ] {
        let sentence = format!("`{size}` is not a size of memory");
        refused(&["--kernel", "x", "--memory", size], &sentence, sizes);
    }
    for size in ["0", "1", "63M", "65532K"] {
        refused(
            &["--kernel", "x", "--memory", size],
            "the least is 64M",
            sizes,
        );
    }
}
