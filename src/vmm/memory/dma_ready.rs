//! Blocks a vCPU that enables bus mastering until all RAM is mapped for DMA.
//!
//! A function starts no request of its own before its Bus Master Enable is set (PCI Express 6.0,
//! 7.5.1.1.3), and a guest sets that bit in COMMAND, which is trapped. So a guest may run while its
//! RAM is still being zeroed and pinned ([`super::prefault`]): only the write that sets the bit
//! waits.

use std::sync::PoisonError;

use crate::sync::{Condvar, Mutex, MutexGuard};

/// A latch that opens when all RAM is mapped for DMA.
///
/// A vCPU that waits here is also released, without success, when mapping has failed and when the
/// vCPUs are being stopped.
#[derive(Debug)]
pub struct DmaReady {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Bytes that devices cannot reach yet; zero when they can reach all RAM.
    left: u64,
    /// Mapping has finished or failed: `left` does not change any more.
    over: bool,
    /// The vCPUs are being stopped: no vCPU may wait.
    stopping: bool,
}

impl DmaReady {
    /// An open latch, for a VM that has nothing to map.
    pub fn ready() -> Self {
        Self::after(0)
    }

    /// A latch that opens when `left` bytes have been mapped.
    pub fn after(left: u64) -> Self {
        let state = State {
            left,
            over: left == 0,
            stopping: false,
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

    /// Waits as long as `condition` holds and mapping goes on.
    fn wait_while(&self, mut condition: impl FnMut(&State) -> bool) -> MutexGuard<'_, State> {
        let wait = self
            .changed
            .wait_while(self.lock(), |state| !state.over && condition(state));
        wait.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all RAM is mapped. Returns `false` if the vCPUs are being stopped, or mapping
    /// has failed, before that.
    ///
    /// After `false` the caller must drop the write that enables bus mastering. The guest does not
    /// go on: its boot is over.
    pub fn wait_ready(&self) -> bool {
        self.wait_while(|state| !state.stopping).left == 0
    }

    /// Waits until at most `left` bytes are still to be mapped, or mapping has finished or failed.
    /// `report` is called with the bytes left whenever their number changes.
    pub fn wait_until_left(&self, left: u64, report: impl Fn(u64)) {
        drop(self.wait_while(|state| {
            report(state.left);
            state.left > left
        }));
    }

    /// Bytes that devices cannot reach yet; `None` once mapping has finished or failed.
    pub fn left(&self) -> Option<u64> {
        let state = self.lock();
        (!state.over).then_some(state.left)
    }

    /// Sets whether the vCPUs are being stopped. While they are being stopped, no vCPU waits.
    pub fn set_stopping(&self, stopping: bool) {
        self.change(|state| state.stopping = stopping);
    }

    /// Sets the number of bytes that are still to be mapped; zero opens the latch.
    pub fn set_left(&self, left: u64) {
        self.change(|state| {
            state.left = left;
            state.over |= left == 0;
        });
    }

    /// Ends mapping: all waiting ends, whether all RAM is mapped or not.
    pub fn end(&self) {
        self.change(|state| state.over = true);
    }

    /// Whether mapping has finished or failed.
    pub fn is_over(&self) -> bool {
        self.lock().over
    }
}
