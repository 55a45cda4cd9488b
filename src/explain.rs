//! `explain`: shows what a run would do with its devices. The explanation comes from the code that
//! a run uses.
//!
//! No VM is created. If VFIO can open a device, explain opens it as a run does, which resets the
//! device. For any other device, explain reads sysfs, and the report names the problem.

mod picture;
pub mod register_names;
mod registers;
pub mod report;
mod source;
mod text;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{fs, io};

use host::bind::DEFAULT_LIMIT;
use host::limited;
use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::Kvm;
use pci::Bdf;
use pci::addr::Range;
use pci::bar::{BAR_COUNT, BarError, BarKind, Bars};
use pci::bar_assignment::AssignError;
use pci::bridge_windows::Reserve;

use pci::clique;
use pci::clique::CliqueError;
use pci::host_path::HostPath;
use pci::msix::MsixCapability;
use pci::msix_layout::MsixLayout;
use pci::regs;
use pci::tree_assignment::{TreeFunction, assign_tree};
use report::{
    Bar, Cpus, Device, Dma, Explanation, Group, Interrupt, Member, PeerToPeer, Piece, Problem,
};
use source::Source;
use vmm::boot::Images;
use vmm::config::device::{DeviceConfig, Slot};
use vmm::config::memory::Pages;
use vmm::config::port::{self, PortDecision};
use vmm::config::ports::OCCUPIED;
use vmm::config::slots::{self, GuestAddress};
use vmm::config::{Iommu, VmConfig, window};
use vmm::hostinfo::name::{HostName, parse_address};
use vmm::hostinfo::pci_device::PciDevice;
use vmm::hostinfo::sysfs;
use vmm::hostinfo::sysfs::Sysfs;
use vmm::hostinfo::{resets, resizable};
use vmm::layout::{Layout, LayoutError, Reach};
use vmm::log::degraded;
use vmm::log::error_chain::with_causes;
use vmm::memory::hugetlb;
use vmm::sys::memlock_limit;
use vmm::vfio::device::{IrqInfo, SharedDevice};
use vmm::vfio::function::policy::Original;
use vmm::vfio::function::rom::{RomError, RomSource};
use vmm::vfio::function::{expected, mmap_areas, policy, rom, snapshot};
use vmm::vfio::host_path;
use vmm::vfio::kernel_calls::{opener_here, opener_or_here};
use vmm::vfio::open;
use vmm::vfio::open::peers::Way;
use vmm::vfio::open::{Opened, VfioError};
use vmm::vfio::vfio_file::VfioFile;
use vmm::{layout, vcpu};

/// The reason why explain fails.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The address is invalid, or the host has no such device.
    #[error(transparent)]
    Vfio(#[from] VfioError),
    /// The ROM file cannot be used.
    #[error(transparent)]
    Rom(#[from] RomError),
    /// The memory does not fit the address space.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// sysfs cannot be read.
    #[error("cannot read facts about {} from sysfs", .name.in_words())]
    Sysfs {
        /// The device.
        name: HostName,
        /// The errno.
        source: io::Error,
    },
    /// The BARs contradict the specification.
    #[error("{}: {source}", .name.in_words())]
    Bars {
        /// The device.
        name: HostName,
        /// What is wrong.
        source: BarError,
    },
    /// The device gets no clique.
    #[error("{}: {source}", .name.in_words())]
    Clique {
        /// The device.
        name: HostName,
        /// Why not.
        source: CliqueError,
    },
    /// The BARs do not fit the address space.
    #[error(transparent)]
    Assign(#[from] AssignError),
    /// Only the file of a mediated device shows its registers, and explain must not use the file.
    #[error(
        "a device by an open file is explained by sysfs, which shows no registers of a mediated \
         device: to read them, explain would have to bind the file, which can be bound once"
    )]
    Given,
}

impl ExplainError {
    /// The remedy, most often a command to type.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Vfio(e) => e.hint(),
            Self::Rom(e) => Some(e.hint()),
            Self::Clique { name, .. } => Some(format!("remove `clique=` for --vfio {name}")),
            Self::Given => Some("name the devices by their addresses and UUIDs".into()),
            Self::Layout(_) => Some("give the guest less with --memory".into()),
            Self::Assign(e) => Some(window::remedy(e).into()),
            _ => None,
        }
    }
}

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
        false => open::open(None, &candidates, config.iommu, &opener),
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
        open::peers::tell(opened);
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
    port::fit(&mut configs, &mut decisions, &bars, &windows, &config.ports);
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

/// The address of a device that gets none, because the guest has too many.
const NOWHERE: Bdf = Bdf {
    segment: 0,
    bus: 0,
    device: 0,
    function: 0,
};

fn on_root(slot: Slot) -> Bdf {
    Bdf {
        device: slot.device,
        function: slot.function,
        ..NOWHERE
    }
}

/// A device to explain.
struct Subject {
    name: HostName,
    /// Its directory in sysfs.
    path: PathBuf,
    rom: RomSource,
    guest: Bdf,
    /// The root port above the device in the guest.
    port: Option<Bdf>,
    decision: PortDecision,
    /// What a root port above the device shows.
    path_to_root: HostPath,
    driver: Option<String>,
    group: Option<Group>,
    resets: Vec<String>,
    source: Source,
    /// The configuration space with what mini-vmm adds to the device's.
    shown: Vec<u8>,
    bars: Bars,
    msix: Option<MsixCapability>,
}

impl Subject {
    fn read(
        sysfs: &Sysfs,
        config: &DeviceConfig,
        decision: PortDecision,
        device: Option<&VfioFile>,
    ) -> Result<Self, ExplainError> {
        let name = parse_address(&config.address)
            .map_err(|_| VfioError::BadAddress(config.address.clone()))?;
        let unreadable = |source| ExplainError::Sysfs { name, source };
        let path = sysfs.path_of(name);
        if !path.exists() {
            return Err(match name {
                HostName::Pci(bdf) => VfioError::NoDevice(bdf).into(),
                HostName::Mediated(uuid) => VfioError::NoMediated(uuid).into(),
            });
        }
        let source = match device {
            Some(device) => Source::device(device).map_err(VfioError::Device)?,
            None => Source::sysfs(&path).map_err(unreadable)?,
        };
        let mut shown = source.image.clone();
        if let Some(number) = config.clique {
            let in_use = policy::in_use(&source.image, &source.hardware);
            clique::add(&mut shown, number, &in_use)
                .map_err(|source| ExplainError::Clique { name, source })?;
        }
        let sizes = source.regions.each_ref().map(|region| region.size);
        let from = RomSource::load(&config.rom)?;
        let rom = from.size(&name.to_string(), &source.rom);
        let bars = Bars::decode(source.raw_bars(), sizes)
            .and_then(|bars| match rom {
                0 => Ok(bars),
                size => bars.with_rom(size),
            })
            .map_err(|source| ExplainError::Bars { name, source })?;
        snapshot::tell_losses(&name.to_string(), &source.image);
        let path_to_root = match device {
            Some(device) => host_path::of(device).map_err(VfioError::Device)?,
            None => source.path(sysfs, name),
        };
        Ok(Self {
            name,
            guest: NOWHERE,
            port: None,
            decision,
            path_to_root,
            driver: sysfs::link_name(&path.join("driver")).map_err(unreadable)?,
            group: group(sysfs, name, &path).map_err(unreadable)?,
            resets: resets::methods(&path),
            msix: MsixCapability::parse(&source.image),
            source,
            shown,
            bars,
            path,
            rom: from,
        })
    }

    /// The memory BARs at their first addresses.
    fn first_bars(&self) -> Vec<picture::FirstBar> {
        self.bars
            .iter()
            .filter(|(_, bar, _)| !bar.kind.is_io())
            .map(|(index, bar, start)| {
                let range = Range {
                    start,
                    size: bar.size,
                };
                (format!("BAR {index} of {}", self.guest), range)
            })
            .collect()
    }

    fn report(self) -> Device {
        let name = self.name.to_string();
        let original = Original {
            name: &name,
            snapshot: &self.shown,
            hardware: &self.source.hardware,
            bar_0: self.source.regions[0].size,
            port: self.port.map(|_| self.path_to_root),
        };
        let mut config = policy::apply(&original);
        // BAR registers have the values that firmware leaves.
        for register in 0..BAR_COUNT as u16 {
            let offset = regs::BAR + 4 * register;
            let mut value = [0; 4];
            self.bars.read(offset, &mut value);
            config.set_u32(offset, u32::from_le_bytes(value));
        }
        if self.source.irqs[0].is_some() {
            config.set_u8(
                regs::INTERRUPT_PIN,
                self.guest.function % layout::INTX_PINS + 1,
            );
        }
        Device {
            host: name.clone(),
            guest: self.guest.to_string(),
            port: self.port.map(|port| port.to_string()),
            port_reason: self.decision.to_string(),
            link: self.port.map(|_| self.path_to_root.link.to_string()),
            bars: self.bars.iter().map(|bar| self.bar(bar)).collect(),
            interrupts: self.interrupts(),
            registers: registers::fields(&original, &config),
            partial: self.source.partial,
            driver: self.driver,
            group: self.group,
            resets: self.resets,
        }
    }

    /// Describes the mapped and the trapped parts of a BAR, as in a run.
    fn bar(&self, (index, bar, address): (usize, &pci::bar::Bar, u64)) -> Bar {
        let prefetchable = |yes| if yes { ", prefetchable" } else { "" };
        let kind = match bar.kind {
            BarKind::Io => "ports".into(),
            BarKind::Rom => "expansion ROM, from a copy".into(),
            BarKind::Memory32 { prefetchable: p } => format!("32-bit memory{}", prefetchable(p)),
            BarKind::Memory64 { prefetchable: p } => format!("64-bit memory{}", prefetchable(p)),
        };
        let mappable = match self.source.regions.get(index) {
            Some(region) if !bar.kind.is_io() => region.mappable.as_slice(),
            _ => &[],
        };
        let msix = self.msix.as_ref();
        let hidden = msix.map(|msix| MsixLayout::of(msix).ranges(index));
        let mut hidden = hidden.unwrap_or_default();
        hidden.extend(self.source.mirrors.get(index).into_iter().flatten());
        let mapped = mmap_areas::plan(bar.size, mappable, &hidden);
        let as_ranges = |parts: &[(u64, u64)]| -> Vec<Range> {
            let ranges = parts.iter().map(|&(start, size)| Range { start, size });
            ranges.collect()
        };
        let beyond = Range {
            start: bar.size,
            size: 0,
        };
        let mut ranges = as_ranges(&mapped);
        ranges.push(beyond);
        let piece = |range: &Range| Piece {
            offset: picture::hex(range.start),
            size: range.size,
        };
        Bar {
            index,
            kind,
            size: bar.size,
            guest: picture::hex(address),
            trapped: picture::gaps(&ranges).iter().map(piece).collect(),
            mapped: as_ranges(&mapped).iter().map(piece).collect(),
        }
    }

    /// The kinds of interrupt that the guest may choose from, the best first.
    fn interrupts(&self) -> Vec<Interrupt> {
        let [intx, msi, msix] = self.source.irqs;
        let adding = |irq: IrqInfo| match irq.resizable {
            true => "vectors are added while others are live",
            false => "to add a vector, the others are off for a moment",
        };
        let pin = self.guest.function % layout::INTX_PINS;
        // A port passes the pins of its link's device 0 on as its own.
        let gsi = layout::gsi_of_pin(self.port.unwrap_or(self.guest).device, pin);
        let pin_name = char::from(b'A' + pin);
        let ways = [
            msix.zip(self.msix).map(|(irq, capability)| Interrupt {
                kind: "MSI-X",
                vectors: irq.count.min(capability.vectors.into()),
                way: format!(
                    "an eventfd for each vector in use, from VFIO to KVM; {}",
                    adding(irq)
                ),
            }),
            msi.map(|irq| Interrupt {
                kind: "MSI",
                vectors: irq.count,
                way: "an eventfd for each message, from VFIO to KVM".into(),
            }),
            intx.map(|irq| Interrupt {
                kind: "INTx",
                vectors: irq.count,
                way: format!(
                    "INT{pin_name}, GSI {gsi}: a level, unmasked when the guest has served it"
                ),
            }),
        ];
        ways.into_iter().flatten().collect()
    }
}

fn group(sysfs: &Sysfs, name: HostName, path: &Path) -> io::Result<Option<Group>> {
    let number = sysfs::link_name(&path.join("iommu_group"))?.and_then(|g| g.parse().ok());
    let Some(number) = number else {
        return Ok(None);
    };
    let members = sysfs.group_members(number)?;
    let mut members: Vec<Member> = members.iter().map(member).collect();
    if let HostName::Mediated(_) = name {
        members.push(Member {
            host: name.to_string(),
            driver: None,
            blocks: false,
        });
    }
    Ok(Some(Group { number, members }))
}

fn member(device: &PciDevice) -> Member {
    Member {
        host: device.bdf.to_string(),
        driver: device.driver.clone(),
        blocks: device.blocks_group(),
    }
}
