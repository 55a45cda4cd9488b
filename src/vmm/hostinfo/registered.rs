//! Whether a PCI device is registered with VFIO: a fact of the kernel, not of the driver's name.
//!
//! From Linux 6.1 on, a registered device has a directory `vfio-dev` with one entry
//! (drivers/vfio/vfio_main.c, vfio_init_device). Older kernels show only that *some* device of a
//! group is registered: `/sys/class/vfio/GROUP`. A member is then registered if it is the only one
//! that can be, if its driver's module uses VFIO, or if its driver is vfio-pci.

use std::fs;
use std::path::Path;

use crate::hostinfo::header::{Header, header};
use crate::hostinfo::sysfs::{Sysfs, addresses_in, link_name};

/// Whether the kernel shows the registered devices one by one. The class exists if VFIO is loaded.
pub(super) fn shows_devices(sysfs: &Sysfs) -> bool {
    sysfs.path("class/vfio-dev").exists()
}

/// Whether a device is registered.
pub(super) fn is_registered(
    sysfs: &Sysfs,
    device: &Path,
    driver: Option<&str>,
    group: Option<u32>,
) -> bool {
    let shown = fs::read_dir(device.join("vfio-dev"));
    if shown.is_ok_and(|mut entries| entries.next().is_some()) {
        return true;
    }
    let (Some(driver), Some(group)) = (driver, group) else {
        return false;
    };
    if shows_devices(sysfs) || header(device) != Header::Endpoint || !has_node(sysfs, group) {
        return false;
    }
    driver == "vfio-pci" || uses_vfio(sysfs, device) || is_only_one(sysfs, group)
}

/// Whether VFIO has made a node for a group, so that a device of the group is registered.
fn has_node(sysfs: &Sysfs, group: u32) -> bool {
    let node = |prefix: &str| sysfs.path(&format!("class/vfio/{prefix}{group}")).exists();
    node("") || node("noiommu-")
}

/// Whether the module of a device's driver uses a module of VFIO.
fn uses_vfio(sysfs: &Sysfs, device: &Path) -> bool {
    let Ok(Some(module)) = link_name(&device.join("driver/module")) else {
        return false;
    };
    let holds = |of: &&str| {
        sysfs
            .path(&format!("module/{of}/holders/{module}"))
            .exists()
    };
    ["vfio_pci_core", "vfio"].iter().any(holds)
}

/// Whether a group has only one endpoint with a driver.
fn is_only_one(sysfs: &Sysfs, group: u32) -> bool {
    let members = addresses_in(&sysfs.path(&format!("kernel/iommu_groups/{group}/devices")));
    let paths = members
        .into_iter()
        .flatten()
        .map(|bdf| sysfs.device_path(bdf));
    let bound = paths.filter(|path| path.join("driver").exists());
    bound
        .filter(|path| header(path) == Header::Endpoint)
        .count()
        == 1
}
