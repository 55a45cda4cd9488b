//! Finds the uses that the host makes of a device. The host would lose them if the driver were
//! unbound.
//!
//! Disks and interfaces are found by their paths in sysfs. `/sys/class/block/NAME` and
//! `/sys/class/net/NAME` are links to a directory below the device's directory, also if a
//! controller, a bus or a hub is between (Documentation/admin-guide/sysfs-rules.rst). The directory
//! `holders` of a disk names the block devices that are stacked on it: LVM, a RAID, encryption.
//! Processes that have a node of the device open are found by the node's number, and what the
//! kernel itself does with a device by its classes. Nothing is written. A disk is opened for a
//! moment, and only if it seems to be free.

mod disks;
mod exports;
mod lookup;
mod network;
mod open_nodes;
mod roles;
#[cfg(test)]
mod tests;
mod usage;

use std::{fs, io};

use lookup::Below;
pub use usage::Use;
use vmm::hostinfo::pci_device::PciDevice;
use vmm::hostinfo::sysfs::Sysfs;

use crate::limited;
use crate::open_files::{self, Open, open_files};
use crate::paths::HostPaths;

/// Whether this user sees the open files of all processes.
pub fn sees_all(paths: &HostPaths) -> bool {
    open_files::sees_all(&paths.proc)
}

/// What [`in_use`] looks at, as the object of "no".
const LOOKED_AT: &str = "mounted file system, swap space, RAID, volume, pool or loop device; \
                         interface that is up or has an address; kernel console, keyboard, mouse \
                         or touch device; screen that shows a picture, or boot display; sound \
                         stream; TPM, clock or watchdog";

/// Returns all uses that the host makes of a device and of the devices below it. The result is
/// empty if none of the uses that [`nothing_found`] lists was found.
///
/// The search is bounded in time: a hung process, a lock or a disk may hold it. What is not known
/// then is a use of its own.
///
/// # Errors
/// sysfs or /proc cannot be read.
pub fn in_use(sysfs: &Sysfs, paths: &HostPaths, device: &PciDevice) -> io::Result<Vec<Use>> {
    let mut all = search_all(sysfs, paths, &[device], true)?;
    Ok(all.pop().unwrap_or_default())
}

/// The uses of each of these devices, as [`in_use`] finds them. No disk is opened, so a pool or a
/// mount of which only the kernel knows is not found.
///
/// # Errors
/// As for [`in_use`].
pub fn in_use_at_a_glance(
    sysfs: &Sysfs,
    paths: &HostPaths,
    devices: &[&PciDevice],
) -> io::Result<Vec<Vec<Use>>> {
    search_all(sysfs, paths, devices, false)
}

fn search_all(
    sysfs: &Sysfs,
    paths: &HostPaths,
    devices: &[&PciDevice],
    probe: bool,
) -> io::Result<Vec<Vec<Use>>> {
    let search = || {
        let open = open_files(paths);
        let all = devices
            .iter()
            .map(|device| search(sysfs, paths, device, &open, probe));
        let all: io::Result<Vec<_>> = all.collect();
        all.map_err(|e| e.raw_os_error().unwrap_or(libc::EIO))
    };
    match limited::within(limited::LIMIT, search) {
        Ok(uses) => uses.map_err(io::Error::from_raw_os_error),
        Err(e) if e.kind() == io::ErrorKind::TimedOut => {
            let unknown = Use::Unknown { why: e.to_string() };
            Ok(vec![vec![unknown]; devices.len()])
        }
        Err(e) => Err(e),
    }
}

/// The sentence for a device whose uses were searched for without a result: it names what was
/// looked at. `sees_all`: whether the open files of all processes were seen.
pub fn nothing_found(sees_all: bool) -> String {
    let processes = if sees_all {
        "process with an open or mapped node of the device"
    } else {
        "process of this user with an open or mapped node of the device (root sees the processes \
         of other users too)"
    };
    format!(
        "no use found: no {processes}; no {}",
        LOOKED_AT.replace("; ", "; no ")
    )
}

fn search(
    sysfs: &Sysfs,
    paths: &HostPaths,
    device: &PciDevice,
    open: &[Open],
    probe: bool,
) -> io::Result<Vec<Use>> {
    let below = Below::new(&device.path)?;
    let mut uses = disks::uses(sysfs, paths, &below, open, probe)?;
    uses.extend(network::uses(sysfs, paths, &below)?);
    uses.extend(open_nodes::uses(sysfs, paths, device.bdf, open));
    uses.extend(roles::uses(sysfs, paths, &below)?);
    // Documentation/ABI/testing/sysfs-bus-pci: boot_vga.
    let boot_vga = fs::read_to_string(device.path.join("boot_vga"));
    if boot_vga.is_ok_and(|text| text.trim() == "1") && !device.is_vfio() {
        uses.push(Use::BootDisplay);
    }
    Ok(uses)
}
