//! `--kernel`: events of the kernel's own. They need root and tracefs. Where tracefs is not
//! mounted, the tests mount it in a mount namespace of their own, which goes with them.

use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::run::{guest, lines, summary};
use crate::common::elf::TempFile;
use crate::process::{PROGRAM, kernel};
use crate::{kvm, skipped};

pub const TRACEFS: &str = "/sys/kernel/tracing";

/// What the shell says when it has what the test needs: what fails later is a failure.
const READY: &str = "the test begins";

/// Runs shell after `prepare`, which needs privileges. `None`, with the reason told, where there
/// are none.
fn privileged(prepare: &str, script: &str, arguments: &[&str]) -> Option<Output> {
    let script = format!("{prepare} || exit\necho {READY}\n{script}");
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script, "sh"])
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let why = match output {
        Ok(output) if said(&output).contains(READY) => return Some(output),
        Ok(output) => said(&output),
        Err(e) => e.to_string(),
    };
    skipped(&format!("tracefs cannot be mounted: {}", why.trim()));
    None
}

/// The same with tracefs, for one test at a time: a run removes what others have left there, and
/// the events of one are those of the whole host.
pub fn with_tracefs(script: &str, arguments: &[&str]) -> Option<Output> {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let own = "pid:[4026531836]";
    if std::fs::read_link("/proc/self/ns/pid").is_ok_and(|pid| pid.as_os_str() != own) {
        skipped("tracefs has other numbers of processes than a container");
        return None;
    }
    let mount = format!("[ -d {TRACEFS}/instances ] || mount -t tracefs tracefs {TRACEFS}");
    privileged(&mount, script, arguments)
}

pub fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{err}")
}

fn number(line: &Value, key: &str) -> u64 {
    line[key]
        .as_u64()
        .unwrap_or_else(|| panic!("no {key} in {line}"))
}

/// Of the calls of this name, half took no longer.
fn median(lines: &[Value], call: &str) -> u64 {
    let calls = lines.iter().filter(|line| line["call"] == call);
    let mut took: Vec<u64> = calls.map(|line| number(line, "took_ns")).collect();
    took.sort_unstable();
    took[took.len() / 2]
}

/// The lines are in the order of the kernel's times, unless the kernel had no room.
fn in_order(lines: &[Value]) {
    let kernel = &summary(lines)["kernel"];
    let (lost, late) = (number(kernel, "lost"), number(kernel, "late"));
    let told = lines.iter().any(|line| line["event"] == "lost");
    assert!(lost == 0 || told, "{lost} records were lost without a word");
    let (mut last, mut behind) = (0, 0);
    for line in &lines[..lines.len() - 1] {
        let time = number(line, "time_ns");
        if time < last {
            behind += 1;
            let is_long = line["type"] == "call" && number(line, "took_ns") >= 50_000_000;
            assert!(lost > 0 || is_long, "{line} stands behind {last}");
        }
        last = last.max(time);
    }
    assert!(
        behind <= late,
        "{behind} lines are late, and {late} are told"
    );
}

/// A guest that makes this number of exits for reads, and others.
pub fn reading_guest(reads: u32) -> TempFile {
    kernel(|g| {
        g.repeat(reads, |g| {
            g.load32(0xc000_0000);
        });
        // The UART's interrupt for an empty holding register, which a device of a VFIO driver
        // would have raised by the same way: an eventfd that KVM hears.
        g.outb(0x3f9, 2).print("ab").power_off();
    })
}

#[test]
fn calls_have_the_kernels_times_and_the_instance_goes() {
    if !kvm() {
        return;
    }
    let script = format!(
        "'{PROGRAM}' trace --kernel --json -o \"$2\" --html \"$3\" -- \
         '{PROGRAM}' --kernel \"$1\" --memory 64M & tracer=$!\n\
         wait $tracer || exit\n\
         if ls {TRACEFS}/instances | grep -- -$tracer-; then echo left; fi"
    );
    let files = [reading_guest(3), TempFile::new(b""), TempFile::new(b"")];
    let paths = files
        .each_ref()
        .map(|file| file.path().display().to_string());
    let Some(output) = with_tracefs(&script, &paths.each_ref().map(String::as_str)) else {
        return;
    };
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for part in ["no events of the kernel", "mini-vmm-trace-", "left"] {
        assert!(!said.contains(part), "{part:?} is in {said}");
    }
    let [_, out, html] = files;
    let lines = lines(out.path());
    in_order(&lines);
    assert_eq!(summary(&lines)["exits"]["by_reason"]["mmio_read"], 3);
    assert!(lines.len() > 50);
    // Other guests of the host may have interrupts before.
    let signal = lines
        .iter()
        .position(|line| line["kind"] == "eventfd" && line["call"] == "write");
    let mut since = lines[signal.expect("no signal is shown")..].iter();
    let pin = since.find(|line| line["event"] == "kvm_set_irq" && line["fields"]["level"] == 1);
    assert!(
        pin.is_some(),
        "the interrupt's way through KVM is not shown"
    );
    // The tracer's own times have the two stops of ptrace in them.
    let (plain, _) = guest(reading_guest(3), &[], 0);
    let call = "KVM_CHECK_EXTENSION";
    let (with, without) = (median(&lines, call), median(&plain, call));
    assert!(
        2 * with < without,
        "{with} ns by the kernel, {without} ns by the tracer"
    );
    let page = std::fs::read_to_string(html.path()).unwrap();
    assert!(page.contains("<h3>Events of the kernel</h3>"), "{page}");
}

#[test]
fn a_tracer_that_is_held_up_changes_no_order() {
    if !kvm() {
        return;
    }
    // Five times, the tracer stands still for longer than calls are waited for.
    let script = format!(
        "'{PROGRAM}' trace --kernel --json -o \"$2\" -- \
         '{PROGRAM}' --kernel \"$1\" --memory 64M & tracer=$!\n\
         for i in 1 2 3 4 5; do\n\
         sleep 0.1; kill -STOP $tracer || break; sleep 0.15; kill -CONT $tracer; done\n\
         wait $tracer"
    );
    let files = [reading_guest(10_000), TempFile::new(b"")];
    let paths = files
        .each_ref()
        .map(|file| file.path().display().to_string());
    let Some(output) = with_tracefs(&script, &paths.each_ref().map(String::as_str)) else {
        return;
    };
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let lines = lines(files[1].path());
    in_order(&lines);
    assert_eq!(summary(&lines)["exits"]["by_reason"]["mmio_read"], 10_000);
    assert!(said.contains("ab"), "{said}");
}

#[test]
fn the_next_run_removes_what_a_killed_tracer_has_left() {
    let script = format!(
        "'{PROGRAM}' trace --kernel -o /dev/null -- sleep 100 & killed=$!\n\
         while kill -0 $killed; do\n\
         [ -e {TRACEFS}/instances/mini-vmm-trace-$killed-* ] && break\n\
         sleep 0.05; done\n\
         kill -KILL $killed; wait $killed\n\
         [ -e {TRACEFS}/instances/mini-vmm-trace-$killed-* ] && echo there\n\
         '{PROGRAM}' trace --kernel -c -o /dev/null -- true\n\
         if ls {TRACEFS}/instances | grep -- -$killed-; then echo left; fi"
    );
    let Some(output) = with_tracefs(&script, &[]) else {
        return;
    };
    let said = said(&output);
    let words = said
        .lines()
        .filter(|line| matches!(*line, "there" | "left"));
    assert_eq!(words.collect::<Vec<_>>(), ["there"], "{said}");
}

#[test]
fn a_signal_while_the_tracer_starts_ends_the_command_and_leaves_nothing() {
    // The events are not set up yet when the instance's folder appears.
    let script = format!(
        "'{PROGRAM}' trace --kernel -c -o /dev/null -- sleep 100 & tracer=$!\n\
         while kill -0 $tracer; do\n\
         [ -e {TRACEFS}/instances/mini-vmm-trace-$tracer-* ] && break\n\
         done\n\
         kill -TERM $tracer; wait $tracer; echo status $?\n\
         if ls {TRACEFS}/instances | grep -- -$tracer-; then echo left; fi"
    );
    let Some(output) = with_tracefs(&script, &[]) else {
        return;
    };
    let said = said(&output);
    let words = said
        .lines()
        .filter(|line| line.starts_with("status ") || *line == "left");
    assert_eq!(words.collect::<Vec<_>>(), ["status 143"], "{said}");
}

#[test]
fn without_tracefs_a_sentence_says_so_and_the_rest_works() {
    // An empty folder covers both folders of tracefs.
    let script = format!("exec '{PROGRAM}' trace --kernel -- true");
    let Some(output) = privileged("mount -t tmpfs none /sys/kernel", &script, &[]) else {
        return;
    };
    let said = said(&output);
    for part in [
        "no events of the kernel are shown: there is no tracefs",
        "hint: mount -t tracefs tracefs /sys/kernel/tracing",
        " executes /",
        "    calls   errors",
    ] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
}
