//! Calls that the kernel keeps, so that their threads need not stop: they are shown as if the
//! thread stopped at each, which `--no-filter` does.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::behaviour::compiled;
use super::filter::{may_install, prints};
use super::run::{lines, trace};
use crate::common::elf::TempFile;
use crate::{kvm, skipped};

/// Nanoseconds that the program of `slow` sleeps after each exit but the last.
const SLEEP: u64 = 200_000_000;

/// The lines of a trace of the program.
fn traced(program: &Path, how: &str, options: &[&str]) -> Vec<Value> {
    let out = TempFile::new(b"");
    let path = out.path().display().to_string();
    let command = [&program.display().to_string(), how];
    let options = [&["--json", "-o", &path], options].concat();
    let output = trace(&options, &command).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.is_empty(), "{how}: {said}");
    lines(out.path())
}

/// The exits of the program, as each stands in the trace.
fn exits(program: &Path, how: &str, options: &[&str]) -> Vec<Value> {
    let lines = traced(program, how, options).into_iter();
    lines.filter(|line| line["type"] == "exit").collect()
}

/// A line without what differs from run to run.
fn stable(line: &Value) -> Value {
    let mut line = line.clone();
    let fields = line.as_object_mut().unwrap();
    for key in ["time_ns", "took_ns", "pid", "tid"] {
        assert!(fields.remove(key).is_some(), "{key}");
    }
    line
}

#[test]
fn exits_are_the_same_as_with_a_stop_at_each() {
    if !kvm() {
        return;
    }
    let program = compiled("returns", include_str!("returns.c"));
    for (how, count) in [
        ("ends", 3),
        ("parks", 3),
        ("killed", 3),
        ("forgets", 5),
        ("fails", 6),
        ("signals", 3),
        ("foreign", 6),
        ("copies", 4),
        ("executes", 5),
        ("apart", 8),
        ("found", 5),
    ] {
        let [once, twice] = [&[][..], &["--no-filter"]].map(|o| exits(&program, how, o));
        let [once, twice] = [once, twice].map(|all| all.iter().map(stable).collect::<Vec<_>>());
        assert_eq!(once.len(), count, "{how}: {once:#?}");
        assert_eq!(once, twice, "{how}");
    }
    fs::remove_file(&program).unwrap();
}

/// KVM's ring goes round several times between exits, and a string instruction follows; and lines
/// of interrupt controllers change.
#[test]
fn kept_writes_and_lines_are_the_same_as_with_a_stop_at_each() {
    if !kvm() {
        return;
    }
    let program = compiled("returns-ring", include_str!("returns.c"));
    let lines = |how: &str, options: &[&str]| {
        let wanted = |line: &Value| match line["type"].as_str().unwrap() {
            "exit" | "coalesced" => true,
            "call" => line["call"].as_str().unwrap().starts_with("KVM_IRQ_LINE"),
            _ => false,
        };
        let all = traced(&program, how, options);
        let wanted = all.iter().filter(|line| wanted(line));
        wanted.map(stable).collect::<Vec<_>>()
    };
    for (how, count, bytes) in [("ring", 3 * 512 + 4, 40), ("lines", 8, 0)] {
        let [once, twice] = [&[][..], &["--no-filter"]].map(|o| lines(how, o));
        assert_eq!(once, twice, "{how}");
        // The bytes of the string come together or one by one.
        let (string, rest): (Vec<_>, Vec<_>) =
            once.iter().partition(|line| line["address"] == "0x12");
        assert_eq!(rest.len(), count, "{how}");
        // Two digits a byte.
        let digits = string
            .iter()
            .map(|line| line["data"].as_str().unwrap().len());
        assert_eq!(digits.sum::<usize>(), 2 * bytes, "{string:?}");
    }
    fs::remove_file(&program).unwrap();
}

#[test]
fn the_time_of_an_exit_is_that_in_the_guest() {
    if !kvm() {
        return;
    }
    let program = compiled("returns-slow", include_str!("returns.c"));
    let exits = exits(&program, "slow", &[]);
    fs::remove_file(&program).unwrap();
    assert_eq!(exits.len(), 5);
    let number = |exit: &Value, key: &str| exit[key].as_u64().unwrap();
    for pair in exits.windows(2) {
        let [before, after] = [&pair[0], &pair[1]].map(|exit| number(exit, "time_ns"));
        let took = number(&pair[1], "took_ns");
        assert!(after - took >= before + SLEEP, "{pair:#?}");
    }
}

/// The ring is looked at by another thread's stops, too.
#[test]
fn kept_writes_are_seen_once_however_many_look() {
    if !kvm() {
        return;
    }
    let program = compiled("returns-looks", include_str!("returns.c"));
    let all = traced(&program, "looks", &[]);
    fs::remove_file(&program).unwrap();
    let written = all.iter().filter(|line| line["address"] == "0x20");
    assert_eq!(written.count(), 100 * 512);
}

/// The kernel's buffer holds a part of the exits, so the guest waits for a tracer that sleeps.
#[test]
fn no_exit_is_lost_while_the_tracer_sleeps() {
    if !kvm() {
        return;
    }
    let program = compiled("returns-asleep", include_str!("returns.c"));
    let out = TempFile::new(b"");
    let path = out.path().display().to_string();
    let command = program.display().to_string();
    let mut tracer = trace(&["--json", "-o", &path], &[&command, "often"]);
    let mut tracer = tracer.spawn().unwrap();
    let tid = tracer.id() as libc::pid_t;
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(50));
        // SAFETY: kill(2) takes two numbers, and the child has not been waited for.
        unsafe { libc::kill(tid, libc::SIGSTOP) };
        thread::sleep(Duration::from_millis(200));
        // SAFETY: the same.
        unsafe { libc::kill(tid, libc::SIGCONT) };
    }
    assert!(tracer.wait().unwrap().success());
    fs::remove_file(&program).unwrap();
    let lines = lines(out.path());
    let exits = lines.iter().filter(|line| line["type"] == "exit");
    let accesses: Vec<_> = exits.filter(|line| line["space"] == "port").collect();
    assert_eq!(accesses.len(), 40_000);
    assert!(accesses.iter().all(|line| line["value"] == "0x61"));
    let texts = lines.iter().filter(|line| line["type"] == "process");
    assert_eq!(texts.count(), 2, "a start, an end, and no loss");
}

#[test]
fn exits_do_not_stop_their_thread() {
    if !kvm() {
        return;
    }
    let bpf = Path::new("/proc/sys/kernel/bpf_stats_enabled").exists();
    if !may_install() || !bpf {
        return skipped("only CAP_SYS_ADMIN and programs in the kernel let exits pass");
    }
    let program = compiled("returns-once", include_str!("returns.c"));
    let path = program.display().to_string();
    let waits = |options: &[&str]| {
        let text = prints(Some(options), &[&path]);
        text.trim().parse::<u64>().unwrap()
    };
    let (some, all) = (waits(&[]), waits(&["--no-filter"]));
    fs::remove_file(&program).unwrap();
    // 2001 exits, during which the kernel's buffer may be half full now and then.
    assert!(some < 200, "{some} stops");
    assert!(all >= 4000, "only {all} stops");
}
