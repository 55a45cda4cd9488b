//! Opens the guest's devices while vCPUs are made and the kernel is loaded, or beside the guest.

use std::sync::Arc;
use std::thread;

use pci::bar::Bars;

use crate::config::device::DeviceConfig;
use crate::config::{VmConfig, slots, window};
use crate::guest_event::Notifier;
use crate::hostinfo::iova;
use crate::hostinfo::sysfs::Sysfs;
use crate::layout::{Layout, Reach};
use crate::machine::early::Early;
use crate::machine::error::MachineError;
use crate::machine::opening::Opening;
use crate::machine::ram_setup::RamSetup;
use crate::machine::vm::Vm;
use crate::machine::{later_devices, port_choice};
use crate::memory::address_space::AddressSpace;
use crate::memory::dma::Dma;
use crate::memory::dma_mapper::DmaMapper;
use crate::memory::populate_throttle::PopulatePause;
use crate::stats::Stats;
use crate::vcpu::devices_open::DevicesOpen;
use crate::vfio::device::Device;
use crate::vfio::open::candidate::Candidate;
use crate::vfio::open::{DeviceSet, Opened, peers};
use crate::vfio::opener::Opener;
use crate::vfio::vfio_file::VfioFile;

/// The devices with which the guest begins.
pub(super) enum First {
    None,
    /// They are open before the guest runs.
    Open(Opened),
    /// They are opened beside the guest, by this interface.
    Opening(Opening, Early, &'static str),
}

impl First {
    /// The interface that opens them; `None` without devices.
    pub fn interface(&self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Open(opened) => Some(opened.interface),
            Self::Opening(_, _, interface) => Some(interface),
        }
    }

    /// Their BARs; `None` if one does not answer.
    pub fn bars(&self) -> Option<Vec<Bars>> {
        match self {
            Self::None => Some(Vec::new()),
            Self::Open(opened) => port_choice::bars_of(opened),
            Self::Opening(_, early, _) => Some(early.bars.clone()),
        }
    }
}

/// Begins to open the devices, while the calling thread runs `rest`: opening resets each device,
/// which takes a tenth of a second of waiting. Without devices no thread is started. With `early`,
/// the devices are opened beside the guest.
///
/// Populating RAM pauses while `rest` runs, and until the returned value is dropped, but not while
/// set-up only waits for the devices.
///
/// # Errors
/// The error of opening, or else that of `rest`.
pub(super) fn open_beside<R>(
    set: &Arc<DeviceSet>,
    candidates: &[Candidate],
    early: Option<Early>,
    latch: &Arc<DevicesOpen>,
    (ram, notifier): (&RamSetup, &Arc<Notifier>),
    rest: impl FnOnce() -> Result<R, MachineError>,
) -> Result<(First, R, PopulatePause), MachineError> {
    let paused = ram.pause();
    if candidates.is_empty() {
        return Ok((First::None, rest()?, paused));
    }
    if let Some(early) = early {
        let starting = Opening::start(set, candidates, latch, notifier)?;
        let rest = rest();
        let (opening, interface) = starting.wait()?;
        return Ok((First::Opening(opening, early, interface), rest?, paused));
    }
    let (opened, rest) = thread::scope(|scope| {
        let opening = scope.spawn(|| {
            let opened = set.open(candidates);
            // Populating is paused before this thread ends, because ending needs the lock of the
            // address space.
            (opened, ram.pause())
        });
        let rest = rest();
        drop(paused);
        (opening.join(), rest)
    });
    let (opened, paused) = opened.map_err(|_| MachineError::Thread)?;
    Ok((First::Open(opened?), rest?, paused))
}

/// Returns the layout with a 64-bit window for BARs and ports, and with a bus for each port. The
/// window lies in addresses that the IOMMU can map, if possible; with empty ports, the IOMMUs of
/// all devices that may come.
///
/// # Errors
/// The window does not fit, or no device could be added later.
pub(super) fn layout(
    vm: &Vm,
    first: &First,
    reach: Reach,
    config: &VmConfig,
) -> Result<Layout, MachineError> {
    let last_bus = slots::ports(&config.vfio) + usize::from(config.ports.count);
    let last_bus = u8::try_from(last_bus).unwrap_or(u8::MAX);
    let later = match config.ports.count {
        0 => None,
        _ => {
            let groups = iova::Reach::of_groups(&Sysfs::default());
            Some(later_devices::mappable(&vm.layout, &groups)?)
        }
    };
    let (sizes, now) = match first {
        First::None => (Vec::new(), None),
        First::Open(opened) => {
            let sizes = |device: &VfioFile| (0..6).map(|bar| device.region(bar).size).collect();
            let sizes = opened.devices.iter().map(|device| sizes(device)).collect();
            (sizes, Some(opened.mapper.iova_ranges()))
        }
        First::Opening(_, early, _) => (early.sizes(), Some(&early.ranges[..])),
    };
    let bytes = window::bytes_above(&config.vfio, &config.ports, &sizes);
    let ranges = match (now, later) {
        (None, None) => return Ok(vm.layout),
        (Some(now), None) => now.to_vec(),
        (None, Some(later)) => later,
        (Some(now), Some(later)) => iova::intersect(now, &later),
    };
    let layout = vm.layout.with_bars(bytes, reach, &ranges)?;
    Ok(layout.with_last_bus(last_bus))
}

/// Makes the IOMMU a listener of the guest's memory, for devices that are open. Returns that
/// listener.
///
/// # Errors
/// RAM lies where the IOMMU cannot map.
pub(super) fn connect_iommu(
    (space, ram_size): (&AddressSpace, u64),
    opened: &Opened,
    configs: &[DeviceConfig],
    stats: &Stats,
) -> Result<Arc<Dma>, MachineError> {
    // With several devices, each BAR is mapped for the other devices.
    let peers = opened.devices.len() > 1;
    peers::tell(opened, configs);
    let mapper = Arc::clone(&opened.mapper) as Arc<dyn DmaMapper>;
    let dma = Arc::new(Dma::new(mapper, ram_size, peers, Arc::clone(&stats.dma)));
    space.subscribe(dma.clone())?;
    Ok(dma)
}

/// Checks that the kernel has ended all calls for the devices. A run does not go on beside one that
/// sleeps, because a reset of the guest would wait for the call.
pub(super) fn check_calls(opener: &Opener) -> Result<(), MachineError> {
    match opener.given_up().into_iter().next() {
        Some(waiting) => Err(MachineError::Waits(waiting)),
        None => Ok(()),
    }
}
