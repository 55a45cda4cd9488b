//! What the host does with a device at the moment: what is lost when its driver lets go of it.
//!
//! Disks and interfaces are found by where they are in sysfs: `/sys/class/block/NAME` and
//! `/sys/class/net/NAME` are links to a directory below the device's own, whatever controller, bus
//! or hub is between (Documentation/admin-guide/sysfs-rules.rst). What is stacked on a disk (LVM, a
//! RAID, encryption) is named by its `holders`. Nothing is written, and no device is opened but a
//! disk that seems free, for a moment.

mod disks;
mod lookup;
mod network;
#[cfg(test)]
mod tests;
mod usage;

use std::fs;
use std::io;

use super::paths::HostPaths;
use super::sysfs::{PciDevice, Sysfs};
use lookup::Below;

pub use usage::Use;

/// All that the host does with a device and what is below it; empty when it is free.
///
/// A device that a VFIO driver holds has neither disks nor interfaces.
///
/// # Errors
/// When sysfs or /proc cannot be read.
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
