//! The parts of the VM that a function uses.

use std::sync::Arc;

use crate::bus::Bus;
use crate::coalesced::zones::CoalescedZones;
use crate::gsi::by_thread::InterruptThread;
use crate::gsi::delivery::Delivery;
use crate::gsi::routing::GsiRouting;
use crate::layout::Layout;
use crate::memory::AddressSpace;
use crate::memory::dma_ready::DmaReady;

/// The parts of the VM that a function uses.
#[derive(Clone)]
pub struct VmResources {
    /// Takes the areas of BARs that the guest touches directly.
    pub space: Arc<AddressSpace>,
    /// Takes the ranges of BARs, whose accesses trap.
    pub bus: Arc<Bus>,
    /// Routes interrupts to the guest.
    pub routing: Arc<GsiRouting>,
    /// Delivers the interrupts of devices with `irqfd=off`.
    pub interrupt_thread: Arc<InterruptThread>,
    /// Zones of coalesced MMIO.
    pub zones: Arc<CoalescedZones>,
    /// The windows for BARs.
    pub layout: Layout,
    /// Blocks a vCPU that enables bus mastering until all RAM is mapped for DMA.
    pub dma_ready: Arc<DmaReady>,
}

impl VmResources {
    /// How the interrupts of one device reach KVM.
    pub(super) fn delivery(&self, irqfd: bool) -> Delivery {
        Delivery::new(Arc::clone(&self.routing), irqfd, &self.interrupt_thread)
    }
}
