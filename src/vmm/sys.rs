//! System calls for the VMM and for the host's side, on top of rustix.

pub mod bus_error;
pub mod descriptor;
pub mod eventfd;
pub mod kvm_file;
pub mod listen_fds;
pub mod notify;
pub mod packets;
pub mod process;
pub mod worker;

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;
use std::{fs, io};

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
pub(crate) const CAP_IPC_LOCK: u32 = 14;

/// Whether the effective capabilities in a process's status (proc_pid_status(5)) have CAP_IPC_LOCK.
pub fn may_lock(status: &str) -> bool {
    let mut lines = status.lines();
    let field = lines.find_map(|line| line.strip_prefix("CapEff:"));
    let set = field.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    set.is_some_and(|set| set & 1 << CAP_IPC_LOCK != 0)
}

/// Whether this process may lock any amount of memory: it has CAP_IPC_LOCK in the first user
/// namespace. The kernel asks for the capability there (capable()), so a user namespace's own
/// CAP_IPC_LOCK does not count. If `proc` tells nothing, the answer is no.
pub fn may_lock_any(proc: &Path) -> bool {
    let status = fs::read_to_string(proc.join("self/status"));
    status.is_ok_and(|status| may_lock(&status)) && !is_in_user_namespace(proc)
}

/// Whether this process is in another user namespace than the first, whose number never changes
/// (Linux, include/linux/proc_ns.h, PROC_USER_INIT_INO).
pub fn is_in_user_namespace(proc: &Path) -> bool {
    let namespace = fs::read_link(proc.join("self/ns/user"));
    namespace.is_ok_and(|name| name != Path::new("user:[4026531837]"))
}

/// Whether a path is on a file system that is mounted with `nodev`, so that no device node of it
/// can be opened (mount(2)).
pub fn is_on_nodev(path: &Path) -> bool {
    let flags = rustix::fs::statvfs(path).map(|found| found.f_flag);
    flags.is_ok_and(|flags| flags.contains(rustix::fs::StatVfsMountFlags::NODEV))
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
