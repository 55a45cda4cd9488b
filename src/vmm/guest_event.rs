//! Events of the guest that the main loop must act on, and the notifier that carries them.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

/// An event of the guest that the main loop must act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestEvent {
    /// The guest has powered off.
    PowerOff,
    /// The guest asks for a reset.
    Reset,
    /// The guest's processor shut down: a triple fault.
    TripleFault,
    /// KVM_RUN of this vCPU failed with this errno.
    RunRefused(u32, i32),
    /// The guest cannot go on, for this reason.
    Broken(String),
}

/// Carries the guest's first event to the main loop. Later events are dropped until the loop has
/// taken the first.
pub struct Notifier {
    wake: EventFd,
    first: Mutex<Option<GuestEvent>>,
}

impl Notifier {
    /// Makes a notifier without an event.
    ///
    /// # Errors
    /// When the host has no descriptors left.
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

    /// An eventfd that is readable while an event waits.
    pub fn wake(&self) -> &EventFd {
        &self.wake
    }

    /// Keeps `event` for the main loop, if no event waits yet, and wakes the loop. Any thread may
    /// call this.
    pub fn notify(&self, event: GuestEvent) {
        self.lock().get_or_insert(event);
        // The loop resets the counter long before it could overflow.
        let _ = self.wake.write(1);
    }

    /// Wakes the main loop, which looks for itself what has changed. Any thread may call this.
    pub fn wake_loop(&self) {
        // As in `notify`.
        let _ = self.wake.write(1);
    }

    /// Takes the waiting event, if there is one.
    pub fn take(&self) -> Option<GuestEvent> {
        let _ = self.wake.read();
        self.lock().take()
    }
}
