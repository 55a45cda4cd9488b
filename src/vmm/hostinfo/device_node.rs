//! The name of a device's own node under /dev/vfio/devices.

use std::fs;
use std::path::Path;

/// The name of the node of a device that is registered with VFIO. The directory `vfio-dev` alone is
/// no sign of a node: Linux 6.1 to 6.5 have it without nodes, and so have later kernels without
/// CONFIG_VFIO_DEVICE_CDEV. Like every node, this one has its number in the attribute `dev`.
pub fn device_node(device: &Path) -> Option<String> {
    let entry = fs::read_dir(device.join("vfio-dev")).ok()?.next()?.ok()?;
    let name = entry.file_name().into_string().ok()?;
    entry.path().join("dev").exists().then_some(name)
}
