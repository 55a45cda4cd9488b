//! Tells the user of work that takes long.
//!
//! The kernel may reset a device when it is opened and when it is closed, and a reset may take a
//! minute (PCI Express 6.0, 6.6.2). The call cannot be interrupted: a signal takes effect after it.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::log::stderr::say;

/// The time after which the user is told.
const LIMIT: Duration = Duration::from_secs(10);

/// Does work, and prints a message if the work takes longer than usual.
pub fn tell_if_slow<R>(what: &str, work: impl FnOnce() -> R) -> R {
    tell_after(
        LIMIT,
        || say(format_args!("mini-vmm: {}", describe(what))),
        work,
    )
}

fn describe(what: &str) -> String {
    format!(
        "{what} has taken {} seconds: the kernel resets the device, and a signal takes effect \
         only after that; as root, `cat /proc/{}/task/*/stack` shows where it waits",
        LIMIT.as_secs(),
        std::process::id()
    )
}

fn tell_after<R>(limit: Duration, tell: impl FnOnce() + Send, work: impl FnOnce() -> R) -> R {
    thread::scope(|scope| {
        let (done, is_done) = mpsc::channel::<()>();
        let watch = move || {
            if is_done.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                tell();
            }
        };
        // Without a thread the work is done all the same.
        let _ = thread::Builder::new()
            .name("slow work".into())
            .spawn_scoped(scope, watch);
        let result = work();
        drop(done);
        result
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn only_slow_work_is_told() {
        let told = AtomicUsize::new(0);
        let tell = || {
            told.fetch_add(1, Ordering::Relaxed);
        };
        assert_eq!(tell_after(Duration::from_secs(600), tell, || 1), 1);
        assert_eq!(told.load(Ordering::Relaxed), 0);
        let wait = || thread::sleep(Duration::from_millis(50));
        tell_after(Duration::from_millis(1), tell, wait);
        assert_eq!(told.load(Ordering::Relaxed), 1);
        assert!(describe("opening 0000:01:00.0").starts_with("opening 0000:01:00.0 has taken 10"));
    }
}
