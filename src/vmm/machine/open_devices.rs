//! Opens the guest's devices while vCPUs are made and the kernel is loaded.

use std::sync::Arc;
use std::thread;

use crate::config::{VmConfig, slots, window};
use crate::hostinfo::iova;
use crate::hostinfo::sysfs::Sysfs;
use crate::layout::{Layout, Reach};
use crate::machine::error::MachineError;
use crate::machine::later_devices;
use crate::machine::ram_setup::RamSetup;
use crate::machine::vm::Vm;
use crate::memory::dma::Dma;
use crate::memory::dma_mapper::DmaMapper;
use crate::memory::populate_throttle::PopulatePause;
use crate::stats::Stats;
use crate::vfio::device::Device;
use crate::vfio::open::candidate::Candidate;
use crate::vfio::open::{DeviceSet, Opened, peers};
use crate::vfio::opener::Opener;
use crate::vfio::vfio_file::VfioFile;

/// Opens the devices on a thread of its own, while the calling thread runs `rest`: opening resets
/// each device, which takes a tenth of a second of waiting. Without devices no thread is started.
///
/// Populating RAM pauses while `rest` runs, and again from when the devices are open until the
/// returned value is dropped. In between, set-up only waits for the devices.
///
/// # Errors
/// The error of opening, or else that of `rest`.
pub(super) fn open_beside<R>(
    set: &DeviceSet,
    candidates: &[Candidate],
    ram: &RamSetup,
    rest: impl FnOnce() -> Result<R, MachineError>,
) -> Result<(Option<Opened>, R, PopulatePause), MachineError> {
    let paused = ram.pause();
    if candidates.is_empty() {
        return Ok((None, rest()?, paused));
    }
    let (opened, rest) = thread::scope(|scope| {
        let opening = scope.spawn(|| {
            let opened = set.open(candidates).map(Some);
            // Populating is paused before this thread ends, because ending needs the lock of the
            // address space.
            (opened, ram.pause())
        });
        let rest = rest();
        drop(paused);
        (opening.join(), rest)
    });
    let (opened, paused) = opened.map_err(|_| MachineError::Thread)?;
    Ok((opened?, rest?, paused))
}

/// Makes the IOMMU a listener of the guest's memory, if there are devices. Returns that listener,
/// and the layout with a 64-bit window for BARs and ports, and with a bus for each port. The window
/// lies in addresses that the IOMMU can map, if possible; with empty ports, the IOMMUs of all
/// devices that may come.
///
/// # Errors
/// The window does not fit, or RAM lies where the IOMMU cannot map.
pub(super) fn connect_iommu(
    vm: &Vm,
    opened: Option<&Opened>,
    reach: Reach,
    config: &VmConfig,
    stats: &Stats,
) -> Result<(Layout, Option<Arc<Dma>>), MachineError> {
    let last_bus = slots::ports(&config.vfio) + usize::from(config.ports.count);
    let last_bus = u8::try_from(last_bus).unwrap_or(u8::MAX);
    let later = match config.ports.count {
        0 => None,
        _ => {
            let groups = iova::Reach::of_groups(&Sysfs::default());
            Some(later_devices::mappable(&vm.layout, &groups)?)
        }
    };
    let devices = opened.map_or(&[][..], |opened| &opened.devices);
    let sizes = |device: &VfioFile| (0..6).map(|bar| device.region(bar).size).collect();
    let sizes: Vec<Vec<u64>> = devices.iter().map(|device| sizes(device)).collect();
    let bytes = window::bytes_above(&config.vfio, &config.ports, &sizes);
    let ranges = match (opened.map(|opened| opened.mapper.iova_ranges()), later) {
        (None, None) => return Ok((vm.layout, None)),
        (Some(now), None) => now.to_vec(),
        (None, Some(later)) => later,
        (Some(now), Some(later)) => iova::intersect(now, &later),
    };
    let layout = vm.layout.with_bars(bytes, reach, &ranges)?;
    let layout = layout.with_last_bus(last_bus);
    let Some(opened) = opened else {
        return Ok((layout, None));
    };
    let Opened { mapper, .. } = opened;
    // With several devices, each BAR is mapped for the other devices.
    let peers = devices.len() > 1;
    peers::tell(opened, &config.vfio);
    let (ram_size, meter) = (vm.ram.size(), Arc::clone(&stats.dma));
    let mapper = Arc::clone(mapper) as Arc<dyn DmaMapper>;
    let dma = Arc::new(Dma::new(mapper, ram_size, peers, meter));
    vm.space.subscribe(dma.clone())?;
    Ok((layout, Some(dma)))
}

/// Checks that the kernel has ended all calls for the devices. A run does not go on beside one that
/// sleeps, because a reset of the guest would wait for the call.
pub(super) fn check_calls(opener: &Opener) -> Result<(), MachineError> {
    match opener.given_up().into_iter().next() {
        Some(waiting) => Err(MachineError::Waits(waiting)),
        None => Ok(()),
    }
}
