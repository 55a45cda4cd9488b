//! Reads a device for `explain`: through VFIO as a run does or, while a host driver has the device,
//! from sysfs. sysfs does not disturb the driver.

use std::path::Path;
use std::{fs, io};

use host::limited;
use pci::atomic_ops::AtomicOps;
use pci::bar::BAR_COUNT;
use pci::config_space::CONVENTIONAL_SIZE;
use pci::host_path::HostPath;
use pci::link::Link;
use pci::msi::MsiCapability;
use pci::msix::MsixCapability;
use pci::{byte_enable, express, regs};
use vmm::hostinfo::name::HostName;
use vmm::hostinfo::sysfs::Sysfs;
use vmm::vfio::device::{Device, DeviceError, Irq, IrqInfo, ROM_REGION, RegionInfo};
use vmm::vfio::function::mirrors::Mirrors;
use vmm::vfio::function::mmap_areas::Area;
use vmm::vfio::function::snapshot;

/// No BAR is larger than this number of bytes. A larger resource file is ignored.
const MAX_BAR: u64 = 1 << 52;
/// IORESOURCE_IO (include/linux/ioport.h).
const IO: u64 = 0x100;

/// A device's configuration space, BARs and interrupts.
#[derive(Clone, Debug)]
pub struct Source {
    /// The configuration space, 256 or 4096 bytes.
    pub image: Vec<u8>,
    /// The configuration space with the capabilities that VFIO leaves out; shorter than `image` if
    /// it is not known.
    pub hardware: Vec<u8>,
    /// Whether only the first 64 bytes are known. The kernel shows the rest only to root.
    pub partial: bool,
    /// The BARs.
    pub regions: [RegionInfo; BAR_COUNT],
    /// The ranges of each BAR that trap because they lead to what the VMM emulates. Only a device
    /// that VFIO opens can be asked for all of them.
    pub mirrors: [Vec<Area>; BAR_COUNT],
    /// The expansion ROM.
    pub rom: RegionInfo,
    /// The interrupts: INTx, MSI, MSI-X.
    pub irqs: [Option<IrqInfo>; 3],
}

impl Source {
    /// Reads a device through VFIO.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn device(device: &dyn Device) -> Result<Self, DeviceError> {
        let image = snapshot::read(device)?;
        let mirrors = Mirrors::find(device, &image);
        Ok(Self {
            image,
            mirrors: std::array::from_fn(|bar| mirrors.ranges(bar)),
            hardware: device.hardware_config(),
            partial: false,
            regions: std::array::from_fn(|bar| device.region(bar as u32)),
            rom: device.region(ROM_REGION),
            irqs: [Irq::Intx, Irq::Msi, Irq::Msix].map(|irq| device.irq(irq)),
        })
    }

    /// Reads a device's directory in sysfs (Documentation/PCI/sysfs-pci.rst). The mappable ranges
    /// are those that vfio-pci would allow: whole pages of memory.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn sysfs(dir: &Path) -> io::Result<Self> {
        let mut image = limited::read(&dir.join("config"))?;
        let partial = image.len() < CONVENTIONAL_SIZE;
        let size = if image.len() > CONVENTIONAL_SIZE {
            pci::CONFIG_SPACE_SIZE
        } else {
            CONVENTIONAL_SIZE
        };
        image.resize(size, 0);
        let hardware = if partial { Vec::new() } else { image.clone() };
        let resources = fs::read_to_string(dir.join("resource"))?;
        let mut regions: [RegionInfo; BAR_COUNT] = Default::default();
        let mut lines = resources.lines();
        for (region, line) in regions.iter_mut().zip(&mut lines) {
            *region = region_of(line).unwrap_or_default();
        }
        // The seventh line describes the expansion ROM.
        let rom = lines.next().and_then(region_of).unwrap_or_default();
        let pin = byte_enable::u8_at(&image, 0x3d).is_some_and(|pin| pin != 0);
        let vectors = |count| IrqInfo {
            count,
            resizable: false,
        };
        let msi = MsiCapability::parse(&image).map(|cap| vectors(cap.max_vectors.into()));
        let msix = MsixCapability::parse(&image).map(|cap| vectors(cap.vectors.into()));
        Ok(Self {
            image,
            hardware,
            partial,
            mirrors: Default::default(),
            regions,
            rom,
            irqs: [pin.then(|| vectors(1)), msi, msix],
        })
    }

    /// The way of a device that is not open to the host's root complex. Which AtomicOps that
    /// completes, only VFIO tells.
    pub fn path(&self, sysfs: &Sysfs, name: HostName) -> HostPath {
        let known = if self.partial { &[][..] } else { &self.image };
        HostPath {
            link: sysfs
                .express(name, known, &limited::read)
                .link
                .unwrap_or(Link::SLOWEST),
            payload: express::max_payload(known).unwrap_or(0),
            atomic_ops: AtomicOps::NONE,
        }
    }

    /// The values of the BAR registers.
    pub fn raw_bars(&self) -> [u32; BAR_COUNT] {
        std::array::from_fn(|i| {
            byte_enable::u32_at(&self.image, usize::from(regs::BAR) + i * 4).unwrap_or(0)
        })
    }
}

/// Parses a line of the file `resource`: the first address, the last address, the kernel's flags.
fn region_of(line: &str) -> Option<RegionInfo> {
    let mut numbers = line.split_whitespace().map(|word| {
        let digits = word.strip_prefix("0x").unwrap_or(word);
        u64::from_str_radix(digits, 16).ok()
    });
    let (start, last, flags) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let size = last.checked_sub(start)?.checked_add(1)?;
    if last == 0 || size > MAX_BAR {
        return None;
    }
    let memory = flags & IO == 0;
    let whole_pages = size >= vmm::memory::PAGE_SIZE;
    Some(RegionInfo {
        size,
        read: true,
        write: true,
        mappable: if memory && whole_pages {
            vec![(0, size)]
        } else {
            Vec::new()
        },
        file_offset: 0,
    })
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    #[test]
    fn sysfs_is_read_as_it_is() {
        let dir = TempDir::new().unwrap();
        let path = dir.as_path();
        let mut image = vec![0u8; 256];
        image[0x3d] = 1;
        fs::write(path.join("config"), &image).unwrap();
        let lines = [
            "0x00000000febf0000 0x00000000febf3fff 0x0000000000140204",
            "0x0000000000000000 0x0000000000000000 0x0000000000000000",
            "0x000000000000c000 0x000000000000c01f 0x0000000000040101",
            "nonsense",
            "",
            "",
            "0x00000000febe0000 0x00000000febeffff 0x0000000000046200",
        ];
        fs::write(path.join("resource"), lines.join("\n")).unwrap();
        let source = Source::sysfs(path).unwrap();
        let sizes = source.regions.each_ref().map(|r| r.size);
        assert_eq!(sizes, [0x4000, 0, 0x20, 0, 0, 0]);
        assert_eq!(source.rom.size, 0x1_0000);
        assert_eq!(source.regions[0].mappable, [(0, 0x4000)]);
        assert!(source.regions[2].mappable.is_empty());
        assert_eq!(source.irqs[0].map(|irq| irq.count), Some(1));
        assert!(!source.partial);
        // An ordinary user reads 64 bytes.
        fs::write(path.join("config"), &image[..64]).unwrap();
        let source = Source::sysfs(path).unwrap();
        assert!(source.partial);
        assert_eq!(source.image.len(), 256);
    }
}
