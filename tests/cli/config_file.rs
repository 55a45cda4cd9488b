//! `--config FILE`, seen from outside.

use std::fs;
use std::process::{Command, Stdio};

use crate::common::elf::TempFile;
use crate::kvm;
use crate::process::{PROGRAM, Running, kernel, refused};

fn file(text: &str) -> TempFile {
    let file = TempFile::new(b"");
    fs::write(file.path(), text).unwrap();
    file
}

/// A guest with all its flags in a file runs, and its report is where the file says.
#[test]
fn a_file_describes_a_run() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.print("ready").hang();
    });
    let report = file("");
    let config = file(&format!(
        "kernel = \"{}\"\nmemory = \"64M\"\ncpus = 2\nstats = \"{}\"\n",
        guest.path().display(),
        report.path().display()
    ));
    let mut command = Command::new(PROGRAM);
    command
        .arg("--config")
        .arg(config.path())
        .args(["--cpus", "1"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut run = Running::spawn(command, guest);
    run.stdout.wait_for("ready");
    run.signal(libc::SIGTERM);
    assert_eq!(run.status(), Some(0));
    let report = fs::read_to_string(report.path()).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert!(
        report["exits"]["total"]
            .as_u64()
            .is_some_and(|exits| exits > 0),
        "{report}"
    );
}

#[test]
fn mistakes_in_a_file() {
    let refuse = |text: &str, message: &str, hint: &str| {
        let file = file(text);
        let path = file.path().to_str().unwrap();
        refused(&["--config", path], message, hint);
        refused(&["explain", "--config", path], message, hint);
    };
    refuse(
        "kernel = 'k'\nmemry = '1G'",
        "line 2: `memry` is not a key",
        "`memory`",
    );
    refuse(
        "kernel = 'k'\ncpus = 0",
        "invalid value '0' for '--cpus",
        "--help",
    );
    // What only the parser of a flag's options can refuse.
    refuse("kernel = 'k'\nmemory = 'lots'", "lots", "--memory 512M");
    let empty = file("");
    let empty = empty.path().to_str().unwrap();
    refused(&["--config", empty], "has no `kernel`", "--kernel PATH");
    refused(
        &["--config", "/nowhere/file"],
        "cannot read /nowhere/file: No such",
        "--config",
    );
}
