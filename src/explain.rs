//! `explain`: shows what a run would do with its devices. The explanation comes from the code that
//! a run uses.
//!
//! No VM is created. If VFIO can open a device, explain opens it as a run does, which resets the
//! device. For any other device, explain reads sysfs, and the report names the problem.

mod error;
mod picture;
pub mod register_names;
mod registers;
pub mod report;
mod source;
mod subject;
mod text;

use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use host::bind::DEFAULT_LIMIT;
use host::limited;
use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::Kvm;
use pci::Bdf;
use pci::bridge_windows::Reserve;
use pci::tree_assignment::{TreeFunction, assign_tree};
use report::{Cpus, Dma, Explanation, PeerToPeer, Problem};
use subject::{NOWHERE, Subject};
use vmm::boot::Images;
use vmm::config::device::{DeviceConfig, RomConfig, Slot};
use vmm::config::memory::Pages;
use vmm::config::port::{self, PortDecision};
use vmm::config::port_fit;
use vmm::config::ports::OCCUPIED;
use vmm::config::slots::{self, GuestAddress};
use vmm::config::{Iommu, VmConfig, window};
use vmm::hostinfo::name::{HostName, parse_address};
use vmm::hostinfo::resizable;
use vmm::hostinfo::sysfs::Sysfs;
use vmm::layout::{Layout, Reach};
use vmm::log::degraded;
use vmm::log::error_chain::with_causes;
use vmm::memory::dma_mapper::DmaMapper;
use vmm::memory::hugetlb;
use vmm::sandbox::run_as::RunAs;
use vmm::sys::memlock_limit;
use vmm::vcpu;
use vmm::vfio::device::SharedDevice;
use vmm::vfio::function::{expected, rom};
use vmm::vfio::kernel_calls::{opener_here, opener_or_here};
use vmm::vfio::open;
use vmm::vfio::open::Opened;
use vmm::vfio::open::peers::Way;

pub use error::ExplainError;

/// Explains what a run with this configuration would do with its devices.
///
/// # Errors
/// There is no device at an address, or memory or BARs do not fit the address space. A device that
/// cannot be passed through is no error: the report names the problem.
pub fn explain(sysfs: &Sysfs, config: &VmConfig) -> Result<Explanation, ExplainError> {
    let mut configs = config.vfio.clone();
    let mut decisions = port::decide_all(sysfs, &configs, |_, path| limited::read(path));
    port::apply(&mut configs, &decisions);
    let opener = match configs.is_empty() {
        true => opener_here(),
        false => opener_or_here(DEFAULT_LIMIT),
    };
    let mut problems = Vec::new();
    let handed_over = configs.iter().any(|config| config.given.is_some());
    if handed_over && any_mediated(&configs) {
        return Err(ExplainError::Given);
    }
    // The kernel binds an open file once, and the run needs that.
    let opened = open::find(sysfs, &configs).and_then(|candidates| match handed_over {
        true => Ok(None),
        false => open::open(&candidates, config.iommu, &opener),
    });
    let opened = match opened {
        Ok(opened) => opened,
        // sysfs shows no registers of a mediated device, so there is nothing to explain.
        Err(e) if any_mediated(&configs) => return Err(e.into()),
        Err(e) => {
            problems.push(problem(&e, e.hint()));
            None
        }
    };
    if let Some(opened) = &opened {
        open::peers::tell(opened, &configs);
    }
    let mut devices = Vec::new();
    for (i, (config, decision)) in configs.iter().zip(&decisions).enumerate() {
        let device = opened.as_ref().and_then(|opened| opened.devices.get(i));
        devices.push(Subject::read(
            sysfs,
            config,
            *decision,
            device.map(|d| &**d),
        )?);
    }

    let reach = reach();
    let layout = Layout::new(config.memory.size, 0, reach)?;
    let bars: Vec<_> = devices.iter().map(|device| device.bars.clone()).collect();
    let windows = layout.windows();
    port_fit::fit(&mut configs, &mut decisions, &bars, &windows, &config.ports);
    let regions = devices.iter().map(|device| device.source.regions.iter());
    let sizes: Vec<Vec<u64>> = regions.map(|all| all.map(|r| r.size).collect()).collect();
    let bytes = window::bytes_above(&configs, &config.ports, &sizes);
    let usable = opened.as_ref().map_or(&[][..], |o| o.mapper.iova_ranges());
    let buses = slots::ports(&configs) + usize::from(config.ports.count);
    let layout = layout
        .with_bars(bytes, reach, usable)?
        .with_last_bus(u8::try_from(buses).unwrap_or(u8::MAX));
    // Slots that cannot be are among the problems already.
    let (addresses, empty) =
        slots::assign_with_empty(&configs, config.ports.count).unwrap_or_default();
    set_positions(&mut devices, &decisions, &addresses);
    assign_addresses(&mut devices, &empty, config.ports.reserve, &layout)?;

    problems.extend(kernel_problem(config, &layout));
    problems.extend(losses(config, &devices, opened.as_ref()));
    let at_first: Vec<_> = devices.iter().flat_map(Subject::first_bars).collect();
    Ok(Explanation {
        problems,
        degraded: degraded::list(),
        guest_memory: picture::areas(&layout, &at_first),
        dma: dma(&layout, config, opened.as_ref()),
        devices: devices.into_iter().map(Subject::report).collect(),
        guest_cpus: Cpus {
            count: config.cpus.count(),
            nested: config.cpus.nested,
            pmu: config.cpus.pmu,
        },
    })
}

/// Sets where each device is in the guest, and what a root port above it shows.
fn set_positions(devices: &mut [Subject], decisions: &[PortDecision], addresses: &[GuestAddress]) {
    let own: Vec<_> = devices.iter().map(|device| device.path_to_root).collect();
    let paths = slots::paths(&own, addresses);
    let positions = decisions.iter().zip(addresses).zip(paths);
    for (device, ((decision, address), path)) in devices.iter_mut().zip(positions) {
        (device.guest, device.port) = address.in_tree();
        device.decision = *decision;
        device.path_to_root = path;
    }
}

/// What explain does otherwise than a run with this configuration, if there is such a thing.
pub fn note(config: &VmConfig) -> Option<String> {
    config.vfio.iter().any(|d| d.given.is_some()).then(|| {
        "explain reads all devices from sysfs, because an open file can be bound once, by the run"
            .into()
    })
}

/// Gives each BAR its first address, and each bus behind a root port its number, as a run does.
fn assign_addresses(
    devices: &mut [Subject],
    empty: &[Slot],
    reserve: Reserve,
    layout: &Layout,
) -> Result<(), ExplainError> {
    let mut ports: Vec<_> = devices.iter().filter_map(|device| device.port).collect();
    ports.extend(empty.iter().map(|slot| on_root(*slot)));
    ports.sort();
    ports.dedup();
    let is_empty = |port: &Bdf| empty.iter().any(|slot| on_root(*slot) == *port);
    let with_reserve: Vec<_> = ports
        .iter()
        .map(|port| (*port, if is_empty(port) { reserve } else { OCCUPIED }))
        .collect();
    let functions = devices.iter_mut().map(|device| TreeFunction {
        name: device.guest,
        port: device.port,
        bars: &mut device.bars,
    });
    let setups = assign_tree(functions.collect(), &with_reserve, &layout.windows())?;
    for device in devices {
        let index = ports.iter().position(|port| Some(*port) == device.port);
        if let Some(setup) = index.and_then(|index| setups.get(index)) {
            device.guest.bus = setup.secondary;
        }
    }
    Ok(())
}

/// Lists what the guest will have less of. Returns the reasons why a run would fail.
fn losses(config: &VmConfig, devices: &[Subject], opened: Option<&Opened>) -> Vec<Problem> {
    if config.memory.pages == Pages::Transparent {
        hugetlb::tell_if_none(config.memory.shared);
    }
    let names: Vec<_> = devices.iter().map(|d| d.name.to_string()).collect();
    for (name, subject) in names.iter().zip(devices) {
        port::tell_loss(name, &subject.decision);
        resizable::tell_if_small(name, &subject.path, limited::read);
    }
    let Some(opened) = opened else {
        return Vec::new();
    };
    let mut problems = Vec::new();
    for (device, subject) in opened.devices.iter().zip(devices) {
        let image = &subject.source.image;
        rom::tell_if_empty(&**device, image, &subject.rom);
        let device: SharedDevice = device.clone();
        if let Err(e) = expected::tell(&device, image, &subject.bars, &names) {
            problems.push(problem(&e, e.hint()));
        }
    }
    problems
}

fn any_mediated(configs: &[DeviceConfig]) -> bool {
    let names = configs.iter().map(|c| parse_address(&c.address));
    names
        .flatten()
        .any(|name| matches!(name, HostName::Mediated(_)))
}

/// Checks that the kernel, if the user names a kernel, fits the guest.
fn kernel_problem(config: &VmConfig, layout: &Layout) -> Option<Problem> {
    if config.kernel.as_os_str().is_empty() {
        return None;
    }
    let images = Images::open(&config.kernel, config.initrd.as_deref());
    let checked = images.and_then(|images| images.check(layout, &config.cmdline));
    checked.err().map(|e| problem(&e, e.hint()))
}

/// The files of a run that its user may not read. This process must have one thread.
pub fn unreadable_files(user: &RunAs, config: &VmConfig) -> Vec<Problem> {
    let roms = config.vfio.iter().filter_map(|device| match &device.rom {
        RomConfig::File(path) => Some(path),
        RomConfig::Device | RomConfig::Off => None,
    });
    let kernel = Some(&config.kernel).filter(|path| !path.as_os_str().is_empty());
    let files = kernel.into_iter().chain(&config.initrd).chain(roms);
    let refused = |path: &PathBuf| match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Some(Problem {
            problem: format!(
                "the run's user {} may not read {}",
                user.name,
                path.display()
            ),
            hint: Some(format!(
                "sudo chmod a+r {} (and a+x for the folders on the way)",
                path.display()
            )),
        }),
        // Whatever else is wrong with a file is told of it without a user.
        _ => None,
    };
    match user.try_as(|| files.filter_map(refused).collect()) {
        Ok(problems) => problems,
        Err(e) => vec![problem(&e, Some(e.hint()))],
    }
}

fn problem(error: &dyn Error, hint: Option<String>) -> Problem {
    Problem {
        problem: with_causes(error),
        hint,
    }
}

/// The guest-physical addresses that a VM can use: from KVM if possible, otherwise from the
/// processor.
fn reach() -> Reach {
    let kvm = Kvm::new().and_then(|kvm| kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES));
    let processor = |_| Reach {
        bits: processor_bits(),
        amd: vcpu::cpuid::host::is_amd(),
    };
    kvm.map_or_else(processor, |cpuid| vcpu::reach(&cpuid))
}

/// Reads the line `address sizes : 46 bits physical, ...` of /proc/cpuinfo. Without this line, the
/// width is 36.
fn processor_bits() -> u8 {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let sizes = text
        .lines()
        .find_map(|line| line.strip_prefix("address sizes"));
    let number = sizes.and_then(|sizes| sizes.split_whitespace().nth(1)?.parse().ok());
    number.unwrap_or(36)
}

fn dma(layout: &Layout, config: &VmConfig, opened: Option<&Opened>) -> Dma {
    let usable = opened.map_or(&[][..], |o| o.mapper.iova_ranges());
    let limit = memlock_limit();
    Dma {
        interface: opened.map(|o| o.interface),
        peer_to_peer: peer_to_peer(config, opened),
        maps: layout.ram().map(|r| picture::extent(&r)).collect(),
        usable: usable.iter().map(picture::extent).collect(),
        reserved: picture::gaps(usable).iter().map(picture::extent).collect(),
        pinned: config.memory.size,
        memlock: (limit != libc::RLIM_INFINITY).then_some(limit),
    }
}

/// How the devices will reach each other's BARs. iommufd's answer is the devices', which are asked
/// when they are open.
fn peer_to_peer(config: &VmConfig, opened: Option<&Opened>) -> Option<PeerToPeer> {
    if config.vfio.len() > 1 && config.vfio.iter().all(|device| !device.mechanisms.mmap) {
        return Some(PeerToPeer::Missing);
    }
    let Some(opened) = opened else {
        return (config.vfio.len() > 1).then_some(match config.iommu {
            Iommu::Container => PeerToPeer::Address,
            Iommu::Auto | Iommu::Iommufd | Iommu::Given(_) => PeerToPeer::Unknown,
        });
    };
    Some(match open::peers::way(opened)? {
        Way::Address => PeerToPeer::Address,
        Way::DmaBuf => PeerToPeer::DmaBuf,
        Way::Missing => PeerToPeer::Missing,
    })
}

fn on_root(slot: Slot) -> Bdf {
    Bdf {
        device: slot.device,
        function: slot.function,
        ..NOWHERE
    }
}
