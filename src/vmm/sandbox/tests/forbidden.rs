//! Each kind of thread with each forbidden call, in a process of its own. A pair counts only if the
//! call without the sandbox is not refused by a filter.

use super::{call, child, confine, map, text};
use crate::sandbox::{Kind, Mode};

/// A forbidden call: its name in the message, and the call.
type Forbidden = (&'static str, fn() -> i64);

fn clone(flags: i32) -> i64 {
    // The new process, if there is one, ends at once.
    match call(libc::SYS_clone, [i64::from(flags), 0, 0, 0, 0]) {
        // SAFETY: the child ends.
        0 => unsafe { libc::_exit(0) },
        pid => pid,
    }
}

const FORBIDDEN: &[Forbidden] = &[
    ("openat", || {
        let flags = libc::O_RDWR | libc::O_CREAT;
        let at = i64::from(libc::AT_FDCWD);
        call(
            libc::SYS_openat,
            [at, text(c"/dev/null"), flags.into(), 0, 0],
        )
    }),
    ("open", || {
        call(libc::SYS_open, [text(c"/dev/null"), 0, 0, 0, 0])
    }),
    ("openat2", || call(libc::SYS_openat2, [-1, 0, 0, 0, 0])),
    ("socket 2", || {
        let (family, kind) = (libc::AF_INET, libc::SOCK_STREAM);
        call(libc::SYS_socket, [family.into(), kind.into(), 0, 0, 0])
    }),
    ("connect", || call(libc::SYS_connect, [-1, 0, 0, 0, 0])),
    ("execve", || {
        call(libc::SYS_execve, [text(c"/nowhere"), 0, 0, 0, 0])
    }),
    ("execveat", || {
        call(libc::SYS_execveat, [-1, text(c"nowhere"), 0, 0, 0])
    }),
    ("ptrace", || {
        call(
            libc::SYS_ptrace,
            [libc::PTRACE_ATTACH.into(), i64::from(i32::MAX), 0, 0, 0],
        )
    }),
    ("keyctl", || call(libc::SYS_keyctl, [99, 0, 0, 0, 0])),
    ("add_key", || call(libc::SYS_add_key, [0; 5])),
    ("io_uring_setup", || {
        call(libc::SYS_io_uring_setup, [1, 0, 0, 0, 0])
    }),
    ("io_uring_enter", || {
        call(libc::SYS_io_uring_enter, [-1, 0, 0, 0, 0])
    }),
    ("clone", || clone(libc::SIGCHLD)),
    ("clone", || clone(libc::CLONE_NEWUSER | libc::SIGCHLD)),
    ("clone", || clone(libc::CLONE_NEWNET | libc::SIGCHLD)),
    ("fork", || match call(libc::SYS_fork, [0; 5]) {
        // SAFETY: the child ends.
        0 => unsafe { libc::_exit(0) },
        pid => pid,
    }),
    ("unshare", || {
        call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0, 0])
    }),
    ("setns", || call(libc::SYS_setns, [-1, 0, 0, 0, 0])),
    ("mmap", || map(libc::PROT_READ | libc::PROT_EXEC)),
    ("mprotect", || {
        let page = map(libc::PROT_READ);
        call(
            libc::SYS_mprotect,
            [page, 4096, libc::PROT_EXEC.into(), 0, 0],
        )
    }),
    ("pkey_mprotect", || {
        call(libc::SYS_pkey_mprotect, [0, 0, 4, -1, 0])
    }),
    ("personality", || {
        call(libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0])
    }),
    ("process_vm_writev", || {
        call(libc::SYS_process_vm_writev, [1, 0, 0, 0, 0])
    }),
    ("process_vm_readv", || {
        call(libc::SYS_process_vm_readv, [1, 0, 0, 0, 0])
    }),
    ("pidfd_getfd", || {
        call(libc::SYS_pidfd_getfd, [-1, 0, 0, 0, 0])
    }),
    ("kill", || {
        call(libc::SYS_kill, [i64::from(i32::MAX), 0, 0, 0, 0])
    }),
    ("tgkill", || call(libc::SYS_tgkill, [1, 1, 0, 0, 0])),
    // Another process's limit, and a new one.
    ("prlimit64", || {
        call(libc::SYS_prlimit64, [i64::from(i32::MAX), 7, 0, 0, 0])
    }),
    ("prlimit64", || call(libc::SYS_prlimit64, [0, 7, 1, 0, 0])),
    ("sched_setaffinity", || {
        call(
            libc::SYS_sched_setaffinity,
            [i64::from(i32::MAX), 0, 0, 0, 0],
        )
    }),
    ("bpf", || call(libc::SYS_bpf, [99, 0, 0, 0, 0])),
    ("mount", || call(libc::SYS_mount, [0; 5])),
    ("memfd_create", || {
        call(libc::SYS_memfd_create, [text(c"x"), 0, 0, 0, 0])
    }),
    // TIOCSTI types for the user, KVM_CREATE_VM makes another guest, FIGETBSZ is of a file system.
    ("ioctl 0x5412", || {
        call(libc::SYS_ioctl, [-1, 0x5412, 0, 0, 0])
    }),
    ("ioctl 0xae01", || {
        call(libc::SYS_ioctl, [-1, 0xae01, 0, 0, 0])
    }),
    ("ioctl 0x2", || call(libc::SYS_ioctl, [-1, 2, 0, 0, 0])),
    // The kernel looks at the low 32 bits, which are those of TIOCSTI.
    ("ioctl 0x5412", || {
        call(libc::SYS_ioctl, [-1, 0x1_0000_5412, 0, 0, 0])
    }),
    ("fcntl 8", || {
        call(libc::SYS_fcntl, [-1, libc::F_SETOWN.into(), 0, 0, 0])
    }),
    ("prctl 22", || call(libc::SYS_prctl, [22, 99, 0, 0, 0])),
];

#[test]
fn every_kind_of_thread_is_refused_every_forbidden_call() {
    for (name, make) in FORBIDDEN {
        // Without the sandbox, the kernel answers, and no filter ends the process.
        let (status, said) = child(|| {
            confine(Mode::Off, Kind::Vcpu);
            make();
        });
        assert_eq!(
            (status, said.as_str()),
            (Some(0), ""),
            "{name} without the sandbox"
        );
        for kind in Kind::ALL {
            let (status, said) = child(|| {
                confine(Mode::On, kind);
                make();
            });
            let of = kind.name();
            assert_eq!(status, Some(1), "{name} of {of}: {said}");
            let wanted = format!("refuses the call {name} of a thread of kind {of},");
            assert!(said.contains(&wanted), "{wanted}: {said}");
            assert!(
                said.lines().count() == 2 && said.contains("\nhint: "),
                "{said}"
            );
        }
    }
}
