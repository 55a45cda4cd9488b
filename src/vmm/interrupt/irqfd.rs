//! One message-signalled interrupt: an eventfd that VFIO signals and KVM turns into a message.
//!
//! The same eventfd is given to both, so that the kernel's irqbypass can pair them (posted
//! interrupts) and no thread of ours wakes for an interrupt. Masking takes the irqfd away and keeps
//! the eventfd: events gather in it, which is what a pending bit is. Unmasking sets the route first
//! and then the irqfd, and KVM delivers at once what had gathered.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use pci::Message;
use rustix::event::PollFlags;
use tracing::warn;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::interrupt::{InterruptError, Router};
use crate::sys;

/// A line from an eventfd to a message in the guest.
pub struct MsiLine {
    router: Arc<Router>,
    gsi: u32,
    event: EventFd,
    attached: bool,
    /// A device signals the eventfd.
    wired: bool,
}

impl MsiLine {
    /// A masked line with a GSI of its own.
    ///
    /// # Errors
    /// No GSI or no eventfd.
    pub fn new(router: Arc<Router>) -> Result<Self, InterruptError> {
        let event =
            EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(InterruptError::EventFd)?;
        let gsi = router.allocate()?;
        Ok(Self {
            router,
            gsi,
            event,
            attached: false,
            wired: false,
        })
    }

    /// The eventfd that a device signals.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// Whether a device was given the eventfd.
    pub fn is_wired(&self) -> bool {
        self.wired
    }

    /// Notes that a device was given the eventfd.
    pub fn set_wired(&mut self) {
        self.wired = true;
    }

    /// Sets the message, in force from the next [`Router::commit`].
    pub fn route(&self, message: Message) {
        self.router.route(self.gsi, message);
    }

    /// Lets events through, those that gathered first. The route must be committed.
    ///
    /// # Errors
    /// The errno of KVM_IRQFD; the line stays masked.
    pub fn unmask(&mut self) -> Result<(), InterruptError> {
        if !self.attached {
            self.router.attach(&self.event, self.gsi)?;
            self.attached = true;
        }
        Ok(())
    }

    /// Holds events back.
    ///
    /// # Errors
    /// The errno of KVM_IRQFD; the line stays unmasked.
    pub fn mask(&mut self) -> Result<(), InterruptError> {
        if self.attached {
            self.router.detach(&self.event, self.gsi)?;
            self.attached = false;
        }
        Ok(())
    }

    /// Whether an event has gathered while the line was masked.
    pub fn pending(&self) -> bool {
        !self.attached && sys::ready(borrow(&self.event), PollFlags::IN, Some(Duration::ZERO))
    }

    /// Raises the interrupt as the device would.
    pub fn trigger(&self) {
        // The counter cannot overflow by ones in a lifetime, and that is the only error.
        let _ = self.event.write(1);
    }
}

impl Drop for MsiLine {
    fn drop(&mut self) {
        if let Err(e) = self.mask() {
            warn!("an interrupt line was left behind: {e}");
            return;
        }
        self.router.free(self.gsi);
    }
}

/// An eventfd as a borrowed descriptor, which vmm-sys-util does not offer.
pub fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as the eventfd, which the result borrows.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
