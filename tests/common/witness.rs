//! Calls by the kernel's own record of them (raw_syscalls of tracefs), which is no part of the
//! tracer: what a traced and an untraced program have in common.

use std::collections::BTreeMap;

/// A shell function: `witnessed OUT COMMAND...` runs a command, while the kernel writes down the
/// calls of the command, and of all its threads and children. `$w` is an instance of tracefs.
pub const WITNESSED: &str = "\
echo 8192 >$w/buffer_size_kb
echo 1 >$w/options/event-fork
witnessed() {
	out=$1
	shift
	echo >$w/trace
	# Without a process in the list, the calls of the whole host are written down.
	sh -c 'echo started $$ >&2; echo $$ >$0/set_event_pid &&
		echo 1 >$0/events/raw_syscalls/sys_enter/enable && exec \"$@\"' $w \"$@\" || exit
	# The kernel takes those who have ended off the list. A child may outlive the command.
	for _ in $(seq 50); do
		[ -n \"$(cat $w/set_event_pid)\" ] || break
		sleep 0.1
	done
	echo 0 >$w/events/raw_syscalls/sys_enter/enable
	echo >$w/set_event_pid
	cat $w/per_cpu/cpu*/stats | grep -v '^overrun: 0$' | grep '^overrun' || :
	grep 'sys_enter: NR' $w/trace | sed 's/ *\\[.*sys_enter: NR/ NR/' >$out
}
";

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
/// Memory that the C library keeps for a thread if two allocate at once: reserved by mmap(2)
/// without access, and opened by mprotect(2).
const MMAP: u64 = 9;
const MPROTECT: u64 = 10;
/// prctl(2). A run that is traced stays dumpable (docs/security.md).
const PRCTL: u64 = 157;
const SET_DUMPABLE: &str = "4";
const EPOLL: [u64; 3] = [232, 281, 441];
const KVM_RUN: &str = "ae80";

/// A call.
struct Made<'a> {
    /// The thread's name, if the kernel still knows it, and number.
    task: &'a str,
    number: u64,
    /// The first three arguments, in hexadecimal.
    arguments: [&'a str; 3],
}

fn made(line: &str) -> Option<Made<'_>> {
    let (task, call) = line.rsplit_once(" NR ")?;
    let (number, arguments) = call.split_once(" (")?;
    let mut arguments = arguments.split(", ");
    Some(Made {
        task: task.trim(),
        number: number.parse().ok()?,
        arguments: [arguments.next()?, arguments.next()?, arguments.next()?],
    })
}

/// Calls of the program itself by number, and by the request of an ioctl. Apart are those whose
/// number time or addresses decide: KVM_RUN, futex, epoll, the console's, sleeping between two
/// looks, kicks of a vCPU, the ends of threads, the C library's memory for threads, and what hides
/// the memory of a run that is not traced.
/// `tracer` is the number of a process that is left out.
pub fn counts(text: &str, tracer: Option<&str>) -> BTreeMap<String, u64> {
    let tracer = tracer.map(|number| format!("-{number}"));
    let mut calls: BTreeMap<&str, Vec<Made<'_>>> = BTreeMap::new();
    for line in text.lines() {
        let call = made(line).unwrap_or_else(|| panic!("a line of raw_syscalls: {line}"));
        if tracer
            .as_ref()
            .is_some_and(|tracer| call.task.ends_with(tracer))
        {
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
                (FUTEX | NANOSLEEP | SIGRETURN | MPROTECT, _)
                | (MMAP, [_, _, "0"])
                | (IOCTL, [_, KVM_RUN, _])
                | (PRCTL, [SET_DUMPABLE, ..])
                | (WRITE, ["1" | "3", ..]) => {
                    // 3 is the console's copy of standard output.
                    continue;
                }
                (number, _) if EPOLL.contains(&number) || ENDS.contains(&number) => continue,
                (IOCTL, [_, request, _]) => format!("ioctl {request}"),
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

/// What two runs have not called equally often.
pub fn difference(a: &BTreeMap<String, u64>, b: &BTreeMap<String, u64>) -> Vec<String> {
    let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
    let of = |counts: &BTreeMap<String, u64>, key| counts.get(key).copied().unwrap_or(0);
    let counts = keys.map(|key| (key, of(a, key), of(b, key)));
    let differ = counts.filter(|(_, a, b)| a != b);
    differ
        .map(|(key, a, b)| format!("{key}: {a} and {b}"))
        .collect()
}
