//! The device nodes of VFIO and iommufd.

use std::fs::{File, OpenOptions};
use std::io;

use crate::sandbox::Mode;
use crate::vfio::opener::Opener;

/// The node that opens a container.
pub(super) const CONTAINER: &str = "/dev/vfio/vfio";
/// The node that opens an iommufd.
pub(super) const IOMMUFD: &str = "/dev/iommu";

/// Opens a node for a device. A confined run opens no node of a device itself ([`crate::broker`]).
/// And a thread of root's has lost CAP_DAC_OVERRIDE there, which a node that was given to a user
/// takes; the opener's process has that capability.
pub(super) fn open(opener: &Opener, device: &str, node: &str) -> io::Result<File> {
    if Mode::current() == Mode::On && node != IOMMUFD {
        return opener.open(device, node);
    }
    match OpenOptions::new().read(true).write(true).open(node) {
        Err(e) if e.raw_os_error() == Some(libc::EACCES) => opener.open(device, node),
        opened => opened,
    }
}

/// The directory in /sys/class that has the numbers of a node.
pub(super) fn class(path: &str) -> String {
    match path.rsplit_once('/') {
        Some(("/dev/vfio/devices", name)) => format!("vfio-dev/{name}"),
        Some(("/dev/vfio", "vfio")) => "misc/vfio".into(),
        Some(("/dev/vfio", name)) => format!("vfio/{name}"),
        Some((_, name)) => format!("misc/{name}"),
        None => String::new(),
    }
}

/// The node of an IOMMU group.
pub(super) fn group(number: u32) -> String {
    format!("/dev/vfio/{number}")
}

/// The node of a device, by its name in sysfs (Documentation/driver-api/vfio.rst, "VFIO Device
/// cdev").
pub(super) fn device(name: &str) -> String {
    format!("/dev/vfio/devices/{name}")
}
