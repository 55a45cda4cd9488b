//! `--kernel`: events of the kernel's own. They need root, and tracefs in a mount namespace of the
//! test's own.

use std::fs;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::run::lines;
use crate::common::elf::TempFile;
use crate::process::{PROGRAM, kernel};
use crate::{kvm, skipped};

const TRACEFS: &str = "/sys/kernel/tracing";

/// Runs shell with a tracefs of its own. `None` if there can be none here.
fn with_tracefs(script: &str, arguments: &[&str]) -> Option<Output> {
    let mount = format!("mount -t tracefs tracefs {TRACEFS} || exit 77\n{script}");
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &mount, "sh"])
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.code() == Some(77) => None,
        Ok(output) => Some(output),
        Err(_) => None,
    }
}

fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{err}")
}

/// Whether a trace has events, or says in a sentence why not.
fn is_shown(said: &str) -> bool {
    !said.contains("no events of the kernel are shown")
}

#[test]
fn calls_have_the_kernels_times_and_the_instance_goes() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.repeat(3, |g| {
            g.load32(0xc000_0000);
        });
        g.print("ab").power_off();
    });
    let (out, html) = (TempFile::new(b""), TempFile::new(b""));
    let [guest_path, out_path, html_path] =
        [guest.path(), out.path(), html.path()].map(|path| path.display().to_string());
    let script = format!(
        "'{PROGRAM}' trace --kernel --json -o \"$2\" --html \"$3\" -- \
         '{PROGRAM}' --kernel \"$1\" --memory 64M & tracer=$!\n\
         wait $tracer || exit\n\
         if ls {TRACEFS}/instances | grep -- -$tracer-; then echo left; fi"
    );
    let arguments = [guest_path.as_str(), &out_path, &html_path];
    let Some(output) = with_tracefs(&script, &arguments) else {
        return skipped("no tracefs can be mounted");
    };
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    if !is_shown(&said) {
        return skipped(&said);
    }
    assert!(
        !said.contains("mini-vmm-trace-"),
        "an instance is left: {said}"
    );
    let lines = lines(out.path());
    let (summary, lines) = lines.split_last().unwrap();
    assert_eq!(summary["kernel"]["lost"], 0, "{summary}");
    assert_eq!(summary["exits"]["by_reason"]["mmio_read"], 3);
    // Short calls are in the order of the kernel's times: the tracer shows them when it can be no
    // other's turn. Times of a thread never overlap.
    let of = |line: &Value, key: &str| line[key].as_u64().unwrap();
    let begins = lines.iter().filter(|line| of(line, "took_ns") < 20_000_000);
    let begins: Vec<u64> = begins.map(|line| of(line, "time_ns")).collect();
    assert!(begins.len() > 50 && begins.is_sorted(), "{begins:?}");
    // The tracer's own times have at least the two stops of ptrace in them.
    let mut took: Vec<u64> = lines
        .iter()
        .filter(|line| line["call"] == "KVM_CHECK_EXTENSION")
        .map(|line| of(line, "took_ns"))
        .collect();
    took.sort_unstable();
    assert!(
        took[took.len() / 2] < 5_000,
        "not the kernel's times: {took:?}"
    );
    let page = fs::read_to_string(html.path()).unwrap();
    assert!(page.contains("<h3>Events of the kernel</h3>"), "{page}");
}

#[test]
fn the_next_run_removes_what_a_killed_tracer_has_left() {
    let script = format!(
        "'{PROGRAM}' trace --kernel -o /dev/null -- sleep 100 & killed=$!\n\
         for i in $(seq 100); do\n\
         [ -e {TRACEFS}/instances/mini-vmm-trace-$killed-* ] && echo there && break\n\
         kill -0 $killed || break; sleep 0.1; done\n\
         kill -KILL $killed; wait $killed\n\
         '{PROGRAM}' trace --kernel -c -o /dev/null -- true\n\
         if ls {TRACEFS}/instances | grep -- -$killed-; then echo left; fi"
    );
    let Some(output) = with_tracefs(&script, &[]) else {
        return skipped("no tracefs can be mounted");
    };
    let said = said(&output);
    if !is_shown(&said) {
        return skipped(&said);
    }
    let words = said
        .lines()
        .filter(|line| matches!(*line, "there" | "left"));
    assert_eq!(words.collect::<Vec<_>>(), ["there"], "{said}");
}

#[test]
fn without_tracefs_a_sentence_says_so_and_the_rest_works() {
    // An empty folder covers both folders of tracefs.
    let script =
        format!("mount -t tmpfs none /sys/kernel && exec '{PROGRAM}' trace --kernel -- true");
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        return skipped("no mount namespace can be made");
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
