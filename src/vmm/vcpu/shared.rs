//! The state that the vCPUs' threads share.

use std::sync::Arc;

use crate::bus::Bus;
use crate::coalesced::Coalesced;
use crate::counters::exits::Exits;
use crate::guest_event::Notifier;
use crate::memory::dma_ready::DmaReady;
use crate::sys::bus_error::Area;
use crate::vcpu::devices_open::DevicesOpen;
use crate::vcpu::pause::PausePoint;

/// The parts of the VM that an exit may need.
#[derive(Clone)]
pub struct Shared {
    /// Dispatches port and MMIO accesses.
    pub bus: Arc<Bus>,
    /// Coalesced writes, which are carried out before the exit's own access.
    pub coalesced: Arc<Coalesced>,
    /// Blocks a vCPU that enables bus mastering until all RAM is mapped for DMA; released when the
    /// vCPUs are stopped.
    pub dma_ready: Arc<DmaReady>,
    /// Blocks a vCPU that accesses a device before all are open; released when the vCPUs are
    /// stopped.
    pub devices_open: Arc<DevicesOpen>,
    /// Where the vCPUs wait during a pause.
    pub pause: Arc<PausePoint>,
    /// Gets an event when a vCPU cannot go on.
    pub notifier: Arc<Notifier>,
    /// Counts the exits.
    pub exits: Arc<Exits>,
    /// The guest's RAM, to find the guest's address of a page that the host has lost.
    pub ram: Arc<[Area]>,
    /// Called when KVM cannot get a page.
    pub memory_faults: Arc<dyn MemoryFaultHandler>,
}

/// Decides whether a guest can go on when KVM cannot get one of its pages (KVM_RUN fails with
/// EFAULT; api.rst, 5, KVM_EXIT_MEMORY_FAULT).
pub trait MemoryFaultHandler: Send + Sync {
    /// Removes the page at a guest-physical address from the guest. If KVM does not tell the
    /// address, removes every page that may be missing. Returns whether the guest can go on.
    fn handle(&self, address: Option<u64>) -> bool;
}
