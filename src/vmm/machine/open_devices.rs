//! The guest's devices, opened while vCPUs are made and the kernel is loaded.

use std::sync::Arc;
use std::thread;

use kvm_ioctls::VmFd;

use crate::config::Iommu;
use crate::layout::Layout;
use crate::machine::error::MachineError;
use crate::machine::ram_setup::RamSetup;
use crate::machine::vm::Vm;
use crate::memory::dma::Dma;
use crate::memory::populate_throttle::PopulatePause;
use crate::stats::Stats;
use crate::vfio::device::Device;
use crate::vfio::open::candidate::Candidate;
use crate::vfio::open::{self, Opened};

/// Opens the devices on a thread of its own, while `rest` is done on this one: opening resets each
/// device, which is a tenth of a second of waiting. Without devices there is no thread.
///
/// Populating RAM pauses while `rest` is done, and again when the devices are open, until the
/// returned value is dropped. In between, set-up only waits for the devices. Opening starts its own
/// threads while `rest` is still being done.
///
/// # Errors
/// The error of opening, or else that of `rest`.
pub(super) fn open_beside<R>(
    vm: &VmFd,
    candidates: &[Candidate],
    iommu: Iommu,
    ram: &RamSetup,
    rest: impl FnOnce() -> Result<R, MachineError>,
) -> Result<(Option<Opened>, R, PopulatePause), MachineError> {
    let paused = ram.pause();
    if candidates.is_empty() {
        return Ok((None, rest()?, paused));
    }
    let (opened, rest) = thread::scope(|scope| {
        let opening = scope.spawn(|| {
            let opened = open::open(Some(vm), candidates, iommu);
            // Paused before this thread ends, which needs the lock of the address space.
            (opened, ram.pause())
        });
        let rest = rest();
        drop(paused);
        (opening.join(), rest)
    });
    let (opened, paused) = opened.map_err(|_| MachineError::Thread)?;
    Ok((opened?, rest?, paused))
}

/// Makes the IOMMU a listener of the guest's memory, if there are devices. Returns what maps RAM,
/// and the layout with a 64-bit window for the BARs, where possible inside of what the IOMMU can
/// map.
///
/// # Errors
/// The BARs do not fit, or RAM lies where the IOMMU cannot map.
pub(super) fn connect_iommu(
    vm: &Vm,
    opened: Option<&Opened>,
    phys_bits: u8,
    stats: &Stats,
) -> Result<(Layout, Option<Arc<Dma>>), MachineError> {
    let Some(Opened {
        devices, mapper, ..
    }) = opened
    else {
        return Ok((vm.layout, None));
    };
    let regions = devices
        .iter()
        .flat_map(|device| (0..6).map(|bar| device.region(bar).size));
    // An upper bound: some of the BARs may be 32-bit ones.
    let bars = regions.fold(0, u64::saturating_add);
    let layout = vm.layout.with_bars(bars, phys_bits, mapper.iova_ranges())?;
    // A BAR is mapped for the other devices, if there are any.
    let peers = devices.len() > 1;
    let (ram_size, meter) = (vm.ram.size(), Arc::clone(&stats.dma));
    let dma = Arc::new(Dma::new(Arc::clone(mapper), ram_size, peers, meter));
    vm.space.subscribe(dma.clone())?;
    Ok((layout, Some(dma)))
}
