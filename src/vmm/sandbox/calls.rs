//! The system calls of each kind of thread: one table, with why each call is there.
//!
//! A kind's list has the rows that name the kind, and those of each kind that it
//! [starts](super::kind::Kind::starts). What is in no list is refused. clone3 answers ENOSYS
//! instead, because a filter cannot see its flags; the C library then calls clone.
//!
//! Two limits of these lists. A filter sees numbers only, so `read` and `write` are any descriptor
//! that the thread has, and 0x3b71 is two ioctls ([`super::ioctls`]). And a list with `seccomp` can
//! only add filters, which never allow more.

use super::kind::Kind::{self, *};

/// What a call's arguments must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Anything.
    Any,
    /// The request is in the table of [`super::ioctls`].
    Ioctl,
    /// Without PROT_EXEC: no executable pages.
    NotExecutable,
    /// CLONE_VM and CLONE_THREAD, and no flag of a namespace: a thread of this process.
    Thread,
    /// The first argument is one of these.
    First(&'static [i32]),
    /// The second argument is one of these.
    Second(&'static [i32]),
    /// No writing, no creating, no emptying (open(2)).
    ReadOnly,
    /// No creating and no emptying (open(2)).
    Existing,
    /// A signal for this process.
    OwnProcess,
    /// Reading a limit of this process (prlimit(2)).
    OwnLimit,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The call's number.
    pub number: i64,
    /// What its arguments must be.
    pub check: Check,
    /// The kinds of threads.
    pub kinds: &'static [Kind],
    /// Why the call is there.
    pub why: &'static str,
}

/// Every thread.
const ALL: &[Kind] = &Kind::ALL;
/// The threads that start others.
const STARTERS: &[Kind] = &[Main, Vcpu, Coalesced, Memory, Events, Removal, Changes];
/// The threads that work for devices.
const DEVICES: &[Kind] = &[Main, Vcpu, Coalesced, Events, Removal, Changes];
/// The threads that read the host's facts.
const FACTS: &[Kind] = &[Main, Queries, Changes];

macro_rules! calls {
    ($($name:ident $check:expr, $kinds:expr, $why:literal;)+) => {
        /// The table.
        pub const CALLS: &[Call] = &[$(Call {
            number: libc::$name,
            check: $check,
            kinds: $kinds,
            why: $why,
        },)+];
    };
}

calls! {
    // Memory.
    SYS_brk Check::Any, ALL, "the heap";
    SYS_mmap Check::NotExecutable, ALL, "the heap, stacks, BARs";
    SYS_mprotect Check::NotExecutable, ALL, "guard pages of stacks, the heap's end";
    SYS_munmap Check::Any, ALL, "the heap, stacks, BARs";
    SYS_mremap Check::Any, ALL, "large vectors grow";
    SYS_madvise Check::Any, ALL, "stacks of ended threads, RAM";
    SYS_getrandom Check::Any, ALL, "seeds of hash tables";
    // Threads.
    SYS_futex Check::Any, ALL, "locks";
    SYS_sched_yield Check::Any, ALL, "locks of the standard library";
    SYS_gettid Check::Any, ALL, "signals to threads, messages";
    SYS_getpid Check::Any, ALL, "signals to threads";
    SYS_getuid Check::Any, ALL, "whether a client is this user; hints for root or another user";
    SYS_geteuid Check::Any, ALL, "the same";
    SYS_tgkill Check::OwnProcess, ALL, "leaving KVM_RUN, abort";
    SYS_exit Check::Any, ALL, "the thread's end";
    SYS_exit_group Check::Any, ALL, "the process's end";
    SYS_sigaltstack Check::Any, ALL, "the standard library's stack for overflows";
    SYS_rt_sigprocmask Check::Any, ALL, "starting threads, abort";
    SYS_rt_sigreturn Check::Any, ALL, "the end of a signal handler";
    SYS_restart_syscall Check::Any, ALL, "a sleep that a stop has interrupted (restart_syscall(2))";
    SYS_clone Check::Thread, STARTERS, "starting threads";
    SYS_set_robust_list Check::Any, ALL, "a new thread's first calls";
    SYS_rseq Check::Any, ALL, "a new thread's first calls";
    SYS_sched_getaffinity Check::Any, ALL, "a new thread's stack; how many threads populate RAM";
    SYS_sched_setaffinity Check::First(&[0]), &[Vcpu], "--cpus pin=";
    SYS_prctl Check::First(&[libc::PR_SET_NAME, libc::PR_SET_NO_NEW_PRIVS, PR_SET_VMA]), ALL,
        "a new thread's name and filter; names of the C library's maps";
    SYS_seccomp Check::First(&[libc::SECCOMP_SET_MODE_FILTER as i32]), STARTERS,
        "a new thread's filter; filters only add up";
    SYS_capset Check::Any, STARTERS, "a new thread drops its capabilities; nothing adds any";
    // Time.
    SYS_clock_gettime Check::Any, ALL, "the time, where the vDSO does not answer";
    SYS_clock_nanosleep Check::Any, ALL, "sleeping";
    SYS_nanosleep Check::Any, ALL, "sleeping";
    // Descriptors that are open.
    SYS_read Check::Any, ALL, "eventfds, the keyboard, connections";
    SYS_write Check::Any, ALL, "eventfds, the console, the log, connections";
    SYS_writev Check::Any, ALL, "the log, connections";
    SYS_close Check::Any, ALL, "descriptors that are no longer needed";
    SYS_pread64 Check::Any, DEVICES, "registers of devices";
    SYS_pwrite64 Check::Any, DEVICES, "registers of devices";
    SYS_pread64 Check::Any, &[Queries], "registers of devices, for vm.pci";
    SYS_ioctl Check::Ioctl, ALL, "KVM, VFIO, iommufd, the terminal";
    SYS_fcntl Check::Second(&[libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL]),
        ALL, "copies of eventfds and of devices' files";
    SYS_fstat Check::Any, ALL, "what a descriptor is";
    SYS_lseek Check::Any, &[Main, Queries, Changes], "images at a reset, the report, /proc";
    SYS_eventfd2 Check::Any, DEVICES, "an interrupt vector's eventfd";
    SYS_epoll_create1 Check::Any, DEVICES, "the thread of device events starts";
    SYS_epoll_ctl Check::Any, &[Main, Vcpu, Coalesced, Events, Removal, Changes, Api],
        "events of devices and of connections";
    SYS_epoll_wait Check::Any, &[Main, Events, Api], "events";
    SYS_epoll_pwait Check::Any, &[Main, Events, Api], "events";
    SYS_poll Check::Any, ALL, "waiting for an answer of the process that opens devices";
    SYS_ppoll Check::Any, ALL, "waiting for an answer of the process that opens devices";
    // The processes that open and bind devices: a socket pair for each answer.
    SYS_socketpair Check::First(&[libc::AF_UNIX]), DEVICES, "the answer to a request";
    SYS_sendmsg Check::Any, DEVICES, "a request, with descriptors";
    SYS_sendto Check::Any, DEVICES, "a request";
    SYS_recvmsg Check::Any, DEVICES, "an answer, with descriptors";
    SYS_recvfrom Check::Any, DEVICES, "an answer";
    SYS_shutdown Check::Any, DEVICES, "the process that binds devices is asked no more";
    SYS_setsockopt Check::Any, DEVICES, "a limit of the wait for an answer";
    // The socket for requests.
    SYS_accept4 Check::Any, &[Api], "a connection";
    SYS_recvmsg Check::Any, &[Api], "a request, perhaps with a descriptor";
    SYS_recvfrom Check::Any, &[Api], "a request";
    SYS_sendto Check::Any, &[Api], "an answer";
    SYS_sendmsg Check::Any, &[Api], "an answer";
    SYS_getsockopt Check::Any, &[Api], "who asks (SO_PEERCRED)";
    SYS_shutdown Check::Any, &[Api], "the end of a connection";
    SYS_socketpair Check::First(&[libc::AF_UNIX]), &[Api],
        "the process that opens devices sees a request";
    SYS_unlink Check::Any, &[Api, Main], "the socket's file goes at the end";
    SYS_statx Check::Any, &[Api, Main, Queries, Changes], "whether that file is the same still";
    SYS_newfstatat Check::Any, &[Api, Main, Queries, Changes], "as statx";
    // Reading the host's facts, in /sys and /proc.
    SYS_openat Check::ReadOnly, &[Main, Queries], "counters of /proc, devices in /sys";
    SYS_openat Check::Existing, &[Changes],
        "devices in /sys, /dev/iommu and /dev/vfio for an added device; Landlock confines which";
    SYS_readlink Check::Any, FACTS, "devices in /sys";
    SYS_readlinkat Check::Any, FACTS, "devices in /sys";
    SYS_getdents64 Check::Any, FACTS, "devices in /sys";
    SYS_statfs Check::Any, FACTS, "what is mounted in /dev";
    SYS_uname Check::Any, FACTS, "the kernel's release";
    SYS_access Check::Any, FACTS, "whether a node may be opened";
    SYS_faccessat Check::Any, FACTS, "whether a node may be opened";
    SYS_faccessat2 Check::Any, FACTS, "whether a node may be opened";
    SYS_prlimit64 Check::OwnLimit, FACTS, "the limit on locked memory";
    SYS_sysinfo Check::Any, FACTS, "the host's memory";
    SYS_getcwd Check::Any, FACTS, "absolute paths";
    // The main thread alone.
    SYS_ftruncate Check::Any, &[Main], "the report's file begins anew";
    SYS_socket Check::First(&[libc::AF_UNIX]), &[Main], "READY=1 to the service manager";
    SYS_rt_sigaction Check::Any, &[Main], "the first vCPU's signal";
    SYS_getpgrp Check::Any, &[Main], "whether the terminal is this job's";
    SYS_wait4 Check::Any, &[Main], "the ends of the processes that open and bind devices";
    SYS_pidfd_open Check::Any, &[Main], "the ends of the processes that open and bind devices";
}

/// Names an anonymous map (prctl(2)); the C library names its own.
const PR_SET_VMA: i32 = 0x5356_4d41;

/// The rows of a kind's list.
#[cfg(test)]
pub fn list(kind: Kind) -> impl Iterator<Item = &'static Call> {
    CALLS.iter().filter(move |call| kind.has(call.kinds))
}
