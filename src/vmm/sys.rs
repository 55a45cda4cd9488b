//! System calls for the VMM and for the host's side, on top of rustix.

pub mod eventfd;
pub mod process;
pub mod worker;

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Whether a descriptor is ready for `events` within `timeout`; `None` waits without a limit
/// (poll(2)). A signal ends the wait early, with `false`.
pub fn ready(fd: BorrowedFd<'_>, events: PollFlags, timeout: Option<Duration>) -> bool {
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    let mut polled = [PollFd::from_borrowed_fd(fd, events)];
    let count = poll(&mut polled, timeout.as_ref());
    count == Ok(1) && polled[0].revents().intersects(events)
}

/// RLIMIT_MEMLOCK in bytes; all ones when memory may be locked without a limit (getrlimit(2)).
pub fn memlock_limit() -> u64 {
    getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX)
}

/// Bit of CAP_IPC_LOCK, which lifts the limit on locked memory (capabilities(7)).
const CAP_IPC_LOCK: u32 = 14;

/// Whether the effective capabilities in a process's status (proc_pid_status(5)) have CAP_IPC_LOCK.
pub fn may_lock(status: &str) -> bool {
    let mut lines = status.lines();
    let field = lines.find_map(|line| line.strip_prefix("CapEff:"));
    let set = field.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    set.is_some_and(|set| set & 1 << CAP_IPC_LOCK != 0)
}

/// Raises the limit of open descriptors to the maximum that the user may have: each interrupt
/// vector takes one descriptor.
///
/// # Errors
/// The errno; the limit stays as it was.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// A clock's time in nanoseconds (clock_gettime(2)).
pub fn clock_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_limit_reaches_its_ceiling() {
        raise_descriptor_limit().unwrap();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }

    #[test]
    fn clocks_go_forward() {
        let before = clock_ns(ClockId::Monotonic);
        assert!(before > 0);
        assert!(clock_ns(ClockId::Monotonic) >= before);
    }
}
