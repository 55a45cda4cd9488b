//! What the vCPUs' threads share.

use std::sync::Arc;

use crate::bus::Bus;
use crate::coalesced::Coalesced;
use crate::counters::exits::Exits;
use crate::guest_event::Notifier;
use crate::memory::dma_ready::DmaReady;

/// The parts of the VM that an exit may need.
#[derive(Clone)]
pub struct Shared {
    /// Dispatches port and MMIO accesses.
    pub bus: Arc<Bus>,
    /// Writes that KVM has kept; they come before the exit's own access.
    pub coalesced: Arc<Coalesced>,
    /// Where a vCPU waits that lets a device use RAM; told when the vCPUs are stopped.
    pub dma_ready: Arc<DmaReady>,
    /// Hears of a vCPU that cannot go on.
    pub notifier: Arc<Notifier>,
    /// Counts the exits.
    pub exits: Arc<Exits>,
    /// Asked when KVM cannot get a page.
    pub memory_faults: Arc<dyn MemoryFaultHandler>,
}

/// Decides whether a guest can go on when KVM cannot get one of its pages (KVM_RUN fails with
/// EFAULT; api.rst, 5, KVM_EXIT_MEMORY_FAULT).
pub trait MemoryFaultHandler: Send + Sync {
    /// Removes the page at a guest-physical address from the guest, or, where KVM does not tell the
    /// address, every page that may be meant. Returns whether the guest can go on.
    fn handle(&self, address: Option<u64>) -> bool;
}
