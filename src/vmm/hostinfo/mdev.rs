//! Facts about mediated devices from sysfs (Documentation/driver-api/vfio-mediated-device.rst).
//!
//! The driver of a parent device makes a mediated device, for example a part of a GPU. The mediated
//! device is in sysfs below its parent and in `/sys/bus/mdev/devices`, and has an IOMMU group of
//! its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::hostinfo::sysfs::Sysfs;
use crate::hostinfo::sysfs::link_name;

/// A mediated device of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediatedDevice {
    /// Its directory.
    pub path: PathBuf,
    /// The API of its type: `vfio-pci` for a device that looks like a PCI function.
    pub api: String,
    /// Its IOMMU group; `None` while it has no driver.
    pub group: Option<u32>,
    /// The name of its type, which the parent's driver defines: `mtty-2`.
    pub kind: Option<String>,
    /// Its driver.
    pub driver: Option<String>,
    /// Its parent's name in sysfs: an address for a PCI device.
    pub parent: Option<String>,
}

impl MediatedDevice {
    /// Whether the device looks like a PCI function (`VFIO_DEVICE_API_PCI_STRING`).
    pub fn is_pci(&self) -> bool {
        self.api == "vfio-pci"
    }
}

impl Sysfs {
    /// The directory of a mediated device, which need not exist.
    pub(super) fn mediated_path(&self, uuid: Uuid) -> PathBuf {
        self.root()
            .join("bus/mdev/devices")
            .join(uuid.hyphenated().to_string())
    }

    /// All mediated devices of the host, in order of UUID. A device that is removed meanwhile is
    /// omitted.
    ///
    /// # Errors
    /// sysfs cannot be read.
    pub fn mediated_devices(&self) -> io::Result<Vec<(Uuid, MediatedDevice)>> {
        let uuids = self.mediated_uuids()?.into_iter();
        let found = uuids.filter_map(|uuid| Some((uuid, self.mediated(uuid).ok()??)));
        let mut found: Vec<_> = found.collect();
        found.sort_by_key(|(uuid, _)| *uuid);
        Ok(found)
    }

    /// The mediated devices of a parent, in order. `device` is the parent's directory in sysfs.
    ///
    /// # Errors
    /// sysfs cannot be read.
    pub fn mediated_of(&self, device: &Path) -> io::Result<Vec<Uuid>> {
        let device = fs::canonicalize(device)?;
        let mut found = self.mediated_uuids()?;
        found.retain(|uuid| {
            // A mediated device's directory is below that of its parent.
            fs::canonicalize(self.mediated_path(*uuid)).is_ok_and(|at| at.starts_with(&device))
        });
        found.sort();
        Ok(found)
    }

    fn mediated_uuids(&self) -> io::Result<Vec<Uuid>> {
        let entries = match fs::read_dir(self.root().join("bus/mdev/devices")) {
            Ok(entries) => entries,
            // The kernel has no mdev bus.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names
            .filter_map(|name| Uuid::try_parse(&name).ok())
            .collect())
    }

    /// Reads a mediated device's facts; `None` if there is no such device.
    ///
    /// # Errors
    /// sysfs cannot be read.
    pub fn mediated(&self, uuid: Uuid) -> io::Result<Option<MediatedDevice>> {
        let path = self.mediated_path(uuid);
        if !path.try_exists()? {
            return Ok(None);
        }
        let api = fs::read_to_string(path.join("mdev_type/device_api"))?;
        let group = link_name(&path.join("iommu_group"))?.and_then(|g| g.parse().ok());
        // A mediated device's directory is below that of its parent.
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
