//! ptrace(2). A thread is traced by PTRACE_SEIZE, so that group-stops can be told from signals, and
//! with PTRACE_O_EXITKILL, so that no traced program outlives its tracer.

use std::io;
use std::mem::{self, size_of};

use libc::{c_void, pid_t};

use crate::sys::seccomp::{DATA, X86_64};

/// Set in numbers of the x32 ABI, whose arguments differ.
const X32: u64 = 0x4000_0000;

const OPTIONS: libc::c_int = libc::PTRACE_O_EXITKILL
    | libc::PTRACE_O_TRACESYSGOOD
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACEEXEC
    | libc::PTRACE_O_TRACESECCOMP;

/// Offsets of registers in `struct user` (sys/user.h): a call's first argument, and its number.
const RDI: usize = 14 * 8;
const ORIG_RAX: usize = 15 * 8;

/// Where in a system call a thread has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallStop {
    /// Before the call.
    Entry(u64, [u64; 6]),
    /// After the call, with its value: below zero is a negated errno.
    Exit(i64),
    /// Before a call that a filter of the program's own hands to a tracer.
    Foreign,
    /// At neither, or in a call of another architecture.
    Other,
}

fn request(request: libc::c_uint, tid: pid_t, data: usize) -> io::Result<libc::c_long> {
    // SAFETY: the requests of this file that come here take no pointer, but numbers.
    let value = unsafe { libc::ptrace(request, tid, 0, data as *mut c_void) };
    match value {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// Begins to trace a thread, and all that it will start.
///
/// # Errors
/// The errno of ptrace(2), such as EPERM.
pub fn seize(tid: pid_t) -> io::Result<()> {
    request(libc::PTRACE_SEIZE, tid, OPTIONS as usize).map(drop)
}

/// How far a thread goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// To the start or the end of a system call.
    Call,
    /// To the next call at which a filter stops.
    Filter,
}

/// Lets a stopped thread go on, and gives it a signal unless that is 0.
pub fn resume(tid: pid_t, signal: i32, until: Until) {
    let how = match until {
        Until::Call => libc::PTRACE_SYSCALL,
        Until::Filter => libc::PTRACE_CONT,
    };
    // The thread may have been killed meanwhile; then wait(2) tells.
    let _ = request(how, tid, signal as usize);
}

/// Lets the call before which a thread has stopped fail with ENOSYS, the value that the kernel has
/// prepared. The number -1 is of no call (seccomp(2), SECCOMP_RET_TRACE).
pub fn skip(tid: pid_t) {
    poke(tid, ORIG_RAX, u64::MAX);
}

/// Changes the first argument of the call before which a thread has stopped.
pub fn set_first_argument(tid: pid_t, value: u64) {
    poke(tid, RDI, value);
}

fn poke(tid: pid_t, register: usize, value: u64) {
    let (register, value) = (register as *mut c_void, value as *mut c_void);
    // SAFETY: the kernel takes both as numbers, and checks the first. A thread that was killed
    // meanwhile has no registers, and makes no call either.
    unsafe { libc::ptrace(libc::PTRACE_POKEUSER, tid, register, value) };
}

/// Leaves a thread in its group-stop, until SIGCONT or another event.
pub fn listen(tid: pid_t) {
    // The same.
    let _ = request(libc::PTRACE_LISTEN, tid, 0);
}

/// Whether the signal with which a thread has stopped is the kernel's, and no process's.
pub fn is_from_kernel(tid: pid_t) -> bool {
    // SAFETY: all bytes of the structure may be zero.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    let into: *mut libc::siginfo_t = &mut info;
    // SAFETY: the kernel writes one siginfo_t to `into`.
    let value = unsafe { libc::ptrace(libc::PTRACE_GETSIGINFO, tid, 0, into) };
    value == 0 && info.si_code == libc::SI_KERNEL
}

/// The message of the last event: the new thread, or the former thread of an exec.
pub fn message(tid: pid_t) -> Option<pid_t> {
    let mut message: libc::c_ulong = 0;
    let into: *mut libc::c_ulong = &mut message;
    // SAFETY: the kernel writes one unsigned long to `into`.
    let value = unsafe { libc::ptrace(libc::PTRACE_GETEVENTMSG, tid, 0, into) };
    (value == 0).then(|| pid_t::try_from(message).ok())?
}

/// The system call at which a thread has stopped (Linux 5.3).
pub fn call(tid: pid_t) -> CallStop {
    // SAFETY: all bytes of the structure may be zero.
    let mut info: libc::ptrace_syscall_info = unsafe { mem::zeroed() };
    let into: *mut libc::ptrace_syscall_info = &mut info;
    let size = size_of::<libc::ptrace_syscall_info>();
    // SAFETY: the kernel writes at most `size` bytes to `into`.
    let value = unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, tid, size, into) };
    let is_ours = info.arch == X86_64;
    if value <= 0 || (!is_ours && info.op != libc::PTRACE_SYSCALL_INFO_SECCOMP) {
        return CallStop::Other;
    }
    match info.op {
        libc::PTRACE_SYSCALL_INFO_ENTRY => {
            // SAFETY: `op` says that this member of the union was written.
            let entry = unsafe { info.u.entry };
            match entry.nr & X32 {
                0 => CallStop::Entry(entry.nr, entry.args),
                _ => CallStop::Other,
            }
        }
        libc::PTRACE_SYSCALL_INFO_EXIT => {
            // SAFETY: `op` says that this member of the union was written.
            let exit = unsafe { info.u.exit };
            CallStop::Exit(exit.sval)
        }
        libc::PTRACE_SYSCALL_INFO_SECCOMP => {
            // SAFETY: `op` says that this member of the union was written.
            let stop = unsafe { info.u.seccomp };
            // The tracer's own filter stops before calls of this architecture alone.
            match (stop.ret_data, stop.nr & X32) {
                (DATA, 0) if is_ours => CallStop::Entry(stop.nr, stop.args),
                _ => CallStop::Foreign,
            }
        }
        _ => CallStop::Other,
    }
}
