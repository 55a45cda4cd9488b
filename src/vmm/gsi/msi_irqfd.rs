//! One message-signalled interrupt: an eventfd that VFIO signals and KVM turns into a message.
//!
//! VFIO and KVM get the same eventfd, so that the kernel's irqbypass can pair them (posted
//! interrupts) and no thread of the VMM wakes for an interrupt. Masking removes the irqfd and keeps
//! the eventfd: events gather in the eventfd, as in a pending bit. Unmasking sets the route first
//! and then the irqfd, and KVM delivers the gathered events at once.
//!
//! A message that is no interrupt is written to RAM by a thread instead
//! ([`crate::gsi::memory_messages`]).

use std::sync::Arc;
use std::time::Duration;

use pci::Message;
use rustix::event::PollFlags;
use tracing::warn;
use vmm_sys_util::eventfd::EventFd;

use crate::gsi::error::GsiError;
use crate::gsi::listener::Listener;
use crate::gsi::memory_messages::is_interrupt;
use crate::gsi::routing::GsiRouting;
use crate::sys;
use crate::sys::eventfd;

/// An eventfd and a GSI whose route is a message.
pub struct MsiIrqfd {
    routing: Arc<GsiRouting>,
    gsi: u32,
    event: EventFd,
    message: Message,
    listener: Listener,
}

impl MsiIrqfd {
    /// Makes a masked interrupt without a message.
    ///
    /// # Errors
    /// The VM has no GSI left, or the host no eventfd.
    pub fn new(routing: Arc<GsiRouting>) -> Result<Self, GsiError> {
        let event = eventfd::new().map_err(GsiError::EventFd)?;
        let gsi = routing.allocate()?;
        Ok(Self {
            routing,
            gsi,
            event,
            message: Message::default(),
            listener: Listener::None,
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
        self.routing.route(self.gsi, interrupt.then_some(message));
        Ok(())
    }

    /// Whether events are delivered.
    pub fn is_unmasked(&self) -> bool {
        self.listener.is_there()
    }

    /// Whether KVM delivers them, as interrupts.
    pub fn is_assigned(&self) -> bool {
        matches!(self.listener, Listener::Kvm)
    }

    /// Unmasks the interrupt: events reach the guest, gathered events first. The route must be
    /// committed.
    ///
    /// # Errors
    /// As [`Listener::start`]; the interrupt stays masked.
    pub fn unmask(&mut self) -> Result<(), GsiError> {
        if !self.is_unmasked() {
            let (gsi, message) = (self.gsi, self.message);
            self.listener = Listener::start(&self.routing, &self.event, gsi, message)?;
        }
        Ok(())
    }

    /// Masks the interrupt: events gather in the eventfd.
    ///
    /// # Errors
    /// The errno of KVM_IRQFD; the interrupt stays unmasked.
    pub fn mask(&mut self) -> Result<(), GsiError> {
        self.listener.stop(&self.routing, &self.event, self.gsi)
    }

    /// Whether events have gathered while the interrupt was masked.
    pub fn pending(&self) -> bool {
        let event = eventfd::borrow(&self.event);
        !self.is_unmasked() && sys::ready(event, PollFlags::IN, Some(Duration::ZERO))
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
            Ok(()) => self.routing.free(self.gsi),
            Err(e) => warn!("GSI {} cannot be used again: {e}", self.gsi),
        }
    }
}
