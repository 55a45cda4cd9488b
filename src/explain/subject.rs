//! A device to explain: what is known of it, and what the report says of it.

use std::io;
use std::path::{Path, PathBuf};

use pci::addr::Range;
use pci::bar::{BAR_COUNT, BarKind, Bars};
use pci::host_path::HostPath;
use pci::msix::MsixCapability;
use pci::msix_layout::MsixLayout;
use pci::{Bdf, clique, regs};
use vmm::config::device::DeviceConfig;
use vmm::config::mechanisms::Mechanisms;
use vmm::config::port::PortDecision;
use vmm::hostinfo::name::{HostName, parse_address};
use vmm::hostinfo::pci_device::PciDevice;
use vmm::hostinfo::resets;
use vmm::hostinfo::sysfs::{self, Sysfs};
use vmm::layout;
use vmm::vfio::device::IrqInfo;
use vmm::vfio::function::policy::Original;
use vmm::vfio::function::rom::RomSource;
use vmm::vfio::function::{mmap_areas, policy, snapshot};
use vmm::vfio::host_path;
use vmm::vfio::open::VfioError;
use vmm::vfio::vfio_file::VfioFile;

use crate::explain::error::ExplainError;
use crate::explain::report::{Bar, Device, Group, Interrupt, Member, Piece};
use crate::explain::source::Source;
use crate::explain::{picture, registers};

/// The address of a device that gets none, because the guest has too many.
pub(super) const NOWHERE: Bdf = Bdf {
    segment: 0,
    bus: 0,
    device: 0,
    function: 0,
};

/// A device to explain.
pub(super) struct Subject {
    pub(super) name: HostName,
    /// Its directory in sysfs.
    pub(super) path: PathBuf,
    pub(super) rom: RomSource,
    pub(super) mechanisms: Mechanisms,
    pub(super) guest: Bdf,
    /// The root port above the device in the guest.
    pub(super) port: Option<Bdf>,
    pub(super) decision: PortDecision,
    /// What a root port above the device shows.
    pub(super) path_to_root: HostPath,
    pub(super) driver: Option<String>,
    pub(super) group: Option<Group>,
    pub(super) resets: Vec<String>,
    pub(super) source: Source,
    /// The configuration space with what mini-vmm adds to the device's.
    pub(super) shown: Vec<u8>,
    pub(super) bars: Bars,
    pub(super) msix: Option<MsixCapability>,
}

impl Subject {
    pub(super) fn read(
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
            mechanisms: config.mechanisms,
        })
    }

    /// The memory BARs at their first addresses.
    pub(super) fn first_bars(&self) -> Vec<picture::FirstBar> {
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

    pub(super) fn report(self) -> Device {
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
            let (pin, _) = layout::pin_and_gsi(self.guest, self.port);
            config.set_u8(regs::INTERRUPT_PIN, pin + 1);
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
            Some(region) if !bar.kind.is_io() && self.mechanisms.mmap => region.mappable.as_slice(),
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
        let (pin, gsi) = layout::pin_and_gsi(self.guest, self.port);
        let pin_name = char::from(b'A' + pin);
        let to = match self.mechanisms.irqfd {
            true => "from VFIO to KVM",
            false => "from VFIO to a thread, which calls KVM (irqfd=off)",
        };
        let ways = [
            msix.zip(self.msix).map(|(irq, capability)| Interrupt {
                kind: "MSI-X",
                vectors: irq.count.min(capability.vectors.into()),
                way: format!("an eventfd for each vector in use, {to}; {}", adding(irq)),
            }),
            msi.map(|irq| Interrupt {
                kind: "MSI",
                vectors: irq.count,
                way: format!("an eventfd for each message, {to}"),
            }),
            intx.map(|irq| Interrupt {
                kind: "INTx",
                vectors: irq.count,
                way: format!(
                    "INT{pin_name}, GSI {gsi}: a level, unmasked when the guest has served it{}",
                    match self.mechanisms.irqfd {
                        true => "",
                        false => "; a thread stands between VFIO and KVM (irqfd=off)",
                    }
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
