//! Processes: identity, a child that outlives its parent, ignored signals, and file locks.

use std::ffi::CStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};
use std::{io, process, thread};

use rustix::event::PollFlags;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, chdir, getpid, pidfd_open, setsid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::thread::set_name;

/// A process, identified by number and start time, because numbers are reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The start time, in ticks since the host's boot (proc_pid_stat(5), field 22).
    pub started: u64,
}

impl Process {
    /// This process.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn this() -> io::Result<Self> {
        let pid = process::id();
        let (_, started) = state(pid).ok_or_else(|| io::Error::other("/proc is not there"))?;
        Ok(Self { pid, started })
    }

    /// The process with this number now, if there is one.
    pub fn of(pid: u32) -> Option<Self> {
        let (_, started) = state(pid)?;
        Some(Self { pid, started })
    }

    /// A child of this process that was not reaped yet, so its number is not reused.
    pub(super) fn child(pid: u32) -> Self {
        let started = state(pid).map_or(0, |(_, started)| started);
        Self { pid, started }
    }

    /// Ends the process with SIGKILL if it sleeps in a way that a signal can end. A sleep that no
    /// signal can end (state D) is left alone: the signal would take effect after the sleep, and
    /// nothing could tell that from a failure in the kernel.
    pub fn end_sleep(&self) {
        let sleeps =
            state(self.pid).is_some_and(|(state, started)| started == self.started && state == 'S');
        if sleeps {
            // SAFETY: the call passes two numbers. The process exists under this number, because
            // its start time was just compared.
            unsafe { libc::kill(self.pid.cast_signed(), libc::SIGKILL) };
        }
    }

    /// Whether the process still runs. A zombie does not run.
    pub fn lives(&self) -> bool {
        state(self.pid)
            .is_some_and(|(state, started)| started == self.started && !matches!(state, 'Z' | 'X'))
    }

    /// Whether the process has ended for certain. Without a descriptor to read /proc, for example,
    /// nobody knows.
    pub fn has_ended(&self) -> bool {
        match fs::read(format!("/proc/{}/stat", self.pid)) {
            Ok(stat) => parse_stat(&stat).is_some_and(|(state, started)| {
                started != self.started || matches!(state, 'Z' | 'X')
            }),
            // The second comes when the process ends between the open and the read.
            Err(e) => matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)),
        }
    }
}

/// A process's state and the time of its start.
fn state(pid: u32) -> Option<(char, u64)> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Reads /proc/PID/stat. The name, in parentheses, may contain parentheses and spaces.
fn parse_stat(stat: &[u8]) -> Option<(char, u64)> {
    let text = String::from_utf8_lossy(stat);
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Opens a descriptor that becomes readable when this process has ended (pidfd_open(2)). By then
/// all its threads have ended and its files are closed.
///
/// # Errors
/// The errno; ENOSYS before Linux 5.3.
pub fn own_end() -> io::Result<OwnedFd> {
    Ok(pidfd_open(getpid(), PidfdFlags::empty())?)
}

/// Runs `work` in a child process and does not wait for it. Returns the child's number. The child
/// has a session of its own, so that the terminal's signals do not reach it, and keeps no
/// descriptor of this process but those of `keep`. This process must have one thread only, because
/// the child runs Rust code after the fork.
///
/// # Errors
/// When there are other threads, or no process can be made.
pub fn detach(name: &CStr, keep: &[&OwnedFd], work: impl FnOnce()) -> io::Result<u32> {
    if !has_one_thread()? {
        return Err(io::Error::other("there are other threads already"));
    }
    // SAFETY: there is no other thread that could hold a lock at the fork.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // The child must not return into the parent's code, not even by a panic.
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                become_quiet(name, keep)?;
                work();
                Ok::<_, io::Error>(())
            }));
            let status = i32::from(!matches!(outcome, Ok(Ok(()))));
            // SAFETY: ends the child without the parent's exit handlers.
            unsafe { libc::_exit(status) }
        }
        pid => Ok(pid.cast_unsigned()),
    }
}

/// Whether this process has one thread only, so that it may fork.
///
/// # Errors
/// /proc cannot be read.
fn has_one_thread() -> io::Result<bool> {
    Ok(fs::read_dir("/proc/self/task")?.count() == 1)
}

/// Waits until this process has one thread only. A joined thread is in /proc a moment longer than
/// the join (pthread_join(3) waits for a word in memory, which the kernel clears first). Returns
/// `false` if there are other threads after a second.
pub fn settle_to_one_thread() -> bool {
    let end = Instant::now() + Duration::from_secs(1);
    while !has_one_thread().unwrap_or(false) {
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Reaps a child (waitpid(2)). `None`: the child still exists; otherwise the signal that ended it,
/// if a signal did.
pub(super) fn reap(pid: u32) -> Option<Option<i32>> {
    let mut status = 0;
    // SAFETY: the status is a local variable, and the call does not wait.
    match unsafe { libc::waitpid(pid.cast_signed(), &raw mut status, libc::WNOHANG) } {
        0 => None,
        -1 => Some(None),
        _ => Some(libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))),
    }
}

/// Reaps a child that is about to end. A child that has not ended when `limit` is over stays. A
/// child that nobody reaps is a zombie until this process ends, and then for as long as the init
/// process of a container may leave it.
pub fn reap_within(pid: u32, limit: Duration) {
    // Before Linux 5.3 there is no pidfd, and the child is reaped only if it has ended.
    let child = Pid::from_raw(pid.cast_signed());
    if let Some(Ok(end)) = child.map(|child| pidfd_open(child, PidfdFlags::empty())) {
        super::ready(end.as_fd(), PollFlags::IN, Some(limit));
    }
    reap(pid);
}

/// The number of this process's group; 0 if the group is in a PID namespace that this process does
/// not see (pid_namespaces(7)).
pub fn group() -> libc::pid_t {
    // SAFETY: the call takes nothing and changes nothing.
    unsafe { libc::getpgrp() }
}

/// Makes all threads allocate from one heap (mallopt(3)). An arena for each thread would cost five
/// system calls and some pages a thread, and the threads allocate little.
pub fn share_one_heap() {
    // SAFETY: the allocator takes this setting at any time.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Ignores the signals of keys, closed terminals and pipes, and SIGTERM: the process finishes what
/// it has begun.
pub fn ignore_signals() {
    for signal in [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
        libc::SIGPIPE,
        libc::SIGUSR1,
    ] {
        ignore(signal);
    }
}

/// Ignores a signal from now on.
pub fn ignore(signal: libc::c_int) {
    // SAFETY: no handler is installed, only the disposition changes.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Leaves the parent's session and directory, and closes the inherited descriptors except `keep`.
fn become_quiet(name: &CStr, keep: &[&OwnedFd]) -> io::Result<()> {
    ignore_signals();
    // The devices are given back even if one of these fails: a name is for people only, and a
    // sandbox may refuse the calls.
    let _ = set_name(name);
    let _ = setsid();
    let _ = chdir("/");
    // Without a /dev, the root directory does: nothing can be read from it or written to it.
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.or_else(|_| File::open("/"))?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    let open: Vec<i32> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    let kept = keep.iter().map(|keep| keep.as_raw_fd());
    let kept: Vec<_> = kept.chain([null.as_raw_fd()]).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2 && !kept.contains(fd)) {
        // SAFETY: the owners of these descriptors are in the parent's code, to which the child
        // never returns.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// Waits until a descriptor is readable, without a time limit.
pub fn wait_readable(fd: &OwnedFd) {
    while !super::ready(fd.as_fd(), PollFlags::IN, None) {}
}

/// Locks a file (flock(2)); returns `false` if another process has the lock. The lock ends with the
/// file's last descriptor.
///
/// # Errors
/// Any other errno.
pub fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Unlocks a file that [`try_lock`] locked.
pub fn unlock(file: &File) {
    // An unlock of an open file has no errors (flock(2)).
    let _ = flock(file, FlockOperation::Unlock);
}

/// Runs a part of a test in a child process, which has one thread only: the harness has more.
/// Returns whether the part passed.
#[cfg(test)]
pub(crate) fn in_one_thread(work: impl FnOnce()) -> bool {
    // SAFETY: the other threads of the test hold no lock that `work` takes: glibc makes its own
    // locks usable in the child (fork(2)).
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        // SAFETY: ends the child without the harness's exit handlers.
        unsafe { libc::_exit(i32::from(outcome.is_err())) }
    }
    let mut status = 1;
    // SAFETY: the status is a local variable.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
    status == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let stat = b"12 (a) Z (b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 0 0";
        assert_eq!(parse_stat(stat), Some(('S', 4242)));
        for broken in [&b""[..], b"12 (x)", b"12 (x) S", b"12 (x) S 1 2 3"] {
            assert_eq!(parse_stat(broken), None);
        }
    }

    #[test]
    fn an_ended_process_does_not_live() {
        let this = Process::this().unwrap();
        assert!(this.lives());
        let later = Process {
            started: this.started + 1,
            ..this
        };
        assert!(!later.lives() && later.has_ended() && !this.has_ended());
        let mut child = process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id();
        let (_, started) = state(pid).unwrap();
        let child_process = Process { pid, started };
        assert!(child_process.lives());
        child.kill().unwrap();
        let mut waited = 0;
        while child_process.lives() && waited < 5000 {
            thread::sleep(Duration::from_millis(1));
            waited += 1;
        }
        assert!(!child_process.lives() && child_process.has_ended());
        child.wait().unwrap();
        assert!(!child_process.lives() && child_process.has_ended());
    }

    #[test]
    fn this_process_has_not_ended() {
        let end = own_end().unwrap();
        assert!(!crate::sys::ready(
            end.as_fd(),
            PollFlags::IN,
            Some(Duration::ZERO)
        ));
    }
}
