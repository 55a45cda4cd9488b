//! An interrupt as a report shows it.

use std::os::fd::AsRawFd;

use crate::gsi::msi_irqfd::MsiIrqfd;

/// An eventfd that VFIO signals, and the GSI that KVM raises for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IrqfdView {
    /// The GSI.
    pub gsi: u32,
    /// The eventfd's number in this process.
    pub eventfd: i32,
    /// Whether KVM, or a thread with `irqfd=off`, listens to the eventfd; if not, interrupts gather
    /// in it.
    pub assigned: bool,
    /// Whether interrupts have gathered.
    pub pending: bool,
}

impl IrqfdView {
    /// What an interrupt looks like now.
    pub fn of(irqfd: &MsiIrqfd) -> Self {
        Self {
            gsi: irqfd.gsi(),
            eventfd: irqfd.event().as_raw_fd(),
            assigned: irqfd.is_unmasked(),
            pending: irqfd.pending(),
        }
    }
}
