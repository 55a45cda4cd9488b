//! Opens devices in parallel.

use std::thread;

use crate::vfio::open::error::VfioError;

/// Opens each item on a thread of its own, because opening resets a function, which takes a tenth
/// of a second. A thread is named after its item.
///
/// # Errors
/// The error of the first item, in order, that cannot be opened. The open items are dropped when
/// all threads have ended.
pub(super) fn open_each<T: Sync, D: Send>(
    items: &[T],
    name: impl Fn(&T) -> String,
    open: impl Fn(&T) -> Result<D, VfioError> + Sync,
) -> Result<Vec<D>, VfioError> {
    let open = &open;
    thread::scope(|scope| {
        let start = |item| {
            let name = name(item);
            let thread = thread::Builder::new().name(format!("open {name}"));
            thread.spawn_scoped(scope, move || open(item))
        };
        let threads: Vec<_> = items.iter().map(start).collect();
        let join = |thread: std::io::Result<thread::ScopedJoinHandle<'_, _>>| {
            let outcome = thread.ok().and_then(|thread| thread.join().ok());
            outcome.unwrap_or(Err(VfioError::Thread))
        };
        let outcomes: Vec<_> = threads.into_iter().map(join).collect();
        outcomes.into_iter().collect()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Counted<'a>(u32, &'a AtomicUsize);

    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.1.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn all_open_at_once_and_in_order_or_none_stays() {
        let (together, open) = (Barrier::new(3), AtomicUsize::new(0));
        let attempt = |bad: Option<u32>| {
            open_each(&[3, 1, 2], u32::to_string, |item| {
                // None returns before all have begun.
                together.wait();
                if Some(*item) == bad {
                    return Err(VfioError::TooMany(99));
                }
                open.fetch_add(1, Ordering::Relaxed);
                Ok(Counted(*item, &open))
            })
        };
        let devices = attempt(None).ok().unwrap();
        let order: Vec<u32> = devices.iter().map(|device| device.0).collect();
        assert_eq!(order, [3, 1, 2]);
        assert_eq!(open.load(Ordering::Relaxed), 3);
        drop(devices);
        assert!(matches!(attempt(Some(1)), Err(VfioError::TooMany(99))));
        assert_eq!(open.load(Ordering::Relaxed), 0);
    }
}
