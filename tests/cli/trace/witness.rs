//! The traced program makes the same calls as the untraced one. The witness is the kernel's own
//! record of calls (raw_syscalls of tracefs), which is no part of the tracer.

use std::collections::BTreeMap;

use super::kernel::{TRACEFS, reading_guest, said, with_tracefs};
use crate::common::elf::TempFile;
use crate::kvm;
use crate::process::PROGRAM;

/// Numbers of system calls (asm/unistd_64.h).
const WRITE: u64 = 1;
const IOCTL: u64 = 16;
const EXECVE: u64 = 59;
const FUTEX: u64 = 202;
const NANOSLEEP: u64 = 230;
/// A kick of a vCPU, which is repeated until the vCPU has left the guest: tgkill(2), between two of
/// rt_sigprocmask(2) and with getpid(2) in the C library; and the return from the signal's handler.
const TGKILL: u64 = 234;
const SIGPROCMASK: u64 = 14;
const GETPID: u64 = 39;
const SIGRETURN: u64 = 15;
/// The end of a thread, which the end of the process may overtake: sigaltstack(2), munmap(2),
/// madvise(2), rt_sigprocmask(2), exit(2). The C library also gives a part of a mapping back by
/// munmap(2) if the mapping is not where the library wants it.
const ENDS: [u64; 5] = [131, 11, 28, SIGPROCMASK, 60];
const EPOLL: [u64; 3] = [232, 281, 441];
const KVM_RUN: &str = "ae80";

/// Runs a program three times, while the kernel writes the calls of the program down, and of all
/// threads and children: untraced, traced, and untraced again. The instance goes in any case.
const SCRIPT: &str = "\
w=$TRACEFS/instances/mini-vmm-witness-$$
mkdir $w || exit
trap 'rmdir $w' EXIT
echo 8192 >$w/buffer_size_kb
echo 1 >$w/options/event-fork
witnessed() {
	out=$1
	shift
	echo >$w/trace
	# Without a process in the list, the calls of the whole host are written down.
	sh -c 'echo started $$ >&2; echo $$ >$0/set_event_pid &&
		echo 1 >$0/events/raw_syscalls/sys_enter/enable && exec \"$@\"' $w \"$@\" || exit
	echo 0 >$w/events/raw_syscalls/sys_enter/enable
	echo >$w/set_event_pid
	cat $w/per_cpu/cpu*/stats | grep -v '^overrun: 0$' | grep '^overrun'
	grep 'sys_enter: NR' $w/trace | sed 's/ *\\[.*sys_enter: NR/ NR/' >$out
}
witnessed \"$2\" \"$PROGRAM\" --kernel \"$1\" --memory 64M
witnessed \"$3\" \"$PROGRAM-trace\" -o /dev/null -- \"$PROGRAM\" --kernel \"$1\" --memory 64M
witnessed \"$4\" \"$PROGRAM\" --kernel \"$1\" --memory 64M
";

#[test]
fn tracing_changes_no_call() {
    if !kvm() {
        return;
    }
    let mut differences = Vec::new();
    // A process may have made a call less when it ends: another three runs tell that from a tracer
    // that changes calls.
    for _ in 0..3 {
        let Some([plain, traced, again]) = three_runs() else {
            return;
        };
        assert!(
            plain.len() > 40 && plain.values().sum::<u64>() > 200,
            "{plain:?}"
        );
        // Two untraced runs show that the comparison is fair.
        let untraced = difference(&plain, &again);
        let by_tracing = difference(&plain, &traced);
        if untraced.is_empty() && by_tracing.is_empty() {
            return;
        }
        differences.push((untraced, by_tracing));
    }
    panic!("between untraced runs, and by tracing, in three tries: {differences:?}");
}

/// The calls of an untraced run, of a traced run, and of an untraced run again.
fn three_runs() -> Option<[BTreeMap<String, u64>; 3]> {
    let guest = reading_guest(100);
    let out = [(); 3].map(|()| TempFile::new(b""));
    let mut paths = vec![guest.path().display().to_string()];
    paths.extend(out.iter().map(|file| file.path().display().to_string()));
    let script = format!("TRACEFS={TRACEFS}\nPROGRAM='{PROGRAM}'\n{SCRIPT}");
    let arguments: Vec<_> = paths.iter().map(String::as_str).collect();
    let output = with_tracefs(&script, &arguments)?;
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        !said.contains("overrun"),
        "the witness has lost calls: {said}"
    );
    // The second of the three.
    let started = said.split("started ").nth(2).unwrap_or_default();
    let tracer = started.split_whitespace().next().expect("a number");
    Some(out.map(|file| counts(&file, tracer)))
}

/// A call.
struct Made<'a> {
    /// The thread's name, if the kernel still knows it, and number.
    task: &'a str,
    number: u64,
    /// The first and the second argument, in hexadecimal.
    arguments: [&'a str; 2],
}

fn made(line: &str) -> Option<Made<'_>> {
    let (task, call) = line.rsplit_once(" NR ")?;
    let (number, arguments) = call.split_once(" (")?;
    let mut arguments = arguments.split(", ");
    Some(Made {
        task: task.trim(),
        number: number.parse().ok()?,
        arguments: [arguments.next()?, arguments.next()?],
    })
}

/// Calls of the program itself by number, and by the request of an ioctl. Apart are those whose
/// number time or addresses decide: KVM_RUN, futex, epoll, the console's, sleeping between two
/// looks, kicks of a vCPU, and the ends of threads.
fn counts(file: &TempFile, tracer: &str) -> BTreeMap<String, u64> {
    let tracer = format!("-{tracer}");
    let text = std::fs::read_to_string(file.path()).unwrap();
    let mut calls: BTreeMap<&str, Vec<Made<'_>>> = BTreeMap::new();
    for line in text.lines() {
        let call = made(line).unwrap_or_else(|| panic!("a line of raw_syscalls: {line}"));
        if call.task.ends_with(&tracer) {
            continue;
        }
        let of_task = calls.entry(call.task).or_default();
        match call.number {
            // What was before is of the shell, or of the tracer.
            EXECVE => of_task.clear(),
            _ => of_task.push(call),
        }
    }
    let mut counts = BTreeMap::new();
    for of_task in calls.into_values() {
        for call in of_task {
            let key = match (call.number, call.arguments) {
                (FUTEX | NANOSLEEP | SIGRETURN, _)
                | (IOCTL, [_, KVM_RUN])
                | (WRITE, ["1" | "3", _]) => {
                    // 3 is the console's copy of standard output.
                    continue;
                }
                (number, _) if EPOLL.contains(&number) || ENDS.contains(&number) => continue,
                (IOCTL, [_, request]) => format!("ioctl {request}"),
                (number, _) => format!("call {number}"),
            };
            *counts.entry(key).or_default() += 1;
        }
    }
    let kicks = counts.remove(&format!("call {TGKILL}")).unwrap_or(0);
    if let Some(count) = counts.get_mut(&format!("call {GETPID}")) {
        *count -= kicks.min(*count);
    }
    counts
}

fn difference(a: &BTreeMap<String, u64>, b: &BTreeMap<String, u64>) -> Vec<String> {
    let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
    let of = |counts: &BTreeMap<String, u64>, key| counts.get(key).copied().unwrap_or(0);
    let counts = keys.map(|key| (key, of(a, key), of(b, key)));
    let differ = counts.filter(|(_, a, b)| a != b);
    differ
        .map(|(key, a, b)| format!("{key}: {a} and {b}"))
        .collect()
}
