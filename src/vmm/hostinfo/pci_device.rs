//! Facts about PCI devices from sysfs (Documentation/ABI/testing/sysfs-bus-pci). Nothing is
//! written.

use std::path::{Path, PathBuf};
use std::{fs, io};

use pci::Bdf;

use crate::hostinfo::header::{Header, header};
use crate::hostinfo::registered::{is_registered, shows_devices};
use crate::hostinfo::sysfs::{Sysfs, addresses_in, link_name};

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
    /// Base class, subclass and programming interface (PCI Code and ID Assignment 1.11, 1). The
    /// class is for words: the header decides what can be passed through.
    pub class: u32,
    /// The type of its configuration header.
    pub header: Header,
    /// Whether its driver has registered it with VFIO.
    pub vfio: bool,
    /// Whether the kernel judges a group by each driver's use of DMA, also a bridge's driver
    /// (Linux 5.19, drivers/iommu/iommu.c, iommu_group_claim_dma_owner). Older kernels ignore the
    /// drivers of bridges.
    pub owned_groups: bool,
    /// Whether its group was made by VFIO's no-IOMMU mode, which isolates nothing.
    pub no_iommu: bool,
}

impl PciDevice {
    /// Whether VFIO has the device: its driver is vfio-pci, a variant such as mlx5_vfio_pci, or a
    /// GPU's driver that gives a virtual function to guests.
    pub fn is_vfio(&self) -> bool {
        self.vfio
    }

    /// Whether the device is a bridge, which no guest can have.
    pub fn is_bridge(&self) -> bool {
        self.header == Header::Bridge
    }

    /// The attribute that makes a virtual function a vGPU, if its driver has one (NVIDIA's virtual
    /// GPU software, for Linux 6.8 and later). The driver registers the function with VFIO once the
    /// attribute has a type.
    pub fn vgpu_type_file(&self) -> Option<PathBuf> {
        let file = self.path.join("nvidia/current_vgpu_type");
        file.exists().then_some(file)
    }

    /// Whether the device's driver makes the whole IOMMU group unusable, because the driver may do
    /// DMA. sysfs does not show what a driver has declared, so the two drivers that declare to do
    /// none are named (drivers/pci/pci-stub.c, drivers/pci/pcie/portdrv.c: `driver_managed_dma`).
    pub fn blocks_group(&self) -> bool {
        let Some(driver) = self.driver.as_deref() else {
            return false;
        };
        match self.header {
            _ if self.vfio || driver == "pci-stub" => false,
            Header::Endpoint => true,
            Header::Bridge => self.owned_groups && driver != "pcieport",
        }
    }
}

impl Sysfs {
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
            header: header(&path),
            vfio: is_registered(self, &path, driver.as_deref(), group),
            owned_groups: shows_devices(self),
            no_iommu: group.is_some_and(|group| self.is_no_iommu(group)),
            path,
            driver,
            group,
            class,
        }))
    }

    /// Whether a PCI device's group was made by VFIO's no-IOMMU mode: the kernel names the group
    /// `vfio-noiommu`, and there is no node of the plain number (drivers/vfio/group.c,
    /// vfio_group_find_or_alloc). The groups of mediated devices have the same name, but a node of
    /// the plain number.
    fn is_no_iommu(&self, group: u32) -> bool {
        let name = self.path(&format!("kernel/iommu_groups/{group}/name"));
        fs::read_to_string(name).is_ok_and(|name| name.trim() == "vfio-noiommu")
            && !self.path(&format!("class/vfio/{group}")).exists()
    }

    /// Every PCI device of the host, in order of address.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub fn devices(&self) -> io::Result<Vec<PciDevice>> {
        self.devices_in(&self.path("bus/pci/devices"))
    }

    /// Every PCI device of an IOMMU group, in order of address.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub fn group_members(&self, group: u32) -> io::Result<Vec<PciDevice>> {
        let dir = self
            .path("kernel/iommu_groups")
            .join(group.to_string())
            .join("devices");
        self.devices_in(&dir)
    }

    /// The devices at which the links of a directory point.
    fn devices_in(&self, dir: &Path) -> io::Result<Vec<PciDevice>> {
        let mut members = Vec::new();
        for bdf in addresses_in(dir)? {
            members.extend(self.device(bdf)?);
        }
        members.sort_by_key(|d| d.bdf);
        Ok(members)
    }
}

#[cfg(test)]
mod tests;
