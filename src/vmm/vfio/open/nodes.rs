//! The device nodes of VFIO and iommufd.

/// The node that opens a container.
pub(super) const CONTAINER: &str = "/dev/vfio/vfio";
/// The node that opens an iommufd.
pub(super) const IOMMUFD: &str = "/dev/iommu";

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
