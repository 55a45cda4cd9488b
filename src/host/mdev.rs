//! Facts about mediated devices from sysfs (Documentation/driver-api/vfio-mediated-device.rst).
//!
//! Such a device is made of another by that one's driver: a share of a GPU, a sample's serial ports.
//! It sits in sysfs below its parent and in `/sys/bus/mdev/devices`, and in an IOMMU group alone.

use std::fs;
use std::io;
use std::path::PathBuf;

use uuid::Uuid;

use super::sysfs::{Sysfs, link_name};

/// A mediated device of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediatedDevice {
    /// Its directory.
    pub path: PathBuf,
    /// How it is used, which its type says: `vfio-pci` for one that looks like a PCI function.
    pub api: String,
    /// Its IOMMU group; `None` while its driver is not bound to it.
    pub group: Option<u32>,
}

impl MediatedDevice {
    /// Whether it looks like a PCI function (`VFIO_DEVICE_API_PCI_STRING`).
    pub fn is_pci(&self) -> bool {
        self.api == "vfio-pci"
    }
}

impl Sysfs {
    /// The directory that a mediated device has or would have.
    pub(super) fn mediated_path(&self, uuid: Uuid) -> PathBuf {
        self.root()
            .join("bus/mdev/devices")
            .join(uuid.hyphenated().to_string())
    }

    /// Reads a mediated device's facts; `None` when there is no such device.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub fn mediated(&self, uuid: Uuid) -> io::Result<Option<MediatedDevice>> {
        let path = self.mediated_path(uuid);
        if !path.try_exists()? {
            return Ok(None);
        }
        let api = fs::read_to_string(path.join("mdev_type/device_api"))?;
        let group = link_name(&path.join("iommu_group"))?.and_then(|g| g.parse().ok());
        Ok(Some(MediatedDevice {
            path,
            api: api.trim().into(),
            group,
        }))
    }
}
