//! Facts about mediated devices from sysfs (Documentation/driver-api/vfio-mediated-device.rst).
//!
//! Such a device is made of another by that one's driver: a share of a GPU, a sample's serial ports.
//! It sits in sysfs below its parent and in `/sys/bus/mdev/devices`, and in an IOMMU group alone.

use std::path::{Path, PathBuf};
use std::{fs, io};

use uuid::Uuid;

use crate::hostinfo::sysfs::{Sysfs, link_name};

/// A mediated device of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediatedDevice {
    /// Its directory.
    pub path: PathBuf,
    /// How it is used, which its type says: `vfio-pci` for one that looks like a PCI function.
    pub api: String,
    /// Its IOMMU group; `None` while its driver is not bound to it.
    pub group: Option<u32>,
    /// The name of its type, one of those that its parent's driver makes: `mtty-2`.
    pub kind: Option<String>,
    /// The driver that has it.
    pub driver: Option<String>,
    /// The device that it is made of, as sysfs calls it: an address for a PCI device.
    pub parent: Option<String>,
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

    /// Every mediated device of the host, in order of UUID; those that go while one looks are left out.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub fn mediated_devices(&self) -> io::Result<Vec<(Uuid, MediatedDevice)>> {
        let uuids = self.mediated_uuids()?.into_iter();
        let found = uuids.filter_map(|uuid| Some((uuid, self.mediated(uuid).ok()??)));
        let mut found: Vec<_> = found.collect();
        found.sort_by_key(|(uuid, _)| *uuid);
        Ok(found)
    }

    /// The mediated devices that are made of the device in a directory, in order.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub fn mediated_of(&self, device: &Path) -> io::Result<Vec<Uuid>> {
        let device = fs::canonicalize(device)?;
        let mut found = self.mediated_uuids()?;
        found.retain(|uuid| {
            // Its directory is below its parent's.
            fs::canonicalize(self.mediated_path(*uuid)).is_ok_and(|at| at.starts_with(&device))
        });
        found.sort();
        Ok(found)
    }

    fn mediated_uuids(&self) -> io::Result<Vec<Uuid>> {
        let entries = match fs::read_dir(self.root().join("bus/mdev/devices")) {
            Ok(entries) => entries,
            // The kernel has no such bus.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names
            .filter_map(|name| Uuid::try_parse(&name).ok())
            .collect())
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
        // Its directory is below its parent's.
        let real = fs::canonicalize(&path)?;
        let parent = real.parent().and_then(Path::file_name);
        Ok(Some(MediatedDevice {
            kind: link_name(&path.join("mdev_type"))?,
            driver: link_name(&path.join("driver"))?,
            parent: parent.map(|name| name.to_string_lossy().into_owned()),
            path,
            api: api.trim().into(),
            group,
        }))
    }
}
