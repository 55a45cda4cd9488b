//! Signals to the tracer. Those of the terminal reach the traced program too, because it is in the
//! same process group; the tracer outlives them. Those that a process sends to the tracer alone are
//! passed on.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use libc::{c_int, c_void, pid_t, siginfo_t, sigset_t};

/// A pidfd of the command, which no other process can get by a reused number; -1 for none.
static COMMAND: AtomicI32 = AtomicI32::new(-1);

const PASSED: [c_int; 6] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

/// Signals that wait until they can be passed on. Before, one would end the tracer, and what the
/// tracer has made on the host would stay.
#[derive(Clone, Copy)]
pub struct KeptBack {
    /// What was kept back before.
    former: sigset_t,
}

impl KeptBack {
    /// Lets signals wait from now on.
    pub fn new() -> Self {
        // SAFETY: all bytes of a set may be zero, and the calls get valid sets. They fail only for
        // numbers that are no signals.
        unsafe {
            let mut set: sigset_t = mem::zeroed();
            let mut former = set;
            for signal in PASSED {
                libc::sigaddset(&mut set, signal);
            }
            libc::sigprocmask(libc::SIG_BLOCK, &set, &mut former);
            Self { former }
        }
    }

    /// Lets them come, those that wait at once. Safe after fork(2).
    pub fn let_come(&self) {
        // SAFETY: the set is valid.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &self.former, ptr::null_mut()) };
    }
}

impl Default for KeptBack {
    fn default() -> Self {
        Self::new()
    }
}

extern "C" fn pass(signal: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: with SA_SIGINFO, the kernel gives a valid structure.
    let code = unsafe { (*info).si_code };
    let command = COMMAND.load(Ordering::Relaxed);
    // Codes above zero are the kernel's: the terminal sends to the whole process group.
    if code <= 0 && command >= 0 {
        // SAFETY: pidfd_send_signal(2) is a plain system call, and safe in a signal handler.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                command,
                signal,
                ptr::null::<siginfo_t>(),
                0,
            );
        }
    }
}

/// Passes signals on to `command` until the returned descriptor, which must be kept, is of no more
/// use: signals to a process that has ended are lost.
///
/// # Errors
/// The errno of pidfd_open(2) or sigaction(2).
pub fn pass_on(command: pid_t) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes two numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, command, 0) };
    let fd = c_int::try_from(fd).ok().filter(|fd| *fd >= 0);
    let fd = fd.ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the descriptor is new and has no other owner.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    COMMAND.store(fd.as_raw_fd(), Ordering::Relaxed);
    for signal in PASSED {
        // SAFETY: all bytes of the structure may be zero.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = pass as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        // SAFETY: `action` is valid, and its handler makes one system call only.
        if unsafe { libc::sigaction(signal, &action, ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(fd)
}

/// Ends this process by a signal, as the command has ended, without a core file.
pub fn end_by(signal: c_int) {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `none` is valid; the other calls take numbers.
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &none);
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}
