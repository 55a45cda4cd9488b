//! Confines the calling thread: capabilities, no_new_privs, and its filter.

use std::sync::atomic::{AtomicU32, Ordering};
use std::{io, process};

use libc::sock_filter;

use super::filter;
use super::kind::Kind;
use super::mode::Mode;
use super::refusal;
use crate::sys::CAP_IPC_LOCK;

/// The capabilities that threads keep, by their bits.
static KEPT: AtomicU32 = AtomicU32::new(0);

/// Lets threads keep CAP_IPC_LOCK, to be called before there are any.
pub fn keep_memory_lock() {
    KEPT.store(1 << CAP_IPC_LOCK, Ordering::Relaxed);
}

/// Confines this thread as `kind`, to which it belongs until it ends. A thread calls this before it
/// reads the first byte of a guest or of a client. Ends the process if the kernel refuses.
pub fn enter(kind: Kind) -> Confined {
    let mode = Mode::current();
    if mode == Mode::Off {
        return Confined(kind);
    }
    refusal::set_kind(kind);
    if let Err(e) = confine(kind, mode) {
        refusal::give_up(format_args!(
            "mini-vmm: the sandbox cannot confine a thread of kind {}: {e}\nhint: --sandbox off",
            kind.name()
        ));
    }
    Confined(kind)
}

/// A thread that is confined as a kind, or would be in another mode. It confines the threads that
/// it starts ([`Confined::inherit`]).
#[derive(Clone, Copy, Debug)]
pub struct Confined(Kind);

impl Confined {
    /// Says that this thread, which a thread of the kind has started, is of the same kind. The
    /// filter and the capabilities are inherited (seccomp_filter.rst, capabilities(7)), and cost
    /// nothing.
    pub fn inherit(self) {
        if Mode::current() != Mode::Off {
            refusal::set_kind(self.0);
        }
    }
}

/// Whether this thread may open files of /proc and /sys, for the words of a message.
pub fn may_read_files() -> bool {
    let reads = |kind| matches!(kind, Kind::Main | Kind::Queries | Kind::Changes);
    Mode::current() == Mode::Off || refusal::kind().is_none_or(reads)
}

fn confine(kind: Kind, mode: Mode) -> io::Result<()> {
    if mode == Mode::On {
        drop_capabilities()?;
    }
    let logged = (mode == Mode::Log).then(refusal::logged_calls);
    install(&filter::program(kind, process::id(), logged))
}

/// Adds a filter to this thread.
pub(super) fn install(program: &[sock_filter]) -> io::Result<()> {
    // Without this, only CAP_SYS_ADMIN may add a filter (seccomp(2)).
    no_new_privileges()?;
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_ptr().cast_mut(),
    };
    // Older kernels mitigate Speculative Store Bypass for each thread with a filter
    // (Documentation/admin-guide/hw-vuln/spec.rst), which costs the guest's vCPUs. A thread here
    // runs this program only; the guest has mitigations of its own.
    let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: the kernel copies the program, which lives for the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    })
}

/// No program that this thread, or one that it starts, executes gets more rights (prctl(2),
/// PR_SET_NO_NEW_PRIVS).
pub(super) fn no_new_privileges() -> io::Result<()> {
    // SAFETY: the call passes numbers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())
}

/// `_LINUX_CAPABILITY_VERSION_3` (linux/capability.h), and this thread.
const CAPABILITIES: [u32; 2] = [0x2008_0522, 0];

/// Drops all capabilities of this thread (capabilities(7)), but those that are kept.
fn drop_capabilities() -> io::Result<()> {
    // Effective, permitted, inheritable: the low halves, and then the high ones.
    let kept = KEPT.load(Ordering::Relaxed);
    set_capabilities([kept, kept, 0, 0, 0, 0])
}

/// Drops the capabilities of this thread that are not among `kept`, by their bits.
pub(super) fn limit_capabilities(kept: u32) -> io::Result<()> {
    let mut sets = [0_u32; 6];
    // SAFETY: the header and the sets live for the call.
    check(unsafe { libc::syscall(libc::SYS_capget, CAPABILITIES.as_ptr(), sets.as_mut_ptr()) })?;
    let permitted = sets[1] & kept;
    set_capabilities([sets[0] & kept, permitted, 0, 0, 0, 0])
}

fn set_capabilities(sets: [u32; 6]) -> io::Result<()> {
    // SAFETY: the header and the two sets of 32 bits, three times, live for the call.
    check(unsafe { libc::syscall(libc::SYS_capset, CAPABILITIES.as_ptr(), sets.as_ptr()) })
}

fn check(outcome: i64) -> io::Result<()> {
    match outcome {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
