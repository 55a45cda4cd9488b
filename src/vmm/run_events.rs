//! What has happened in a run: boots, pauses, the end. Others read it, wait for it, and are told.

use std::sync::PoisonError;

use pci::Bdf;

use crate::plug::RemovedBy;
use crate::sync::{Condvar, Mutex, MutexGuard};

/// An event of a run. What it tells of can be read when the observer is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunEvent {
    /// The guest was reset and boots again.
    GuestReset,
    /// The vCPUs have stopped for a pause.
    Paused,
    /// The vCPUs go on.
    Resumed,
    /// The run is over, for this reason.
    Shutdown(&'static str),
    /// Memory is mapped for a device that is being added.
    DeviceAdding {
        /// The host's name of the device.
        id: String,
        /// Bytes that are mapped by now.
        mapped: u64,
        /// All bytes of RAM.
        size: u64,
    },
    /// A function was added, and the guest was told of it.
    DeviceAdded {
        /// The host's name of the device.
        id: String,
        /// The address in the guest.
        bdf: Bdf,
    },
    /// A function has left the guest, and is the host's again.
    DeviceRemoved {
        /// The host's name of the device.
        id: String,
        /// Why.
        by: RemovedBy,
    },
    /// A removal was given up, and the device stays; or a device has failed.
    DeviceFailed {
        /// The host's name of the device.
        id: String,
        /// `remove` or `device`.
        what: &'static str,
        /// The reason.
        why: String,
    },
}

type Observer = Box<dyn Fn(RunEvent) + Send + Sync>;

/// The progress of a run.
#[derive(Default)]
pub struct RunEvents {
    state: Mutex<State>,
    changed: Condvar,
    observer: Mutex<Option<Observer>>,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// Boots that have begun.
    boots: u64,
    /// The reason of the end.
    ended: Option<&'static str>,
}

impl RunEvents {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `observer` with each event from now on. It may be called by any thread, and must
    /// return at once.
    pub fn observe(&self, observer: impl Fn(RunEvent) + Send + Sync + 'static) {
        let mut kept = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = Some(Box::new(observer));
    }

    pub(crate) fn tell(&self, event: RunEvent) {
        let observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(observer) = &*observer {
            observer(event);
        }
    }

    /// The vCPUs were started.
    pub(crate) fn boot(&self) {
        let mut state = self.lock();
        state.boots += 1;
        let again = state.boots > 1;
        drop(state);
        self.changed.notify_all();
        if again {
            self.tell(RunEvent::GuestReset);
        }
    }

    /// The vCPUs have stopped for good.
    pub(crate) fn end(&self, reason: &'static str) {
        self.lock().ended = Some(reason);
        self.changed.notify_all();
        self.tell(RunEvent::Shutdown(reason));
    }

    /// The number of boots that have begun.
    pub fn boots(&self) -> u64 {
        self.lock().boots
    }

    /// The reason of the end, if the run is over.
    pub fn ended(&self) -> Option<&'static str> {
        self.lock().ended
    }

    /// Waits for a boot after number `boots`; returns the reason of the end if the run ends before.
    pub fn wait_for_boot_after(&self, boots: u64) -> Option<&'static str> {
        let before = |state: &mut State| state.boots <= boots && state.ended.is_none();
        let wait = self.changed.wait_while(self.lock(), before);
        wait.unwrap_or_else(PoisonError::into_inner).ended
    }
}
