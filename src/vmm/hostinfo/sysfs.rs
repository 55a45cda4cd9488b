//! Facts about PCI devices from sysfs (Documentation/ABI/testing/sysfs-bus-pci). Nothing is
//! written.

use std::path::{Path, PathBuf};
use std::{fs, io};

use pci::Bdf;

use crate::hostinfo::name::HostName;

/// A PCI device of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciDevice {
    /// Its address.
    pub bdf: Bdf,
    /// Its directory.
    pub path: PathBuf,
    /// The driver bound to it.
    pub driver: Option<String>,
    /// Its IOMMU group.
    pub group: Option<u32>,
    /// Base class, subclass and programming interface (PCI Code and ID Assignment 1.11, 1).
    pub class: u32,
}

impl PciDevice {
    /// Whether the device is bound to a VFIO driver: vfio-pci or a variant such as mlx5_vfio_pci.
    pub fn is_vfio(&self) -> bool {
        self.driver.as_deref().is_some_and(|d| d.contains("vfio"))
    }

    /// Whether the device is a bridge of any kind (base class 06).
    pub fn is_bridge(&self) -> bool {
        self.class >> 16 == 0x06
    }

    /// Whether the device's driver makes the whole IOMMU group unusable, because the driver may do
    /// DMA. Port drivers and stubs do no DMA (drivers/iommu: `driver_managed_dma`).
    pub fn blocks_group(&self) -> bool {
        const NEUTRAL: [&str; 3] = ["pcieport", "pci-stub", "shpchp"];
        self.driver
            .as_deref()
            .is_some_and(|d| !NEUTRAL.contains(&d))
            && !self.is_vfio()
    }
}

/// The sysfs tree, or an imitation for a test.
#[derive(Clone, Debug)]
pub struct Sysfs {
    root: PathBuf,
}

impl Default for Sysfs {
    fn default() -> Self {
        Self {
            root: "/sys".into(),
        }
    }
}

impl Sysfs {
    /// A tree in another directory than /sys.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The root directory of the tree.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// A path in the tree.
    pub fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// The directory of a PCI device, whether the device exists or not.
    pub fn device_path(&self, bdf: Bdf) -> PathBuf {
        self.root.join("bus/pci/devices").join(bdf.to_string())
    }

    /// The directory of a PCI device or mediated device, whether the device exists or not.
    pub fn path_of(&self, name: HostName) -> PathBuf {
        match name {
            HostName::Pci(bdf) => self.device_path(bdf),
            HostName::Mediated(uuid) => self.mediated_path(uuid),
        }
    }

    /// Reads a device's facts; `None` when there is no such device.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub fn device(&self, bdf: Bdf) -> io::Result<Option<PciDevice>> {
        let path = self.device_path(bdf);
        if !path.try_exists()? {
            return Ok(None);
        }
        let driver = link_name(&path.join("driver"))?;
        let group = link_name(&path.join("iommu_group"))?.and_then(|g| g.parse().ok());
        let class = fs::read_to_string(path.join("class")).unwrap_or_default();
        let class = class.trim().trim_start_matches("0x");
        let class = u32::from_str_radix(class, 16).unwrap_or(0);
        Ok(Some(PciDevice {
            bdf,
            path,
            driver,
            group,
            class,
        }))
    }

    /// Every PCI device of the host, in order of address.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub fn devices(&self) -> io::Result<Vec<PciDevice>> {
        self.devices_in(&self.root.join("bus/pci/devices"))
    }

    /// Every PCI device of an IOMMU group, in order of address.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub fn group_members(&self, group: u32) -> io::Result<Vec<PciDevice>> {
        let dir = self
            .root
            .join("kernel/iommu_groups")
            .join(group.to_string())
            .join("devices");
        self.devices_in(&dir)
    }

    /// The devices at which the links of a directory point.
    fn devices_in(&self, dir: &Path) -> io::Result<Vec<PciDevice>> {
        let mut members = Vec::new();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            let Some(bdf) = name.to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            members.extend(self.device(bdf)?);
        }
        members.sort_by_key(|d| d.bdf);
        Ok(members)
    }
}

/// The last component of a link's target; `None` if there is no link.
pub fn link_name(link: &Path) -> io::Result<Option<String>> {
    match fs::read_link(link) {
        Ok(target) => Ok(target.file_name().map(|n| n.to_string_lossy().into_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    fn add(root: &Path, bdf: &str, driver: Option<&str>, group: Option<u32>) {
        let dir = root.join("bus/pci/devices").join(bdf);
        fs::create_dir_all(&dir).unwrap();
        if let Some(driver) = driver {
            symlink(
                format!("../../../../bus/pci/drivers/{driver}"),
                dir.join("driver"),
            )
            .unwrap();
        }
        if let Some(group) = group {
            symlink(
                format!("../../../kernel/iommu_groups/{group}"),
                dir.join("iommu_group"),
            )
            .unwrap();
            let members = root.join(format!("kernel/iommu_groups/{group}/devices"));
            fs::create_dir_all(&members).unwrap();
            symlink(&dir, members.join(bdf)).unwrap();
        }
    }

    #[test]
    fn facts_are_read_from_links() {
        let dir = TempDir::new().unwrap();
        let root = dir.as_path();
        add(root, "0000:01:00.0", Some("nvme"), Some(7));
        add(root, "0000:01:00.1", Some("vfio-pci"), Some(7));
        add(root, "0000:00:1c.0", Some("pcieport"), Some(7));
        add(root, "0000:02:00.0", None, None);
        let sysfs = Sysfs::at(root);
        let nvme = sysfs.device("01:00.0".parse().unwrap()).unwrap().unwrap();
        assert_eq!(
            (nvme.driver.as_deref(), nvme.group),
            (Some("nvme"), Some(7))
        );
        assert!(nvme.blocks_group() && !nvme.is_vfio());
        let free = sysfs.device("02:00.0".parse().unwrap()).unwrap().unwrap();
        assert_eq!((free.driver.clone(), free.group), (None, None));
        assert!(!free.blocks_group());
        assert_eq!(sysfs.device("03:00.0".parse().unwrap()).unwrap(), None);
        let members = sysfs.group_members(7).unwrap();
        let names: Vec<_> = members.iter().map(|m| m.bdf.to_string()).collect();
        assert_eq!(names, ["0000:00:1c.0", "0000:01:00.0", "0000:01:00.1"]);
        assert_eq!(members.iter().filter(|m| m.blocks_group()).count(), 1);
        assert!(sysfs.group_members(8).is_err());
    }
}
