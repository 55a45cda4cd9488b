//! The few system calls that no crate of ours wraps.

pub mod interfaces;
pub mod process;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Whether a descriptor is ready for reading (POLLIN) or writing (POLLOUT) within `timeout`
/// milliseconds (poll(2)).
pub fn ready(fd: BorrowedFd<'_>, events: i16, timeout: i32) -> bool {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: one initialised structure that lives for the call.
    let count = unsafe { libc::poll(&mut poll, 1, timeout) };
    count == 1 && poll.revents & events != 0
}

/// A resource's soft and hard limit (getrlimit(2)).
fn limits(resource: libc::__rlimit_resource_t) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel fills the structure, which lives for the call.
    if unsafe { libc::getrlimit(resource, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit)
}

/// RLIMIT_MEMLOCK in bytes; all ones when there is none.
pub fn memlock_limit() -> u64 {
    limits(libc::RLIMIT_MEMLOCK).map_or(u64::MAX, |l| l.rlim_cur)
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

/// Lets this process open as many descriptors as its user may: each interrupt vector is one.
///
/// # Errors
/// The errno; the limit is as it was.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = limits(libc::RLIMIT_NOFILE)?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads the structure, which lives for the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A clock's time in nanoseconds (clock_gettime(2)); 0 where the kernel has no such clock.
pub fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel fills the structure, which lives for the call.
    if unsafe { libc::clock_gettime(clock, &mut time) } != 0 {
        return 0;
    }
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_limit_reaches_its_ceiling() {
        raise_descriptor_limit().unwrap();
        let limit = limits(libc::RLIMIT_NOFILE).unwrap();
        assert_eq!(limit.rlim_cur, limit.rlim_max);
    }

    #[test]
    fn clocks_go_forward() {
        let before = clock_ns(libc::CLOCK_MONOTONIC);
        assert!(before > 0);
        assert!(clock_ns(libc::CLOCK_MONOTONIC) >= before);
        assert_eq!(clock_ns(12345), 0);
    }
}
