//! The expansion ROM of a passed-through function: where the content comes from, and when.
//!
//! The device's ROM is read whole, through VFIO, at the guest's first access, and kept. Each read
//! of the region makes the host's kernel switch the ROM on and off, and most guests never read
//! their ROM. The guest's reads trap. A read-only memory slot would save the exits, but has costs:
//! a guest's Linux turns a ROM on and off for every 4 KiB that a program reads from sysfs, each
//! change of a slot waits in KVM for a grace period of several milliseconds, and a slot needs its
//! content at once. Code in a ROM is copied to RAM before it runs (PCI 3.0, 6.3), so no code runs
//! from the slot.
//!
//! For the host's boot graphics card the kernel may return the copy that the firmware has put at
//! 0xc0000 and changed. For such a card the user gives `romfile=`. `rombar=off` is for a device
//! that hangs when its ROM is read. The kernel reads the headers even of such a ROM, when the VMM
//! asks for the device's regions.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use pci::bar::{BarError, Bars};
use pci::rom::{Image, ImageError, MAX_SIZE};
use pci::{byte_enable, regs};
use rustix::fs::{Access, access};
use tracing::{debug, warn};

use crate::config::device::RomConfig;
use crate::log::degraded::{self, Code};
use crate::sandbox::Mode;
use crate::vfio::device::{Device, DeviceError, ROM_REGION, RegionInfo};

/// Why a file cannot be an expansion ROM.
#[derive(Debug, thiserror::Error)]
pub enum RomError {
    /// The file is missing or not readable.
    #[error("cannot read the expansion ROM {}", .path.display())]
    Unreadable {
        /// As the user gave it.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// The sandbox lets the run open the files that its flags have named, and no other.
    #[error("the sandbox does not let this run open the expansion ROM {}", .0.display())]
    Confined(PathBuf),
    /// The file is a directory, a pipe or a device.
    #[error("the expansion ROM {} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// No ROM can have the file's size.
    #[error("the expansion ROM {} {source}", .path.display())]
    Size {
        /// As the user gave it.
        path: PathBuf,
        /// What is wrong.
        source: ImageError,
    },
}

impl RomError {
    /// The remedy to type.
    pub fn hint(&self) -> String {
        match self {
            Self::Unreadable { path, source }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                format!("sudo chmod a+r {}", path.display())
            }
            Self::Confined(_) => "add the device without romfile=, or name it at the start with \
                                  --vfio ADDRESS,romfile=PATH, or run with --sandbox off"
                .into(),
            _ => "give romfile= the path of an image of the device's ROM, \
                  or omit romfile= for the device's own ROM"
                .into(),
        }
    }
}

/// Where a function's expansion ROM comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RomSource {
    /// The device, if it has one.
    Device,
    /// The function has no ROM.
    None,
    /// A file's content.
    Image(Image),
}

impl RomSource {
    /// Takes the user's choice; reads the file if one is given.
    ///
    /// # Errors
    /// The file cannot be a ROM.
    pub fn load(config: &RomConfig) -> Result<Self, RomError> {
        Ok(match config {
            RomConfig::Device => Self::Device,
            RomConfig::Off => Self::None,
            RomConfig::File(path) => Self::Image(read_file(path)?),
        })
    }

    /// Bytes of the ROM of the device `name`, whose ROM region is `region`; 0 for no ROM.
    pub fn size(&self, name: &str, region: &RegionInfo) -> u64 {
        match self {
            Self::None => 0,
            Self::Image(image) => image.size(),
            Self::Device => device_size(name, region),
        }
    }
}

/// Landlock refuses to open a file that the user may read; access(2) does not ask Landlock.
fn unreadable(path: &Path, source: io::Error, confined: bool) -> RomError {
    let denied = source.kind() == io::ErrorKind::PermissionDenied;
    if confined && denied && access(path, Access::READ_OK).is_ok() {
        return RomError::Confined(path.into());
    }
    RomError::Unreadable {
        path: path.into(),
        source,
    }
}

fn read_file(path: &Path) -> Result<Image, RomError> {
    let unreadable = |source| unreadable(path, source, Mode::current() == Mode::On);
    let wrong_size = |source| RomError::Size {
        path: path.into(),
        source,
    };
    // The kind is checked before the file is opened: opening a pipe waits for its writer.
    let facts = fs::metadata(path).map_err(unreadable)?;
    if !facts.is_file() {
        return Err(RomError::NotAFile(path.into()));
    }
    Image::check_size(facts.len()).map_err(wrong_size)?;
    let mut content = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_SIZE + 1).read_to_end(&mut content))
        .map_err(unreadable)?;
    let image = Image::new(content).map_err(wrong_size)?;
    if !image.has_signature() {
        warn!(
            "{} does not begin with 55 aa: the guest may not recognise a ROM there",
            path.display()
        );
    }
    Ok(image)
}

/// The ROM of a function. The size is known from the start; the content is read when the guest asks
/// for it.
pub(super) struct Rom {
    /// Bytes; 0 if there is no ROM.
    size: u64,
    /// The lock is held while the device is read, and never taken with another lock held. So only
    /// vCPUs that read the same ROM wait for the lock.
    content: Mutex<Content>,
    /// How often the guest has enabled the ROM.
    enablings: AtomicU64,
}

enum Content {
    Unread,
    /// The device did not give the content during the enabling of this number. The next enabling
    /// tries again.
    Failed(u64),
    Read(Image),
}

impl Rom {
    /// The ROM of `device`. The content is not read yet.
    pub(super) fn new(device: &dyn Device, source: RomSource) -> Self {
        let size = source.size(device.name(), &device.region(ROM_REGION));
        let content = match source {
            RomSource::Image(image) => Content::Read(image),
            RomSource::None | RomSource::Device => Content::Unread,
        };
        Self {
            size,
            content: Mutex::new(content),
            enablings: AtomicU64::new(0),
        }
    }

    /// Adds the ROM's register to `bars`, if there is a ROM.
    pub(super) fn add_register(&self, bars: Bars) -> Result<Bars, BarError> {
        match self.size {
            0 => Ok(bars),
            size => bars.with_rom(size),
        }
    }

    /// Counts that the guest has enabled the ROM.
    pub(super) fn count_enabling(&self) {
        self.enablings.fetch_add(1, Ordering::Relaxed);
    }

    /// Answers a guest's read of the ROM: all ones if the device does not give the content.
    ///
    /// # Errors
    /// The device's error, once for each enabling of the ROM.
    pub(super) fn read(
        &self,
        device: &dyn Device,
        offset: u64,
        data: &mut [u8],
    ) -> Result<(), DeviceError> {
        data.fill(0xff);
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let enabling = self.enablings.load(Ordering::Relaxed);
        let wanted = match &*content {
            Content::Unread => true,
            Content::Failed(then) => *then != enabling,
            Content::Read(_) => false,
        };
        if wanted {
            // `Failed` stays if the device does not answer, for example because another vCPU has
            // turned decoding off meanwhile.
            *content = Content::Failed(enabling);
            if let Some(image) = self.fetch(device)? {
                *content = Content::Read(image);
            }
        }
        if let Content::Read(image) = &*content {
            image.read(offset, data);
        }
        Ok(())
    }

    /// Reads the device's ROM in one call; `None` if no ROM can have that size.
    fn fetch(&self, device: &dyn Device) -> Result<Option<Image>, DeviceError> {
        let Ok(size) = usize::try_from(self.size) else {
            return Ok(None);
        };
        debug!("{}: its expansion ROM is read", device.name());
        let mut content = vec![0; size];
        device.read(ROM_REGION, 0, &mut content)?;
        Ok(Image::new(content).ok())
    }
}

/// Bytes of the device's ROM; 0 when the device has no ROM, or when no ROM can have the region's
/// size. The kernel reports no ROM if the content does not begin with a ROM's signature.
fn device_size(name: &str, region: &RegionInfo) -> u64 {
    if region.size == 0 || !region.read {
        return 0;
    }
    match Image::check_size(region.size) {
        Ok(()) => region.size,
        Err(why) => {
            tell_unreadable(name, &format!("it {why}"));
            0
        }
    }
}

/// Tells of a display that has a ROM's register, but no content that the kernel finds: drivers of
/// displays look for tables in the ROM. VFIO reports a ROM without content as missing
/// (drivers/vfio/pci/vfio_pci_core.c, `vfio_pci_ioctl_get_region_info`). Other devices do without.
pub fn tell_if_empty(device: &dyn Device, snapshot: &[u8], source: &RomSource) {
    /// The base class of display controllers (PCI Code and ID Assignment 1.11, 1.4).
    const DISPLAY: u8 = 0x03;
    let class = byte_enable::u32_at(snapshot, usize::from(regs::REVISION)).unwrap_or(0) >> 24;
    let register = byte_enable::u32_at(snapshot, usize::from(regs::ROM)).unwrap_or(0);
    let has_register = register & 0xffff_f800 != 0;
    if *source == RomSource::Device
        && class == u32::from(DISPLAY)
        && has_register
        && device.region(ROM_REGION).size == 0
    {
        tell_unreadable(device.name(), "the kernel finds no image in it");
    }
}

/// Tells that the guest has no ROM of the device, or one that reads as all ones.
pub(super) fn tell_unreadable(device: &str, why: &str) {
    let loss = Code::RomUnreadable.loss("the guest gets nothing of the expansion ROM", why);
    degraded::tell(
        loss.of(device)
            .hint("give an image of the ROM with --vfio ...,romfile=PATH, or none with rombar=off"),
    );
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use vmm_sys_util::tempdir::TempDir;

    use super::*;
    use crate::vfio::function::test_device::TestDevice;

    fn load(path: &Path) -> Result<RomSource, RomError> {
        RomSource::load(&RomConfig::File(path.into()))
    }

    #[test]
    fn a_file_is_taken_as_it_is() {
        let dir = TempDir::new().unwrap();
        let path = dir.as_path().join("rom");
        for content in [vec![0x55, 0xaa, 1, 2, 3], vec![7], vec![1; 16 << 20]] {
            fs::write(&path, &content).unwrap();
            let image = Image::new(content).unwrap();
            assert_eq!(load(&path).unwrap(), RomSource::Image(image));
        }
        assert_eq!(RomSource::load(&RomConfig::Off).unwrap(), RomSource::None);
    }

    #[test]
    fn a_file_that_the_sandbox_refuses_is_told_apart() {
        let dir = TempDir::new().unwrap();
        let path = dir.as_path().join("rom");
        fs::write(&path, [0x55, 0xaa]).unwrap();
        let why = |path: &Path, confined, errno| {
            let error = unreadable(path, io::Error::from_raw_os_error(errno), confined);
            (error.to_string(), error.hint())
        };
        let (says, hint) = why(&path, true, libc::EACCES);
        assert!(says.starts_with("the sandbox does not let"), "{says}");
        assert!(hint.contains("--sandbox off"), "{hint}");
        for (path, confined, errno) in [
            (&path, false, libc::EACCES),
            (&path, true, libc::EIO),
            (&dir.as_path().join("none"), true, libc::EACCES),
        ] {
            let (says, hint) = why(path, confined, errno);
            assert!(says.starts_with("cannot read"), "{says}");
            assert!(!hint.contains("sandbox"), "{hint}");
        }
    }

    #[test]
    fn files_that_cannot_be_a_rom() {
        let dir = TempDir::new().unwrap();
        let at = |name: &str| dir.as_path().join(name);
        fs::write(at("empty"), []).unwrap();
        File::create(at("large"))
            .unwrap()
            .set_len(MAX_SIZE + 1)
            .unwrap();
        assert!(
            Command::new("mkfifo")
                .arg(at("pipe"))
                .status()
                .unwrap()
                .success()
        );
        for (name, says) in [
            ("nothing", "cannot read the expansion ROM"),
            ("", "is not a regular file"),
            // A pipe without a writer must not block.
            ("pipe", "is not a regular file"),
            ("empty", "is empty"),
            (
                "large",
                "has 16777217 bytes, and an expansion ROM has at most 16777216",
            ),
        ] {
            let error = load(&at(name)).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
            assert!(error.hint().contains("romfile="), "{}", error.hint());
        }
    }

    #[test]
    fn the_device_is_read_once() {
        let device = TestDevice::new().with_region(ROM_REGION, 0x2000, &[]);
        let rom = Rom::new(&device, RomSource::Device);
        assert_eq!(device.region_reads(), 0);
        let mut data = [0; 4];
        for offset in [0, 4, 0x2000] {
            rom.read(&device, offset, &mut data).unwrap();
            let expected = if offset < 0x2000 { 0xa5 } else { 0xff };
            assert_eq!(data, [expected; 4]);
        }
        assert_eq!(device.region_reads(), 1);
    }

    #[test]
    fn a_device_that_fails_is_asked_again_when_the_rom_is_enabled_again() {
        let device = TestDevice::new().with_region(ROM_REGION, 0x2000, &[]);
        let rom = Rom::new(&device, RomSource::Device);
        let mut data = [0; 4];
        device.set_deaf(true);
        assert!(rom.read(&device, 0, &mut data).is_err());
        device.set_deaf(false);
        rom.read(&device, 0, &mut data).unwrap();
        assert_eq!((data, device.region_reads()), ([0xff; 4], 1));
        rom.count_enabling();
        rom.read(&device, 0, &mut data).unwrap();
        assert_eq!((data, device.region_reads()), ([0xa5; 4], 2));
    }

    #[test]
    fn a_display_whose_rom_is_empty_is_told() {
        let told = || {
            let losses = degraded::list().into_iter();
            let of_rom = losses.filter(|loss| loss.why == "the kernel finds no image in it");
            of_rom.count()
        };
        let (without, with) = (
            TestDevice::new(),
            TestDevice::new().with_region(ROM_REGION, 0x2000, &[]),
        );
        let snapshot = |class, rom: u32| {
            let mut snapshot = [0; 256];
            snapshot[0x0b] = class;
            snapshot[0x30..0x34].copy_from_slice(&rom.to_le_bytes());
            snapshot
        };
        let display = snapshot(3, 0xfe00_0000);
        tell_if_empty(&with, &display, &RomSource::Device);
        tell_if_empty(&without, &display, &RomSource::None);
        tell_if_empty(&without, &snapshot(2, 0xfe00_0000), &RomSource::Device);
        tell_if_empty(&without, &snapshot(3, 1), &RomSource::Device);
        assert_eq!(told(), 0);
        tell_if_empty(&without, &display, &RomSource::Device);
        assert_eq!(told(), 1);
    }

    #[test]
    fn a_file_needs_no_device() {
        let device = TestDevice::new().with_region(ROM_REGION, 0x2000, &[]);
        let image = Image::new(vec![0x55, 0xaa, 7]).unwrap();
        let rom = Rom::new(&device, RomSource::Image(image));
        let mut data = [0; 4];
        rom.read(&device, 0, &mut data).unwrap();
        assert_eq!((data, device.region_reads()), ([0x55, 0xaa, 7, 0xff], 0));
        let bars = Bars::decode([0; 6], [0; 6]).unwrap();
        assert!(rom.add_register(bars.clone()).unwrap() != bars);
        let none = Rom::new(&device, RomSource::None);
        assert_eq!(none.add_register(bars.clone()).unwrap(), bars);
    }
}
