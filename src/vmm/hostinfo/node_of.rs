//! Which device an open node of VFIO is, by the node's number.

use std::io;

use crate::hostinfo::name::HostName;
use crate::hostinfo::sysfs::{Sysfs, link_name};

/// What a character device is for VFIO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeOf {
    /// A device's own node (Documentation/driver-api/vfio.rst, "VFIO Device cdev").
    Device(HostName),
    /// The node of the IOMMU group with this name.
    Group(String),
    /// No node of VFIO, or of a device that is not for PCI.
    Other,
}

/// Looks a node up in /sys/dev/char (Documentation/ABI/testing/sysfs-dev): its directory has links
/// to its class and to its device.
///
/// # Errors
/// NotFound if sysfs has no such number, or is not mounted; else the errno of reading a link.
pub fn node_of(sysfs: &Sysfs, (major, minor): (u32, u32)) -> io::Result<NodeOf> {
    let dir = sysfs.path(&format!("dev/char/{major}:{minor}"));
    let dir = dir.canonicalize()?;
    let class = link_name(&dir.join("subsystem"))?;
    let name = match class.as_deref() {
        Some("vfio-dev") => link_name(&dir.join("device"))?,
        Some("vfio") => {
            let name = dir.file_name().unwrap_or_default().to_string_lossy();
            return Ok(NodeOf::Group(name.into_owned()));
        }
        _ => None,
    };
    let device = name.and_then(|name| name.parse().ok());
    Ok(device.map_or(NodeOf::Other, NodeOf::Device))
}

#[cfg(test)]
mod tests {
    use std::fs::create_dir_all;
    use std::os::unix::fs::symlink;

    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    /// Adds a node with a class and a device, as the kernel does.
    fn add(root: &TempDir, number: &str, path: &str, class: &str, device: Option<&str>) {
        let dir = root.as_path().join(path);
        create_dir_all(&dir).unwrap();
        symlink(format!("../class/{class}"), dir.join("subsystem")).unwrap();
        if let Some(device) = device {
            symlink(format!("../../../{device}"), dir.join("device")).unwrap();
        }
        let chars = root.as_path().join("dev/char");
        create_dir_all(&chars).unwrap();
        symlink(format!("../../{path}"), chars.join(number)).unwrap();
    }

    #[test]
    fn a_number_leads_to_the_device_of_its_node() {
        let root = TempDir::new().unwrap();
        let bdf = "0000:01:00.0";
        let uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
        let at = |name: &str| format!("devices/{name}/vfio-dev/vfio0");
        add(&root, "511:0", &at(bdf), "vfio-dev", Some(bdf));
        add(&root, "511:1", &at(uuid), "vfio-dev", Some(uuid));
        // Of another bus, and without its device.
        add(&root, "511:2", &at("00:05"), "vfio-dev", Some("00:05"));
        add(&root, "511:3", &at("gone"), "vfio-dev", None);
        add(&root, "240:12", "devices/virtual/vfio/12", "vfio", None);
        add(&root, "10:196", "devices/virtual/misc/vfio", "misc", None);
        let sysfs = Sysfs::at(root.as_path());
        let device = |name: &str| NodeOf::Device(name.parse().unwrap());
        for (number, found) in [
            ((511, 0), device(bdf)),
            ((511, 1), device(uuid)),
            ((511, 2), NodeOf::Other),
            ((511, 3), NodeOf::Other),
            ((240, 12), NodeOf::Group("12".into())),
            ((10, 196), NodeOf::Other),
        ] {
            assert_eq!(node_of(&sysfs, number).unwrap(), found, "{number:?}");
        }
        let missing = node_of(&sysfs, (9, 9)).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
