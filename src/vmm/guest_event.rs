//! What a guest asks of the main loop, and how the request gets there.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

/// What a guest does that the main loop must act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestEvent {
    /// It has powered off.
    PowerOff,
    /// It asks for a reset.
    Reset,
    /// Its processor shut down.
    TripleFault,
    /// KVM cannot go on with it; why.
    Broken(String),
}

/// Carries the guest's first event to the main loop; later ones change nothing.
pub struct Notifier {
    wake: EventFd,
    first: Mutex<Option<GuestEvent>>,
}

impl Notifier {
    /// # Errors
    /// When no eventfd can be had.
    pub fn new() -> io::Result<Self> {
        let wake = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self {
            wake,
            first: Mutex::new(None),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<GuestEvent>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Readable while an event waits.
    pub fn wake(&self) -> &EventFd {
        &self.wake
    }

    /// Called on a vCPU's thread.
    pub fn notify(&self, event: GuestEvent) {
        self.lock().get_or_insert(event);
        // The counter is taken by the loop long before it could overflow.
        let _ = self.wake.write(1);
    }

    /// Takes the event, for the next to be first again.
    pub fn take(&self) -> Option<GuestEvent> {
        let _ = self.wake.read();
        self.lock().take()
    }
}
