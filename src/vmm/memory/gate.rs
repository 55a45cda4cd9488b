//! Where a guest waits that lets a device use its RAM before all of that is mapped.
//!
//! A function starts no request of its own before its Bus Master Enable is set (PCI Express 6.0,
//! 7.5.1.1.3), and a guest sets it in COMMAND, which is trapped. So the guest need not wait until its
//! RAM has been zeroed and pinned ([`super::pinning`]): only the write that sets that bit does.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Where a guest that lets a device master the bus waits until all of its RAM can be reached.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Bytes that devices cannot reach yet; zero when they can reach all.
    left: u64,
    /// There will be no more of them than there are.
    over: bool,
    /// The vCPUs are being stopped: nobody may wait.
    stopping: bool,
    /// Who does not want pages to be made present for now.
    holds: usize,
}

impl Gate {
    /// Nobody waits here: where there is nothing to map.
    pub fn open() -> Self {
        Self::closed(0)
    }

    /// So many bytes are to be mapped.
    pub fn closed(left: u64) -> Self {
        let state = State {
            left,
            over: left == 0,
            stopping: false,
            holds: 0,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn wait_while(&self, mut go_on: impl FnMut(&State) -> bool) -> MutexGuard<'_, State> {
        let wait = self
            .changed
            .wait_while(self.lock(), |state| !state.over && go_on(state));
        wait.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all of RAM is mapped, and tells whether it is. It is not when the vCPUs are being
    /// stopped, or it cannot be; then the write that waited has no effect, as its boot has no future.
    pub fn pass(&self) -> bool {
        self.wait_while(|state| !state.stopping).left == 0
    }

    /// Waits until at most `left` bytes are left, or no more will be mapped; `told` hears how many are left
    /// whenever that changes.
    pub fn wait(&self, left: u64, told: impl Fn(u64)) {
        drop(self.wait_while(|state| {
            told(state.left);
            state.left > left
        }));
    }

    /// Whether the vCPUs are being stopped: while they are, nobody waits.
    pub fn set_stopping(&self, stopping: bool) {
        self.change(|state| state.stopping = stopping);
    }

    /// No pages are made present until this is dropped. While the kernel makes some it holds the lock of
    /// this process's address space, and gets it back before whoever waits to change that: a mapping or a
    /// thread's stack may take a hundred times as long (Linux, kernel/locking/rwsem.c: a writer that waits
    /// is passed by readers for 4 ms).
    pub fn hold(self: &Arc<Self>) -> Hold {
        self.change(|state| state.holds += 1);
        Hold(Arc::clone(self))
    }

    /// Waits while pages are held back; tells whether any more are wanted.
    pub fn pace(&self) -> bool {
        !self.wait_while(|state| state.holds > 0).over
    }

    /// `left` bytes are left to map.
    pub fn set_left(&self, left: u64) {
        self.change(|state| {
            state.left = left;
            state.over |= left == 0;
        });
    }

    /// No more will be mapped.
    pub fn end(&self) {
        self.change(|state| state.over = true);
    }

    /// Whether there is nothing to wait for any more, for better or worse.
    pub fn is_over(&self) -> bool {
        self.lock().over
    }
}

/// See [`Gate::hold`].
pub struct Hold(Arc<Gate>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.change(|state| state.holds -= 1);
    }
}
