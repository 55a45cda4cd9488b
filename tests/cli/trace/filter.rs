//! The seccomp filter by which only calls that may be shown stop.

use std::fs;
use std::process::Command;

use super::behaviour::compiled;
use super::run::trace;
use crate::common::elf::TempFile;
use crate::skipped;

/// CAP_SYS_ADMIN of linux/capability.h.
const SYS_ADMIN: u64 = 1 << 21;

pub fn may_install() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = u64::from_str_radix(line.unwrap().trim(), 16).unwrap();
    bits & SYS_ADMIN != 0
}

/// What a command prints, without and with the tracer.
pub fn prints(options: Option<&[&str]>, command: &[&str]) -> String {
    let out = TempFile::new(b"");
    let path = out.path().display().to_string();
    let output = match options {
        Some(options) => trace(&[&["-o", &path], options].concat(), command).output(),
        None => Command::new(command[0]).args(&command[1..]).output(),
    };
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{options:?} {said}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn filters_and_untraced_children_are_as_without_a_tracer() {
    let program = compiled("filters", include_str!("filters.c"));
    let path = program.display().to_string();
    let command = ["timeout", "60", &path];
    let plain = prints(None, &command);
    let [below, slowly] = [&[][..], &["--no-filter"]].map(|o| prints(Some(o), &command));
    fs::remove_file(&program).unwrap();
    assert!(
        plain.contains("clone3: status 3\nown filter: 0\n"),
        "{plain}"
    );
    assert!(
        plain.contains("getppid: -1 Function not implemented\n"),
        "{plain}"
    );
    assert_eq!(below, plain);
    assert_eq!(slowly, plain);
}

#[test]
fn calls_that_are_not_shown_do_not_stop() {
    if !may_install() {
        return skipped("only CAP_SYS_ADMIN lets the tracer install a filter");
    }
    let program = compiled("waits", include_str!("filters.c"));
    let path = program.display().to_string();
    let waits = |options: &[&str]| {
        let text = prints(Some(options), &[&path, "waits"]);
        text.trim().parse::<u64>().unwrap()
    };
    let (some, all) = (waits(&[]), waits(&["--no-filter"]));
    fs::remove_file(&program).unwrap();
    assert!(some < 100, "{some} of 3000 calls have waited");
    assert!(all >= 6000, "only {all} waits with two stops at each call");
}
