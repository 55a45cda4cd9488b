//! One message-signalled interrupt: an eventfd that VFIO signals and KVM turns into a message.
//!
//! VFIO and KVM get the same eventfd, so that the kernel's irqbypass can pair them (posted
//! interrupts) and no thread of the VMM wakes for an interrupt. Masking removes the irqfd and keeps
//! the eventfd: events gather in the eventfd, as in a pending bit. Unmasking sets the route first
//! and then the irqfd, and KVM delivers the gathered events at once. With `irqfd=off` a thread
//! listens instead of KVM ([`crate::gsi::delivery`]), and so it does for a message that is no
//! interrupt ([`crate::gsi::memory_messages`]).

use std::time::Duration;

use pci::Message;
use rustix::event::PollFlags;
use tracing::warn;
use vmm_sys_util::eventfd::EventFd;

use crate::gsi::delivery::{Delivery, Listener};
use crate::gsi::error::GsiError;
use crate::gsi::memory_messages::is_interrupt;
use crate::sys;
use crate::sys::eventfd;

/// An eventfd and a GSI whose route is a message.
pub struct MsiIrqfd {
    delivery: Delivery,
    gsi: u32,
    event: EventFd,
    message: Message,
    /// Who raises the GSI when the eventfd is signalled; `None` while the interrupt is masked.
    listener: Option<Listener>,
}

impl MsiIrqfd {
    /// Makes a masked interrupt without a message.
    ///
    /// # Errors
    /// The VM has no GSI left, or the host no eventfd.
    pub fn new(delivery: Delivery) -> Result<Self, GsiError> {
        let event = eventfd::new().map_err(GsiError::EventFd)?;
        let gsi = delivery.routing.allocate()?;
        Ok(Self {
            delivery,
            gsi,
            event,
            message: Message::default(),
            listener: None,
        })
    }

    /// The GSI whose route is the message.
    pub fn gsi(&self) -> u32 {
        self.gsi
    }

    /// The eventfd for VFIO to signal.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// Sets the message, in force from the next [`GsiRouting::commit`] and [`MsiIrqfd::unmask`] on.
    /// Only an interrupt that stays an interrupt stays unmasked until then.
    ///
    /// # Errors
    /// The errno of KVM_IRQFD; the message stays as it was.
    pub fn route(&mut self, message: Message) -> Result<(), GsiError> {
        let interrupt = is_interrupt(message);
        if message != self.message && !(interrupt && is_interrupt(self.message)) {
            self.mask()?;
        }
        self.message = message;
        let route = interrupt.then_some(message);
        self.delivery.routing.route(self.gsi, route);
        Ok(())
    }

    /// Whether the interrupt is delivered.
    pub fn is_unmasked(&self) -> bool {
        self.listener.is_some()
    }

    /// Unmasks the interrupt: events reach the guest, gathered events first. The route must be
    /// committed.
    ///
    /// # Errors
    /// The errno of KVM_IRQFD, or no thread can listen; the interrupt stays masked.
    pub fn unmask(&mut self) -> Result<(), GsiError> {
        if self.listener.is_none() {
            self.listener = Some(self.delivery.listen(&self.event, self.gsi, self.message)?);
        }
        Ok(())
    }

    /// Masks the interrupt: events gather in the eventfd.
    ///
    /// # Errors
    /// The errno of KVM_IRQFD; the interrupt stays unmasked.
    pub fn mask(&mut self) -> Result<(), GsiError> {
        self.delivery.end(&mut self.listener, &self.event, self.gsi)
    }

    /// Whether events have gathered while the interrupt was masked.
    pub fn pending(&self) -> bool {
        let event = eventfd::borrow(&self.event);
        self.listener.is_none() && sys::ready(event, PollFlags::IN, Some(Duration::ZERO))
    }

    /// Raises the interrupt as the device would.
    pub fn trigger(&self) {
        // A write of 1 fails only if the counter would overflow, after 2^64 events.
        let _ = self.event.write(1);
    }
}

impl Drop for MsiIrqfd {
    fn drop(&mut self) {
        // A GSI that KVM may still raise must not be given to another interrupt.
        match self.mask() {
            Ok(()) => self.delivery.routing.free(self.gsi),
            Err(e) => warn!("GSI {} cannot be used again: {e}", self.gsi),
        }
    }
}
