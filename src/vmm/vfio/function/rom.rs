//! The expansion ROM of a passed-through function: where its content comes from, and when.
//!
//! The device's own is read whole, through VFIO, at the guest's first access, and kept: each read
//! of the region lets the host's kernel switch the ROM on and off, and most guests never look. The
//! guest's reads trap. A read-only memory slot would save their exits, but Linux turns a ROM on and
//! off again for every 4 KiB that somebody reads from sysfs, each turn would wait in KVM for a grace
//! period of several milliseconds, and a slot needs its content before it is there. Nobody runs code
//! from a ROM: it is copied to RAM first (PCI 3.0, 6.3).
//!
//! What the kernel has for a graphics card that the host was started with may be the copy that the
//! host's firmware left at 0xc0000, changed since; `romfile=` is for that. `rombar=off` is for a ROM
//! that hangs when it is read; the kernel looks at its headers all the same when it is asked for the
//! device's regions.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use pci::bar::{BarError, Bars};
use pci::rom::{Image, ImageError, MAX_SIZE};
use tracing::{debug, warn};

use crate::config::device::RomConfig;
use crate::vfio::device::{Device, ROM_REGION, RegionInfo};
use crate::vfio::function::VfioFunction;

/// Why a file cannot be an expansion ROM.
#[derive(Debug, thiserror::Error)]
pub enum RomError {
    /// Missing, or not readable.
    #[error("cannot read the expansion ROM {}", .path.display())]
    Unreadable {
        /// As the user gave it.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// A directory, a pipe, a device.
    #[error("the expansion ROM {} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// Its size is none that a ROM can have.
    #[error("the expansion ROM {} {source}", .path.display())]
    Size {
        /// As the user gave it.
        path: PathBuf,
        /// What is wrong.
        source: ImageError,
    },
}

impl RomError {
    /// What to type.
    pub fn hint(&self) -> String {
        match self {
            Self::Unreadable { path, source }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                format!("sudo chmod a+r {}", path.display())
            }
            _ => "give romfile= the path of an image of the device's ROM, or leave it away for the device's own".into(),
        }
    }
}

/// Where a function's expansion ROM comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RomSource {
    /// The device, if it has one.
    Device,
    /// There is none.
    None,
    /// A file's content.
    Image(Image),
}

impl RomSource {
    /// As the user has it; a file is read here.
    ///
    /// # Errors
    /// A file that cannot be a ROM.
    pub fn load(config: &RomConfig) -> Result<Self, RomError> {
        Ok(match config {
            RomConfig::Device => Self::Device,
            RomConfig::Off => Self::None,
            RomConfig::File(path) => Self::Image(read_file(path)?),
        })
    }

    /// Bytes of the ROM of a device that is called `name` and has such a region; 0 for no ROM.
    pub fn size(&self, name: &str, region: &RegionInfo) -> u64 {
        match self {
            Self::None => 0,
            Self::Image(image) => image.size(),
            Self::Device => device_size(name, region),
        }
    }
}

fn read_file(path: &Path) -> Result<Image, RomError> {
    let unreadable = |source| RomError::Unreadable {
        path: path.into(),
        source,
    };
    let wrong_size = |source| RomError::Size {
        path: path.into(),
        source,
    };
    // Looked at before it is opened: opening a pipe for reading waits for its writer.
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
            "{} does not begin with 55 aa: the guest may take it for no ROM",
            path.display()
        );
    }
    Ok(image)
}

/// The ROM of a function: its size from the start, its content when it is asked for.
pub struct Rom {
    /// Bytes; 0 when there is none.
    size: u64,
    /// Held while the device is read, and by nobody who holds another lock: only those who read the
    /// same ROM wait for it.
    content: Mutex<Content>,
    /// How often the guest has enabled the ROM.
    enablings: AtomicU64,
}

enum Content {
    Unread,
    /// The device did not give it, in this enabling. It is asked again in the next.
    Failed(u64),
    Read(Image),
}

impl Rom {
    /// The ROM of `device`. Nothing is read from it yet.
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

    /// Gives the ROM, if there is one, its register.
    pub(super) fn register(&self, bars: Bars) -> Result<Bars, BarError> {
        match self.size {
            0 => Ok(bars),
            size => bars.with_rom(size),
        }
    }

    /// The guest has enabled it.
    pub(super) fn enabled(&self) {
        self.enablings.fetch_add(1, Ordering::Relaxed);
    }
}

/// Bytes of the device's ROM; 0 when it has none, or none that can be. The kernel finds none where
/// nothing is read that begins as a ROM must.
fn device_size(name: &str, region: &RegionInfo) -> u64 {
    if region.size == 0 || !region.read {
        return 0;
    }
    match Image::check_size(region.size) {
        Ok(()) => region.size,
        Err(why) => {
            warn!("the expansion ROM of {name} {why}: not shown");
            0
        }
    }
}

impl VfioFunction {
    /// The guest's read of its ROM; ones where the device does not give it.
    pub(super) fn rom_read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        let rom = &self.rom;
        let mut content = rom.content.lock().unwrap_or_else(PoisonError::into_inner);
        let enabling = rom.enablings.load(Ordering::Relaxed);
        let unread = match &*content {
            Content::Unread => true,
            Content::Failed(then) => *then != enabling,
            Content::Read(_) => false,
        };
        if unread {
            *content = self
                .fetch_rom()
                .map_or(Content::Failed(enabling), Content::Read);
        }
        if let Content::Read(image) = &*content {
            image.read(offset, data);
        }
    }

    /// The device's ROM, in one call. It fails when another vCPU ends decoding meanwhile.
    fn fetch_rom(&self) -> Option<Image> {
        let device = self.device()?;
        let mut content = vec![0; usize::try_from(self.rom.size).ok()?];
        debug!("{}: its expansion ROM is read", self.name());
        match device.read(ROM_REGION, 0, &mut content) {
            Ok(()) => Image::new(content).ok(),
            Err(e) => {
                self.complain(&e);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use vmm_sys_util::tempdir::TempDir;

    use super::*;

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
            // A pipe that nobody writes to is not waited for.
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
}
