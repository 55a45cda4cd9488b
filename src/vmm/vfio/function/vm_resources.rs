//! What a function uses of the VM.

use std::sync::Arc;

use crate::bus::Bus;
use crate::coalesced::zones::CoalescedZones;
use crate::gsi::routing::GsiRouting;
use crate::layout::Layout;
use crate::memory::AddressSpace;
use crate::memory::dma_ready::DmaReady;

/// What a function uses of the VM.
#[derive(Clone)]
pub struct VmResources {
    /// Takes the areas of BARs that the guest touches directly.
    pub space: Arc<AddressSpace>,
    /// Takes the ranges of BARs, whose accesses trap.
    pub bus: Arc<Bus>,
    /// Takes interrupts to the guest.
    pub router: Arc<GsiRouting>,
    /// Ranges of memory whose writes KVM keeps.
    pub zones: Arc<CoalescedZones>,
    /// The windows for BARs.
    pub layout: Layout,
    /// Where a vCPU waits until a device may use RAM.
    pub dma_ready: Arc<DmaReady>,
}
