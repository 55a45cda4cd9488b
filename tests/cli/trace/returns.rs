//! Returns of KVM_RUN that are read when the thread stops next, by the kernel's records of them:
//! they are shown as if the thread stopped at each, which `--no-filter` does.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::behaviour::compiled;
use super::filter::{may_install, prints};
use super::run::{lines, trace};
use crate::common::elf::TempFile;
use crate::{kvm, skipped};

/// Nanoseconds that the program of `slow` sleeps after each exit but the last.
const SLEEP: u64 = 200_000_000;

/// The exits of the program, as each stands in the trace.
fn exits(program: &Path, how: &str, options: &[&str]) -> Vec<Value> {
    let out = TempFile::new(b"");
    let path = out.path().display().to_string();
    let command = [&program.display().to_string(), how];
    let options = [&["--json", "-o", &path], options].concat();
    let output = trace(&options, &command).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.is_empty(), "{how}: {said}");
    let lines = lines(out.path());
    let exits = lines.into_iter().filter(|line| line["type"] == "exit");
    exits.collect()
}

/// An exit without what differs from run to run.
fn stable(exit: &Value) -> Value {
    let mut exit = exit.clone();
    let fields = exit.as_object_mut().unwrap();
    for key in ["time_ns", "took_ns", "pid", "tid"] {
        assert!(fields.remove(key).is_some(), "{key}");
    }
    exit
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
    ] {
        let [once, twice] = [&[][..], &["--no-filter"]].map(|o| exits(&program, how, o));
        let [once, twice] = [once, twice].map(|all| all.iter().map(stable).collect::<Vec<_>>());
        assert_eq!(once.len(), count, "{how}: {once:#?}");
        assert_eq!(once, twice, "{how}");
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

#[test]
fn a_return_that_the_kernel_does_not_record_is_not_guessed() {
    if !kvm() {
        return;
    }
    let program = compiled("returns-foreign", include_str!("returns.c"));
    let results = |options: &[&str]| {
        let exits = exits(&program, "foreign", options);
        let results = exits.iter().map(|exit| exit["result"].as_i64());
        results.collect::<Vec<_>>()
    };
    let failed = Some(-i64::from(libc::EIO));
    let twice = [&[failed; 3][..], &[Some(0); 3]].concat();
    let once = [&[None, failed, failed][..], &[Some(0); 3]].concat();
    let seen = results(&[]);
    // Without the kernel's records, each return stops the thread.
    assert!(seen == once || seen == twice, "{seen:?}");
    assert_eq!(results(&["--no-filter"]), twice);
    fs::remove_file(&program).unwrap();
}

#[test]
fn an_exit_stops_its_thread_once() {
    if !kvm() {
        return;
    }
    let perf = Path::new("/sys/bus/event_source/devices/tracepoint").exists();
    if !may_install() || !perf {
        return skipped("only CAP_SYS_ADMIN and the kernel's tracepoints let exits stop once");
    }
    let program = compiled("returns-once", include_str!("returns.c"));
    let path = program.display().to_string();
    let waits = |options: &[&str]| {
        let text = prints(Some(options), &[&path]);
        text.trim().parse::<u64>().unwrap()
    };
    let (some, all) = (waits(&[]), waits(&["--no-filter"]));
    fs::remove_file(&program).unwrap();
    // 2001 exits.
    assert!((2000..2500).contains(&some), "{some} stops");
    assert!(all >= 4000, "only {all} stops");
}
