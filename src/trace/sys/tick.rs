//! A tick that ends waitpid(2) with EINTR, so that a tracer that waits long writes out what it has
//! to say. A write for each stop would cost as much as the stop.

use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::c_int;

static DUE: AtomicBool = AtomicBool::new(false);

/// Microseconds between two ticks.
const INTERVAL: libc::suseconds_t = 100_000;

extern "C" fn tick(_: c_int) {
    DUE.store(true, Ordering::Relaxed);
}

/// Whether a tick has come since the last time. There is no harm in a tick that is missed: the next
/// one follows.
pub fn due() -> bool {
    DUE.swap(false, Ordering::Relaxed)
}

/// Lets ticks come. A child does not inherit them.
pub fn start() {
    // SAFETY: all bytes of the structure may be zero.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = tick as *const () as usize;
    // SAFETY: `action` is valid; its handler sets a flag. Without SA_RESTART, calls are ended.
    unsafe { libc::sigaction(libc::SIGALRM, &action, ptr::null_mut()) };
    set(INTERVAL);
}

/// Ends the ticks.
pub fn stop() {
    set(0);
}

fn set(interval: libc::suseconds_t) {
    let time = libc::timeval {
        tv_sec: 0,
        tv_usec: interval,
    };
    let timer = libc::itimerval {
        it_interval: time,
        it_value: time,
    };
    // SAFETY: `timer` is valid. The call fails only for times out of range.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, ptr::null_mut()) };
}
