//! Describes the environment of a run: the machine, the kernel, the programs and their versions.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::names::{PROGRAM, READS};
use crate::plan::Plan;
use crate::subjects::Subjects;

/// Returns the name and the value of each fact. `source` is the source tree of mini-vmm. `qemu` is
/// the QEMU of this machine.
pub fn about(
    plan: &Plan,
    subjects: &Subjects,
    qemu: Option<&Path>,
    source: &Path,
) -> BTreeMap<String, String> {
    let mut about = BTreeMap::new();
    let mut say = |name: &str, value: String| about.insert(name.to_owned(), value);
    say("machine", machine());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    say("kernel", kernel.trim().to_owned());
    say("QEMU", qemu.map_or(String::new(), version));
    let commit = Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .current_dir(source)
        .output();
    say("commit", text(commit));
    let bare_calls = Command::new(&subjects.bare_calls().program)
        .arg("version")
        .output();
    say("bare calls, version", text(bare_calls));
    let ours = subjects.ours();
    let size = fs::metadata(&ours.program).map_or(0, |file| file.len());
    let linked = if ours.is_dynamic() {
        "dynamic"
    } else {
        "static"
    };
    let mib = size as f64 / f64::from(1 << 20);
    say(PROGRAM, format!("{mib:.2} MiB, {linked}"));
    if plan.has(3) {
        say(READS, plan.reads.to_string());
    }
    for peer in subjects.vmms().filter(|subject| subject.is_given()) {
        say(&peer.name, version(&peer.program));
    }
    about
}

/// Returns the current date and time in UTC: 2026-01-31 12:00.
pub fn date() -> String {
    text(
        Command::new("date")
            .args(["-u", "+%Y-%m-%d %H:%M"])
            .output(),
    )
}

fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("an unknown CPU", |(_, model)| model);
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    format!("{cpus} CPUs, {model}")
}

/// Returns the first line of a program's `--version` output.
fn version(program: &Path) -> String {
    let said = text(Command::new(program).arg("--version").output());
    said.lines().next().unwrap_or_default().to_owned()
}

/// Returns a program's standard output without the final newline. The text is empty if the program
/// could not be started.
fn text(output: std::io::Result<std::process::Output>) -> String {
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
