//! Facts about mediated devices from sysfs (Documentation/driver-api/vfio-mediated-device.rst).
//!
//! The driver of a parent device makes mediated devices: a part of a GPU, the kernel sample's
//! serial ports. A mediated device stands in sysfs below its parent and in `/sys/bus/mdev/devices`,
//! and is alone in its IOMMU group.

use std::path::{Path, PathBuf};
use std::{fs, io};

use uuid::Uuid;

use crate::hostinfo::sysfs::{Sysfs, link_name};

/// A mediated device of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediatedDevice {
    /// Its directory.
    pub path: PathBuf,
    /// Its programming interface, as its type says: `vfio-pci` for one that looks like a PCI
    /// function.
    pub api: String,
    /// Its IOMMU group; `None` while its driver is not bound to it.
    pub group: Option<u32>,
    /// The name of its type, for example `mtty-2`.
    pub kind: Option<String>,
    /// The driver that has it.
    pub driver: Option<String>,
    /// Its parent's name in sysfs; for a PCI device its address.
    pub parent: Option<String>,
}

impl MediatedDevice {
    /// Whether it looks like a PCI function (`VFIO_DEVICE_API_PCI_STRING`).
    pub fn is_pci(&self) -> bool {
        self.api == "vfio-pci"
    }
}

impl Sysfs {
    /// The directory of a mediated device, whether the device exists or not.
    pub(super) fn mediated_path(&self, uuid: Uuid) -> PathBuf {
        self.root()
            .join("bus/mdev/devices")
            .join(uuid.hyphenated().to_string())
    }

    /// Every mediated device of the host, in order of UUID, without those that disappear meanwhile.
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

    /// The mediated devices of the parent device in a directory, in order of UUID.
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
            // This kernel has no mediated devices.
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
