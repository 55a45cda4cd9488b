//! Makes and borrows eventfds (eventfd(2)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Makes an eventfd that never blocks and is closed by execve(2).
///
/// # Errors
/// EMFILE or ENFILE: the process or the host has no descriptor left.
pub fn new() -> io::Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)
}

/// Borrows the eventfd's descriptor: vmm-sys-util gives only the raw descriptor.
pub fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as the eventfd, which the result borrows.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
