//! waitpid(2) on all traced threads.

use std::io;

use libc::pid_t;

/// What has happened to a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The thread has ended with this status.
    Exited(i32),
    /// A signal has ended the thread.
    Killed(i32),
    /// The thread has stopped before or after a system call.
    Call,
    /// The thread has stopped at an event of ptrace(2), PTRACE_EVENT_FORK for one.
    Event(i32),
    /// The thread has stopped with its process, by this signal.
    GroupStop,
    /// The thread is new, or goes on after a group-stop.
    Continued,
    /// A signal is to be delivered.
    Signal(i32),
}

impl Change {
    /// Whether the thread has stopped, and its memory is what it was when it went on.
    pub fn keeps_memory(self) -> bool {
        let exec = libc::PTRACE_EVENT_EXEC;
        !matches!(self, Self::Exited(_) | Self::Killed(_)) && self != Self::Event(exec)
    }
}

/// A new event of a thread. Without `block`, `None` if there is none now.
///
/// # Errors
/// ECHILD if there is no traced thread any more; EINTR after a signal.
pub fn wait(block: bool) -> io::Result<Option<(pid_t, Change)>> {
    let mut status = 0;
    let flags = libc::__WALL | if block { 0 } else { libc::WNOHANG };
    // SAFETY: `status` is an int that the call fills.
    match unsafe { libc::waitpid(-1, &mut status, flags) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        tid => Ok(Some((tid, change(status)))),
    }
}

fn change(status: i32) -> Change {
    if libc::WIFEXITED(status) {
        return Change::Exited(libc::WEXITSTATUS(status));
    }
    if libc::WIFSIGNALED(status) {
        return Change::Killed(libc::WTERMSIG(status));
    }
    let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
    match (event, signal) {
        (0, signal) if signal == libc::SIGTRAP | 0x80 => Change::Call,
        (0, signal) => Change::Signal(signal),
        (libc::PTRACE_EVENT_STOP, libc::SIGTRAP) => Change::Continued,
        (libc::PTRACE_EVENT_STOP, _) => Change::GroupStop,
        (event, _) => Change::Event(event),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_as_ptrace_2_has_them() {
        let stopped = |signal: i32, event: i32| change(0x7f | signal << 8 | event << 16);
        assert_eq!(change(3 << 8), Change::Exited(3));
        assert_eq!(change(libc::SIGKILL), Change::Killed(libc::SIGKILL));
        assert_eq!(stopped(libc::SIGTRAP | 0x80, 0), Change::Call);
        assert_eq!(stopped(libc::SIGTRAP, 0), Change::Signal(libc::SIGTRAP));
        assert_eq!(stopped(libc::SIGUSR1, 0), Change::Signal(libc::SIGUSR1));
        assert_eq!(stopped(libc::SIGTSTP, 128), Change::GroupStop);
        assert_eq!(stopped(libc::SIGTRAP, 128), Change::Continued);
        assert_eq!(stopped(libc::SIGTRAP, 4), Change::Event(4));
    }
}
