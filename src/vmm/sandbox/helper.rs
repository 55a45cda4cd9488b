//! The processes that open and bind devices for the VMM: what they may not do.
//!
//! They write to sysfs and load modules, by modprobe and whatever its configuration names. A list
//! of what they may do would therefore be a list of what those programs do. So there is a list of
//! what they may not do, and of the capabilities that stay. A refused call fails with EPERM and
//! does not end the process: a process that has ended gives no device back.

use std::io;

use libc::sock_filter;

use super::filter::{
    ARCHITECTURE, ARGUMENTS, END, IF_ANY_BIT, IF_AT_LEAST, IF_EQUAL, LOAD, NAMESPACES, NUMBER,
    X86_64, step,
};
use super::mode::Mode;
use super::thread;

/// The capabilities that stay, by their numbers (linux/capability.h), with what they are for.
pub const KEPT: [(u32, &str); 9] = [
    (0, "CHOWN: nodes are given to a user"),
    (1, "DAC_OVERRIDE: nodes that a user has"),
    (2, "DAC_READ_SEARCH: files of other users in /proc"),
    (3, "FOWNER: modes of nodes that a user has"),
    (5, "KILL: a program that takes too long"),
    (16, "SYS_MODULE: drivers are loaded"),
    (17, "SYS_RAWIO: groups without an IOMMU"),
    (19, "SYS_PTRACE: which processes have a device"),
    (
        21,
        "SYS_ADMIN: the configuration space beyond its first 64 bytes",
    ),
];

/// The calls that are refused whatever their arguments are.
pub const REFUSED: [i64; 65] = [
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Large interfaces of the kernel that they do not use.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_setup,
    libc::SYS_modify_ldt,
    libc::SYS_personality,
    libc::SYS_fanotify_init,
    libc::SYS_open_by_handle_at,
    // Networks. bind stays: getifaddrs(3), which tells whether an interface is in use, binds its
    // socket.
    libc::SYS_connect,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    // File systems and namespaces.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mknod,
    libc::SYS_mknodat,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_acct,
    // The whole machine.
    libc::SYS_reboot,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_delete_module,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_vhangup,
    libc::SYS_syslog,
    // Other users.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
];

/// What a refused call returns.
const NO: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
/// What clone3 returns, whose flags a filter cannot see.
const NOT_THERE: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
/// The numbers of the calls of x32 (x32.rst) have this bit.
const X32: u32 = 1 << 30;

/// The instructions before the list, and those after it.
const BEFORE: usize = 5;
const AFTER: usize = 17;

/// The filter.
static PROGRAM: [sock_filter; BEFORE + REFUSED.len() + AFTER] = {
    let mut program = [step(END, 0, 0, NO); BEFORE + REFUSED.len() + AFTER];
    // The second instruction from the end refuses.
    let refuse = program.len() - 2;
    program[0] = step(LOAD, 0, 0, ARCHITECTURE);
    program[1] = step(IF_EQUAL, 1, 0, X86_64);
    program[2] = step(END, 0, 0, NO);
    program[3] = step(LOAD, 0, 0, NUMBER);
    program[4] = step(IF_AT_LEAST, (refuse - 5) as u8, 0, X32);
    let mut index = 0;
    while index < REFUSED.len() {
        let at = BEFORE + index;
        program[at] = step(IF_EQUAL, (refuse - at - 1) as u8, 0, REFUSED[index] as u32);
        index += 1;
    }
    let rest = [
        step(IF_EQUAL, 15, 0, libc::SYS_clone3 as u32),
        step(IF_EQUAL, 0, 2, libc::SYS_clone as u32),
        step(LOAD, 0, 0, ARGUMENTS),
        step(IF_ANY_BIT, 11, 10, NAMESPACES as u32),
        step(IF_EQUAL, 0, 5, libc::SYS_socket as u32),
        step(LOAD, 0, 0, ARGUMENTS),
        step(IF_EQUAL, 7, 0, libc::AF_UNIX as u32),
        // The addresses of network interfaces (rtnetlink(7)). Without CAP_NET_ADMIN such a socket
        // changes nothing.
        step(IF_EQUAL, 0, 7, libc::AF_NETLINK as u32),
        step(LOAD, 0, 0, ARGUMENTS + 16),
        step(IF_EQUAL, 4, 5, libc::NETLINK_ROUTE as u32),
        // Words that a terminal takes for what its user typed (ioctl_console(2)).
        step(IF_EQUAL, 0, 3, libc::SYS_ioctl as u32),
        step(LOAD, 0, 0, ARGUMENTS + 8),
        step(IF_EQUAL, 2, 0, libc::TIOCSTI as u32),
        step(IF_EQUAL, 1, 0, libc::TIOCLINUX as u32),
        step(END, 0, 0, libc::SECCOMP_RET_ALLOW),
        step(END, 0, 0, NO),
        step(END, 0, 0, NOT_THERE),
    ];
    index = 0;
    while index < AFTER {
        program[BEFORE + REFUSED.len() + index] = rest[index];
        index += 1;
    }
    program
};

/// Confines this process, if [`super::begin`] has begun that with [`Mode::On`]. To be called while
/// the process has one thread, by one that was forked to work for the VMM.
///
/// # Errors
/// The errno of a call that confines the process.
pub fn enter_helper() -> io::Result<()> {
    if Mode::current() != Mode::On {
        return Ok(());
    }
    let kept = KEPT.iter().fold(0, |set, (number, _)| set | 1 << number);
    thread::limit_capabilities(kept)?;
    thread::install(&PROGRAM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::interpret::{Data, run};
    use crate::sandbox::names;

    const YES: u32 = libc::SECCOMP_RET_ALLOW;

    #[test]
    fn what_is_listed_is_refused_and_nothing_else() {
        for number in 0..600 {
            let found = run(&PROGRAM, &Data::new(number, [u64::from(u32::MAX); 6]));
            let by_argument = [libc::SYS_clone, libc::SYS_socket];
            let wanted = match number {
                libc::SYS_clone3 => NOT_THERE,
                _ if REFUSED.contains(&number) || by_argument.contains(&number) => NO,
                _ => YES,
            };
            assert_eq!(found, wanted, "{:?}", names::name(number));
            let x32 = Data::new(number | 1 << 30, [0; 6]);
            assert_eq!(run(&PROGRAM, &x32), NO);
        }
        let mut other = Data::new(libc::SYS_read, [0; 6]);
        other.architecture = 0x4000_0003;
        assert_eq!(run(&PROGRAM, &other), NO);
    }

    #[test]
    fn some_are_refused_by_their_arguments() {
        let with = |number, first: i32, second: u64| {
            let data = Data::new(number, [first as u64, second, 0, 0, 0, 0]);
            run(&PROGRAM, &data)
        };
        assert_eq!(with(libc::SYS_clone, libc::SIGCHLD, 0), YES);
        assert_eq!(
            with(libc::SYS_clone, libc::CLONE_VM | libc::CLONE_THREAD, 0),
            YES
        );
        for namespace in (0..32)
            .map(|bit| 1 << bit)
            .filter(|bit| NAMESPACES & bit != 0)
        {
            assert_eq!(with(libc::SYS_clone, namespace | libc::SIGCHLD, 0), NO);
        }
        assert_eq!(with(libc::SYS_socket, libc::AF_UNIX, 0), YES);
        for (protocol, wanted) in [
            (libc::NETLINK_ROUTE, YES),
            (libc::NETLINK_AUDIT, NO),
            (libc::NETLINK_GENERIC, NO),
        ] {
            let arguments = [libc::AF_NETLINK, libc::SOCK_RAW, protocol, 0, 0, 0];
            let data = Data::new(libc::SYS_socket, arguments.map(|word| word as u64));
            assert_eq!(run(&PROGRAM, &data), wanted);
        }
        for family in [libc::AF_INET, libc::AF_INET6, libc::AF_PACKET] {
            assert_eq!(with(libc::SYS_socket, family, 0), NO);
        }
        for request in [libc::TIOCSTI, libc::TIOCLINUX, libc::TIOCSTI | 1 << 32] {
            assert_eq!(with(libc::SYS_ioctl, 0, request), NO);
        }
        assert_eq!(with(libc::SYS_ioctl, 0, libc::TCGETS), YES);
    }
}
