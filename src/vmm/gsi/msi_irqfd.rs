//! One message-signalled interrupt: an eventfd that VFIO signals and KVM turns into a message.
//!
//! VFIO and KVM get the same eventfd, so that the kernel's irqbypass can pair them (posted
//! interrupts) and no thread of the VMM wakes for an interrupt. Masking removes the irqfd and keeps
//! the eventfd: events gather in the eventfd, as in a pending bit. Unmasking sets the route first
//! and then the irqfd, and KVM delivers the gathered events at once.

use std::sync::Arc;
use std::time::Duration;

use pci::Message;
use rustix::event::PollFlags;
use tracing::warn;
use vmm_sys_util::eventfd::EventFd;

use crate::gsi::error::GsiError;
use crate::gsi::routing::GsiRouting;
use crate::sys;
use crate::sys::eventfd;

/// An eventfd and a GSI whose route is a message.
pub struct MsiIrqfd {
    routing: Arc<GsiRouting>,
    gsi: u32,
    event: EventFd,
    /// Whether the interrupt is unmasked: KVM raises the GSI when the eventfd is signalled.
    irqfd_assigned: bool,
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
            irqfd_assigned: false,
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

    /// Sets the message, in force from the next [`GsiRouting::commit`].
    pub fn route(&self, message: Message) {
        self.routing.route(self.gsi, message);
    }

    /// Whether KVM delivers the interrupt.
    pub fn is_unmasked(&self) -> bool {
        self.irqfd_assigned
    }

    /// Unmasks the interrupt: events reach the guest, gathered events first. The route must be
    /// committed.
    ///
    /// # Errors
    /// The errno of KVM_IRQFD; the interrupt stays masked.
    pub fn unmask(&mut self) -> Result<(), GsiError> {
        if !self.irqfd_assigned {
            self.routing.assign_irqfd(&self.event, self.gsi)?;
            self.irqfd_assigned = true;
        }
        Ok(())
    }

    /// Masks the interrupt: events gather in the eventfd.
    ///
    /// # Errors
    /// The errno of KVM_IRQFD; the interrupt stays unmasked.
    pub fn mask(&mut self) -> Result<(), GsiError> {
        if self.irqfd_assigned {
            self.routing.deassign_irqfd(&self.event, self.gsi)?;
            self.irqfd_assigned = false;
        }
        Ok(())
    }

    /// Whether events have gathered while the interrupt was masked.
    pub fn pending(&self) -> bool {
        let event = eventfd::borrow(&self.event);
        !self.irqfd_assigned && sys::ready(event, PollFlags::IN, Some(Duration::ZERO))
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
