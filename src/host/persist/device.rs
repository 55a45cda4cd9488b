//! A device that gets its VFIO driver at each boot.

use std::fs;

use pci::Bdf;
use serde::{Deserialize, Serialize};
use vmm::hostinfo::pci_device::PciDevice;
use vmm::hostinfo::sysfs::Sysfs;

/// The version of the form.
const VERSION: u32 = 1;

/// A device that gets its VFIO driver at each boot, as the first line of its rule describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Persistent {
    version: u32,
    /// Its address.
    #[serde(with = "text")]
    pub device: Bdf,
    /// Its directory below /sys: the bridges above it, and the address.
    pub path: String,
    /// Vendor, device, subsystem and class, in the kernel's form.
    pub modalias: String,
    /// The VFIO driver.
    pub driver: String,
    /// The driver's module.
    pub module: String,
    /// The named device along with which this device was bound.
    #[serde(
        skip_serializing_if = "Option::is_none",
        with = "text::option",
        default
    )]
    pub along: Option<Bdf>,
    /// The user who gets the nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
}

/// What is at the address of a persistent device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The device.
    Same,
    /// Another device, or the same kind of device at another path. The difference, for a sentence.
    Other(String),
    /// Nothing.
    Missing,
}

impl Persistent {
    /// Describes a device of this host.
    pub fn of(sysfs: &Sysfs, device: &PciDevice, driver: &str, module: &str) -> Self {
        Self {
            version: VERSION,
            device: device.bdf,
            path: path(sysfs, device.bdf),
            modalias: modalias(sysfs, device.bdf),
            driver: driver.into(),
            module: module.into(),
            along: None,
            user: None,
        }
    }

    /// Whether this program knows the form.
    pub(super) fn is_known(&self) -> bool {
        self.version == VERSION
    }

    /// All texts that a rule quotes.
    pub(super) fn quoted(&self) -> [&str; 4] {
        [&self.path, &self.modalias, &self.driver, &self.module]
    }

    /// Compares the device with what is at its address.
    pub fn presence(&self, sysfs: &Sysfs) -> Presence {
        if !sysfs.device_path(self.device).exists() {
            return Presence::Missing;
        }
        self.compare(&path(sysfs, self.device), &modalias(sysfs, self.device))
    }

    /// Compares the device with another of the same address.
    pub fn difference(&self, now: &Self) -> Presence {
        self.compare(&now.path, &now.modalias)
    }

    /// udev compares the same two texts.
    fn compare(&self, path: &str, modalias: &str) -> Presence {
        if modalias != self.modalias {
            return Presence::Other(format!("it is {modalias}, not {}", self.modalias));
        }
        if path != self.path {
            return Presence::Other(format!("it is at {path}, not at {}", self.path));
        }
        Presence::Same
    }
}

/// The directory behind the link of the address, below /sys.
fn path(sysfs: &Sysfs, bdf: Bdf) -> String {
    let link = sysfs.device_path(bdf);
    let path = fs::canonicalize(&link).unwrap_or(link);
    let root = fs::canonicalize(sysfs.path("")).unwrap_or_default();
    let below = path.strip_prefix(root).unwrap_or(&path);
    format!("/{}", below.display())
}

fn modalias(sysfs: &Sysfs, bdf: Bdf) -> String {
    let text = fs::read_to_string(sysfs.device_path(bdf).join("modalias"));
    text.unwrap_or_default().trim().into()
}

/// An address as text.
mod text {
    use pci::Bdf;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(bdf: &Bdf, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(bdf)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bdf, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bdf = text.parse();
        bdf.map_err(|_| de::Error::custom(format!("`{text}` is no address")))
    }

    pub mod option {
        use pci::Bdf;
        use serde::{Deserializer, Serializer};

        pub fn serialize<S: Serializer>(
            bdf: &Option<Bdf>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match bdf {
                Some(bdf) => super::serialize(bdf, serializer),
                None => serializer.serialize_none(),
            }
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Bdf>, D::Error> {
            super::deserialize(deserializer).map(Some)
        }
    }
}
