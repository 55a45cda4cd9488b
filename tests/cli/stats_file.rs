//! Where `--stats=FILE` writes, and which files do not stop a run.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;

use serde_json::Value;

use crate::common::elf::TempFile;
use crate::kvm;
use crate::process::{PROGRAM, Running, command, eventually, kernel, refused};
use crate::stats::read;

#[test]
fn a_file_that_cannot_be_written_is_refused() {
    let guest = kernel(|g| {
        g.power_off();
    });
    let path = guest.path().to_str().unwrap();
    let file = "/no/such/directory/s.json";
    let flag = format!("--stats={file}");
    refused(
        &["--kernel", path, &flag],
        &format!("cannot write the statistics to {file}: No such file"),
        "--stats=/tmp/stats.json",
    );
}

#[test]
fn a_refused_run_leaves_the_file_as_it_was() {
    let file = TempFile::new(b"an earlier run's");
    let flag = format!("--stats={}", file.path().display());
    refused(
        &["--kernel", "/no/such/kernel", &flag],
        "/no/such/kernel",
        "",
    );
    assert_eq!(std::fs::read(file.path()).unwrap(), b"an earlier run's");
}

#[test]
fn a_reader_that_stops_holds_no_run_up() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.print("ready").wait_key();
    });
    let (reader, writer) = std::io::pipe().unwrap();
    // This test's end of the pipe, which the program opens for itself.
    let path = format!("/proc/{}/fd/{}", std::process::id(), writer.as_raw_fd());
    let full = std::fs::File::options()
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path)
        .unwrap();
    while (&full).write(&[b' '; 4096]).is_ok() {}
    let mut run = Running::start(guest, &[&format!("--stats={path}")]);
    run.stdout.wait_for("ready");
    run.signal(libc::SIGUSR1);
    let lost = format!("mini-vmm: no statistics in {path}: its reader has stopped\n");
    run.stderr.wait_for(&lost);
    run.signal(libc::SIGTERM);
    assert_eq!(run.status(), Some(0), "{}", run.stderr.text());
    assert_eq!(run.stderr.text().matches(&lost).count(), 2);
    drop(reader);
}

#[test]
fn a_fifo_without_a_reader_is_refused() {
    let guest = kernel(|g| {
        g.power_off();
    });
    let fifo = TempFile::new(b"");
    std::fs::remove_file(fifo.path()).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(fifo.path())
        .status();
    assert!(made.unwrap().success());
    refused(
        &[
            "--kernel",
            guest.path().to_str().unwrap(),
            &format!("--stats={}", fifo.path().display()),
        ],
        "cannot write the statistics to",
        "start the program that reads it first",
    );
}

#[test]
fn a_file_of_both_console_and_statistics_has_both() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.print("hello\n").wait_key().print("bye\n").power_off();
    });
    let log = TempFile::new(b"");
    let mut command = command(&guest, &["--stats=/dev/stdout"]);
    let stdout = std::fs::File::create(log.path()).unwrap();
    command.stdin(Stdio::piped()).stdout(stdout);
    let mut run = Running::spawn(command, guest);
    let text = || std::fs::read_to_string(log.path()).unwrap();
    eventually("the guest's word", || text() == "hello\n");
    run.signal(libc::SIGUSR1);
    run.stderr.wait_for("statistics are in /dev/stdout\n");
    run.stdin.as_mut().unwrap().write_all(b"k").unwrap();
    assert_eq!(run.status(), Some(0), "{}", run.stderr.text());
    let all = text();
    let (first, last) = all.split_once("bye\n").unwrap();
    for report in [first.strip_prefix("hello\n").unwrap(), last] {
        let report: Value = serde_json::from_str(report).unwrap();
        assert_eq!(report["version"], 1);
    }
}

#[test]
fn a_report_asked_for_too_early_ends_no_run() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.power_off();
    });
    let file = TempFile::new(b"");
    std::fs::remove_file(file.path()).unwrap();
    let flag = format!("--stats={}", file.path().display());
    let mut command = std::process::Command::new(PROGRAM);
    command.arg("--kernel").arg(guest.path()).arg(flag);
    // Time to be early in.
    command.args(["--memory", "512M,prefault=on"]);
    let mut run = Running::spawn(command, guest);
    eventually("the start", || file.path().exists());
    run.signal(libc::SIGUSR1);
    assert_eq!(run.status(), Some(0), "{}", run.stderr.text());
    assert_eq!(read(&file.path().into())["version"], 1);
}
