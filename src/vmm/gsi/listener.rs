//! Who takes the events of a message-signalled interrupt.

use pci::Message;
use vmm_sys_util::eventfd::EventFd;

use crate::gsi::error::GsiError;
use crate::gsi::memory_messages::{Watch, is_interrupt};
use crate::gsi::routing::GsiRouting;

/// Who takes the events of an eventfd.
pub enum Listener {
    /// Nobody: the interrupt is masked, and events gather.
    None,
    /// KVM, which raises the GSI.
    Kvm,
    /// A thread, which writes the message to RAM. Dropping it ends that.
    Memory {
        /// What the thread waits for.
        _watch: Watch,
    },
}

impl Listener {
    /// Whether events are delivered.
    pub fn is_there(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Lets KVM take the events if `message` is an interrupt, whose route is committed, or else the
    /// thread.
    ///
    /// # Errors
    /// The errno of KVM_IRQFD, or the host has no descriptor or thread left.
    pub fn start(
        routing: &GsiRouting,
        event: &EventFd,
        gsi: u32,
        message: Message,
    ) -> Result<Self, GsiError> {
        if is_interrupt(message) {
            routing.assign_irqfd(event, gsi)?;
            return Ok(Self::Kvm);
        }
        let watch = routing.memory().watch(event, message);
        let _watch = watch.map_err(GsiError::Watch)?;
        Ok(Self::Memory { _watch })
    }

    /// Lets nobody take the events.
    ///
    /// # Errors
    /// The errno of KVM_IRQFD; KVM still takes the events.
    pub fn stop(
        &mut self,
        routing: &GsiRouting,
        event: &EventFd,
        gsi: u32,
    ) -> Result<(), GsiError> {
        if matches!(self, Self::Kvm) {
            routing.deassign_irqfd(event, gsi)?;
        }
        *self = Self::None;
        Ok(())
    }
}
