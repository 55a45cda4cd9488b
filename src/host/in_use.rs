//! Finds the uses that the host makes of a device. The host would lose them if the driver were
//! unbound.
//!
//! Disks and interfaces are found by their paths in sysfs. `/sys/class/block/NAME` and
//! `/sys/class/net/NAME` are links to a directory below the device's directory, also if a
//! controller, a bus or a hub is between (Documentation/admin-guide/sysfs-rules.rst). The directory
//! `holders` of a disk names the block devices that are stacked on it: LVM, a RAID, encryption.
//! Nothing is written. A disk is opened for a moment, and only if it seems to be free.

mod disks;
mod lookup;
mod network;
#[cfg(test)]
mod tests;
mod usage;

use std::{fs, io};

use lookup::Below;
pub use usage::Use;
use vmm::hostinfo::pci_device::PciDevice;
use vmm::hostinfo::sysfs::Sysfs;

use crate::paths::HostPaths;

/// Returns all uses that the host makes of a device and of the devices below it. The result is
/// empty if the host does not use the device.
///
/// A device with a VFIO driver has neither disks nor interfaces.
///
/// # Errors
/// sysfs or /proc cannot be read.
pub fn in_use(sysfs: &Sysfs, paths: &HostPaths, device: &PciDevice) -> io::Result<Vec<Use>> {
    let below = Below::new(&device.path)?;
    let mut uses = disks::uses(sysfs, paths, &below)?;
    uses.extend(network::uses(sysfs, paths, &below)?);
    // Documentation/ABI/testing/sysfs-bus-pci: boot_vga.
    let boot_vga = fs::read_to_string(device.path.join("boot_vga"));
    if boot_vga.is_ok_and(|text| text.trim() == "1") && !device.is_vfio() {
        uses.push(Use::BootDisplay);
    }
    Ok(uses)
}
