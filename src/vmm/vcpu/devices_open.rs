//! Blocks a vCPU that accesses a device of the run before all devices are open.
//!
//! Opening a device resets it, which takes a tenth of a second and, of a device that needs long,
//! a minute (PCI Express 6.0, 6.6.2). A guest needs that time to come to its devices, so it runs
//! meanwhile, and only an access to a device waits. The latch is one for all devices: none masters
//! the bus before all are open, so that a run which ends with an error has written nothing.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::vcpu::pause::PausePoint;

/// How long a vCPU waits before all are frozen. Linux reports a soft lockup when a CPU does not
/// respond for twenty seconds (Documentation/admin-guide/lockup-watchdogs.rst).
const PATIENCE: Duration = Duration::from_secs(5);
/// The time after which the vCPUs that still run are interrupted again.
const FREEZE_AGAIN: Duration = Duration::from_millis(100);

/// A latch that opens when all devices of the run are open.
pub struct DevicesOpen {
    /// As `state.open`, for each access after that.
    open: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
    pause: Arc<PausePoint>,
}

struct State {
    open: bool,
    /// The devices are open, or will never be.
    over: bool,
    /// The vCPUs are being stopped: no vCPU may wait.
    stopping: bool,
    patience: Duration,
}

impl DevicesOpen {
    /// An open latch. `pause` is where the vCPUs are frozen.
    pub fn new(pause: &Arc<PausePoint>) -> Self {
        Self {
            open: AtomicBool::new(true),
            state: Mutex::new(State {
                open: true,
                over: true,
                stopping: false,
                patience: PATIENCE,
            }),
            changed: Condvar::new(),
            pause: Arc::clone(pause),
        }
    }

    /// Closes the latch, before the guest runs: the devices are opened beside it.
    pub fn close(&self) {
        self.change(|state| (state.open, state.over) = (false, false));
        self.open.store(false, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// For a test: the time after which all vCPUs are frozen.
    pub fn set_patience(&self, patience: Duration) {
        self.change(|state| state.patience = patience);
    }

    /// Whether all devices are open.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// A vCPU waits until all devices are open. Returns `false` if the vCPUs are being stopped
    /// before that. Then the caller drops the access: the guest's boot is over.
    ///
    /// After some seconds all vCPUs are frozen, so that the guest takes the wait for a pause.
    pub fn wait(&self) -> bool {
        if self.is_open() {
            return true;
        }
        let mut state = self.lock();
        let mut end = Instant::now() + state.patience;
        while !state.open && !state.stopping {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // With the lock, so that no freeze comes after its own end.
                self.pause.freeze();
                end = Instant::now() + FREEZE_AGAIN;
                continue;
            }
            let wait = self.changed.wait_timeout(state, left);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.open
    }

    /// For a model: freezes the vCPUs as a wait does after some seconds. Returns whether it has.
    #[cfg(all(test, feature = "models"))]
    pub fn freeze_now(&self) -> bool {
        let state = self.lock();
        if !state.open && !state.stopping {
            self.pause.freeze();
        }
        !state.open && !state.stopping
    }

    /// Waits for so long until the devices are open or never will be; returns whether that is so.
    /// No vCPU calls this.
    pub fn wait_over(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        let mut state = self.lock();
        while !state.over {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let wait = self.changed.wait_timeout(state, left);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// All devices are open.
    pub fn open(&self) {
        self.change(|state| {
            (state.open, state.over) = (true, true);
            self.open.store(true, Ordering::Release);
        });
        self.pause.thaw();
    }

    /// The devices will not be open, because one has failed or because the run is over. A vCPU that
    /// waits goes on waiting until it is stopped.
    pub fn give_up(&self) {
        self.change(|state| state.over = true);
    }

    /// Whether the devices are open or never will be.
    pub fn is_over(&self) -> bool {
        self.lock().over
    }

    /// Sets whether the vCPUs are being stopped. While they are being stopped, no vCPU waits.
    pub fn set_stopping(&self, stopping: bool) {
        self.change(|state| state.stopping = stopping);
    }
}
