//! The device nodes of VFIO and iommufd.

/// The node that opens a container.
pub(super) const CONTAINER: &str = "/dev/vfio/vfio";
/// The node that opens an iommufd.
pub(super) const IOMMUFD: &str = "/dev/iommu";

/// The node of an IOMMU group.
pub(super) fn group(number: u32) -> String {
    format!("/dev/vfio/{number}")
}

/// The node of a device, by its name in sysfs (Documentation/driver-api/vfio.rst, "VFIO Device
/// cdev").
pub(super) fn device(name: &str) -> String {
    format!("/dev/vfio/devices/{name}")
}
