//! A traced program behaves as untraced, and ends with its tracer.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::run::trace;
use crate::common::elf::TempFile;
use crate::kvm;
use crate::process::{PROGRAM, Running, as_nobody, eventually, kernel};

/// Traces a command, with the trace in a file.
fn traced(command: &[&str]) -> (Output, String) {
    let out = TempFile::new(b"");
    let path = out.path().display().to_string();
    let output = trace(&["-o", &path], command).output().unwrap();
    (output, fs::read_to_string(out.path()).unwrap())
}

#[test]
fn the_exit_status_is_the_commands() {
    for (script, status) in [("exit 0", 0), ("exit 3", 3), ("(exit 7); exit $?", 7)] {
        let (output, _) = traced(&["sh", "-c", script]);
        assert_eq!(output.status.code(), Some(status), "{script}");
    }
    let (output, trace) = traced(&["sh", "-c", "kill -TERM $$"]);
    assert_eq!(output.status.signal(), Some(libc::SIGTERM));
    assert!(trace.contains("ends by signal 15"), "{trace}");
    for (command, status) in [("/nonexistent", 127), ("/etc/passwd", 126)] {
        let (output, _) = traced(&[command]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{said}");
        let message = format!("mini-vmm trace: {command} cannot be executed");
        assert!(said.starts_with(&message), "{said}");
    }
}

#[test]
fn without_its_program_the_hint_says_what_to_do() {
    let dir = tempdir();
    let alone = format!("{dir}/mini-vmm");
    copy(PROGRAM, &alone);
    let run = Command::new(&alone)
        .args(["trace", "--", "true"])
        .env("PATH", &dir)
        .output();
    fs::remove_dir_all(&dir).unwrap();
    let output = run.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("mini-vmm-trace is neither beside mini-vmm nor in PATH"),
        "{said}"
    );
    assert!(said.contains("hint: build it with 'make build'"), "{said}");
}

/// Copies a program by another process: a child that another test starts meanwhile would have this
/// process's open file, and a file that is open for writing cannot be executed.
fn copy(program: &str, to: &str) {
    let copied = Command::new("cp").args([program, to]).status().unwrap();
    assert!(copied.success());
}

fn tempdir() -> String {
    let dir = std::env::temp_dir().join(format!("mini-vmm-trace-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    dir.display().to_string()
}

/// A program with threads, signals to threads and to itself, children, group-stops, an exec from a
/// thread that is not the first, and descriptors that go from process to process. It prints what it
/// has seen, which is the same each time.
const PROGRAM_IN_C: &str = include_str!("program.c");

/// Compiles a program in C.
pub fn compiled(name: &str, text: &str) -> PathBuf {
    let source = TempFile::new(text.as_bytes());
    let name = format!("mini-vmm-{name}-{}", std::process::id());
    let program = std::env::temp_dir().join(name);
    let built = Command::new("cc")
        .args(["-O1", "-Wall", "-Werror", "-pthread", "-x", "c"])
        .arg(source.path())
        .arg("-o")
        .arg(&program)
        .status();
    assert!(built.unwrap().success());
    program
}

#[test]
fn parents_that_are_killed_while_they_fork_leave_no_child_stopped() {
    let program = compiled("forks", include_str!("forks.c"));
    let out = TempFile::new(b"");
    // The limit is the tracer's, which would wait for the stopped child.
    let limited = Command::new("timeout")
        .args(["-k", "5", "60", PROGRAM, "trace", "-o"])
        .args([out.path(), "--".as_ref(), &program])
        .output();
    fs::remove_file(&program).unwrap();
    assert_eq!(limited.unwrap().status.code(), Some(42));
}

#[test]
fn threads_signals_and_stops_are_as_untraced() {
    let program = compiled("traced", PROGRAM_IN_C);
    let path = program.display().to_string();
    let limited = ["timeout", "-k", "5", "60", &path];
    let plain = Command::new(limited[0])
        .args(&limited[1..])
        .output()
        .unwrap();
    let (below, lines) = traced(&limited);
    fs::remove_file(&program).unwrap();
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text(&plain).ends_with("executed by a thread\n"),
        "{}",
        text(&plain)
    );
    assert_eq!(text(&below), text(&plain));
    assert_eq!(below.status, plain.status);
    assert_eq!(plain.status.code(), Some(42));
    // The eventfd of one process is the same file in another, which got it by a socket.
    let calls = |text: &str| lines.lines().filter(|line| line.contains(text)).count();
    let made = lines
        .lines()
        .find(|line| line.contains("eventfd2(initval=5"))
        .unwrap();
    let name = made.rsplit_once('(').unwrap().1.split_once(')').unwrap().0;
    assert!(name.starts_with("eventfd "), "{made}");
    assert_eq!(
        calls(&format!("{name:<12} read(count=8) = 8 {{counter=5}}")),
        1,
        "{lines}"
    );
}

#[test]
fn a_descriptor_in_a_message_is_known_after_its_sender_has_closed_it() {
    if !kvm() {
        return;
    }
    two_vms_are_named(&compiled("passed", include_str!("passed.c")));
}

#[test]
fn a_descriptor_of_pidfd_getfd_is_known_after_the_thread_that_made_it_has_ended() {
    if !kvm() {
        return;
    }
    two_vms_are_named(&compiled("copied", include_str!("copied.c")));
}

/// A program makes two VMs, and a call on a copy of each descriptor.
fn two_vms_are_named(program: &Path) {
    let (output, lines) = traced(&[&program.display().to_string()]);
    fs::remove_file(program).unwrap();
    assert_eq!(output.status.code(), Some(0), "{lines}");
    for (file, call) in [
        ("vm ", "KVM_SET_TSS_ADDR("),
        ("vm 2 ", "KVM_CREATE_IRQCHIP("),
    ] {
        let line = lines.lines().find(|line| line.contains(call));
        let line = line.unwrap_or_else(|| panic!("{call} is not in {lines}"));
        let named = line.split_once(call).unwrap().0;
        assert_eq!(named[20..].trim_start(), format!("{file:<13}"), "{line}");
    }
}

#[test]
fn the_traced_program_ends_with_its_tracer() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.print("here").hang();
    });
    let path = guest.path().display().to_string();
    let out = TempFile::new(b"");
    let out_path = out.path().display().to_string();
    let command = [PROGRAM, "--kernel", &path, "--memory", "64M"];
    let mut command = trace(&["-o", &out_path], &command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut run = Running::spawn(command, guest);
    run.stdout.wait_for("here");
    let mut lines = String::new();
    eventually("the first line", || {
        lines = fs::read_to_string(out.path()).unwrap();
        lines.contains("executes")
    });
    let child = lines.split_whitespace().nth(1).unwrap();
    let stat = format!("/proc/{child}/stat");
    assert!(fs::read_to_string(&stat).unwrap().contains("(mini-vmm)"));
    run.signal(libc::SIGKILL);
    assert_eq!(run.status(), None);
    eventually("the guest's end", || {
        let stat = fs::read_to_string(&stat).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    });
}

#[test]
fn signals_to_the_tracer_reach_the_guest() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.print("here").hang();
    });
    let path = guest.path().display().to_string();
    let out = TempFile::new(b"");
    let out_path = out.path().display().to_string();
    let command = [PROGRAM, "--kernel", &path, "--memory", "64M", "--cpus", "3"];
    let mut command = trace(&["-o", &out_path], &command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut run = Running::spawn(command, guest);
    run.stdout.wait_for("here");
    run.signal(libc::SIGUSR1);
    run.stderr.wait_for("exits pio=");
    run.signal(libc::SIGTERM);
    assert_eq!(run.status(), Some(0), "{}", run.stderr.text());
}

#[test]
fn an_ordinary_user_can_trace() {
    let dir = tempdir();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    let copies = [PROGRAM, env!("CARGO_BIN_EXE_mini-vmm-trace")].map(|program| {
        let name = program.rsplit_once('/').unwrap().1;
        let copy = format!("{dir}/{name}");
        self::copy(program, &copy);
        copy
    });
    let mut command = Command::new(&copies[0]);
    command.args(["trace", "--", "sh", "-c", "echo $(id -u); exit 5"]);
    let output = as_nobody(&mut command);
    fs::remove_dir_all(&dir).unwrap();
    let Some(output) = output else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert_eq!(output.stdout, b"65534\n", "{said}");
    assert!(said.contains("ends with status 5"), "{said}");
}

#[test]
fn without_the_proc_of_its_processes_nothing_is_started() {
    let own_numbers = |command: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--pid", "--fork"]).args(command).output()
    };
    if !own_numbers(&["true"]).is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: unshare is not allowed");
        return;
    }
    // /proc is still that of all processes.
    let output = own_numbers(&[PROGRAM, "trace", "--", "echo", "started"]).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(output.stdout.is_empty());
    assert!(
        said.contains("/proc does not show the processes here"),
        "{said}"
    );
    assert!(said.contains("hint: mount it: mount -t proc"), "{said}");
}
