//! Pauses the threads that populate RAM while other threads change this process's address space.
//!
//! While the kernel populates pages it holds the lock of the address space (`mmap_lock`) for
//! reading. Readers may overtake a waiting writer for 4 ms (Linux, kernel/locking/rwsem.c). So
//! mmap(2), or the stack of a new thread, takes up to a hundred times as long while RAM is
//! populated: six mappings of a BAR took 280 ms. Set-up therefore pauses populating while it works,
//! but not while it only waits for devices to open.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Pauses the populating threads on behalf of set-up.
#[derive(Debug, Default)]
pub struct PopulateThrottle {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The number of [`PopulatePause`]s alive. Populating is paused unless it is zero.
    pauses: usize,
    /// Whether populating must end.
    cancelled: bool,
}

impl PopulateThrottle {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pauses populating until the returned value is dropped. A page that is being populated is
    /// finished first.
    pub fn pause(self: &Arc<Self>) -> PopulatePause {
        self.change(|state| state.pauses += 1);
        PopulatePause(Arc::clone(self))
    }

    /// Waits while populating is paused. Returns `false` if populating must end.
    pub fn wait_unpaused(&self) -> bool {
        let wait = self
            .changed
            .wait_while(self.lock(), |state| state.pauses > 0 && !state.cancelled);
        !wait.unwrap_or_else(PoisonError::into_inner).cancelled
    }

    /// Makes populating end, also while it is paused.
    pub fn cancel(&self) {
        self.change(|state| state.cancelled = true);
    }
}

/// Keeps populating paused; see [`PopulateThrottle::pause`].
#[must_use = "populating goes on when this is dropped"]
#[derive(Debug)]
pub struct PopulatePause(Arc<PopulateThrottle>);

impl Drop for PopulatePause {
    fn drop(&mut self) {
        self.0.change(|state| state.pauses -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn populating(throttle: &Arc<PopulateThrottle>) -> Receiver<bool> {
        let (tell, told) = channel();
        let throttle = Arc::clone(throttle);
        thread::spawn(move || tell.send(throttle.wait_unpaused()));
        told
    }

    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn populating_waits_for_every_pauseer() {
        let throttle = Arc::<PopulateThrottle>::default();
        assert!(populating(&throttle).recv().unwrap());
        let (first, second) = (throttle.pause(), throttle.pause());
        let waiting = populating(&throttle);
        drop(first);
        assert!(waiting.recv_timeout(SHORT).is_err());
        drop(second);
        assert!(waiting.recv().unwrap());
    }

    #[test]
    fn a_paused_thread_can_be_cancelled() {
        let throttle = Arc::<PopulateThrottle>::default();
        let _pause = throttle.pause();
        let waiting = populating(&throttle);
        assert!(waiting.recv_timeout(SHORT).is_err());
        throttle.cancel();
        assert!(!waiting.recv().unwrap());
        assert!(!populating(&throttle).recv().unwrap());
    }
}
