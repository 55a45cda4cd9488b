//! The device nodes of a PCI device: of the device itself and of all that is below it.
//!
//! Each device that has a node has a file `dev` with the node's number in its directory
//! (Documentation/admin-guide/sysfs-rules.rst). The directories of a sound card, of a display, of a
//! USB controller's keyboards and disks are below the directory of the PCI device. The node's path
//! under /dev is up to udev, so nodes are known by number.

use std::fs;
use std::path::{Path, PathBuf};

use pci::Bdf;
use serde::{Deserialize, Serialize};
use vmm::hostinfo::sysfs::Sysfs;

use crate::paths::HostPaths;

/// Whether a node is a character device or a block device: both have numbers of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Kind {
    Character,
    Block,
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// The node with this number, wherever it is.
    Number(Kind, u32, u32),
    /// The node at this path.
    Path(PathBuf),
}

impl Node {
    /// The block device with this `MAJOR:MINOR`.
    pub(crate) fn block(id: &str) -> Option<Self> {
        let (major, minor) = id.trim().split_once(':')?;
        Some(Self::Number(
            Kind::Block,
            major.parse().ok()?,
            minor.parse().ok()?,
        ))
    }
}

/// The deepest directory below a device that is searched. A USB device behind hubs is about ten
/// directories below its controller, and what it offers another five.
const DEPTH: usize = 32;

/// All nodes of a PCI device.
pub(crate) fn of(sysfs: &Sysfs, paths: &HostPaths, bdf: Bdf) -> Vec<Node> {
    let Ok(device) = fs::canonicalize(sysfs.device_path(bdf)) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    below(&device, DEPTH, &mut found);
    shared_namespaces(sysfs, &device, &mut found);
    found.extend(nvidia(&paths.proc, bdf));
    if let Ok(Some(device)) = sysfs.device(bdf)
        && device.is_vfio()
        && let Some(group) = device.group
    {
        found.push(Node::Path(paths.dev.join("vfio").join(group.to_string())));
    }
    found
}

/// Collects the nodes of a directory and of the directories below it. Links are not followed: they
/// lead to other devices.
fn below(dir: &Path, depth: usize, found: &mut Vec<Node>) {
    found.extend(number(dir));
    let Some(depth) = depth.checked_sub(1) else {
        return;
    };
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_dir && entry.file_name() != "power" {
            below(&entry.path(), depth, found);
        }
    }
}

/// The number in a device's file `dev`, as `MAJOR:MINOR`.
fn number(dir: &Path) -> Option<Node> {
    let text = fs::read_to_string(dir.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    let subsystem = fs::read_link(dir.join("subsystem")).ok();
    let block = subsystem.is_some_and(|to| to.file_name().is_some_and(|name| name == "block"));
    let kind = if block { Kind::Block } else { Kind::Character };
    Some(Node::Number(kind, major.parse().ok()?, minor.parse().ok()?))
}

/// The nodes of NVMe namespaces that several controllers share, one of which is below the device.
/// Their directories are below the NVMe subsystem (drivers/nvme/host/multipath.c).
fn shared_namespaces(sysfs: &Sysfs, device: &Path, found: &mut Vec<Node>) {
    let class = sysfs.path("class/nvme-subsystem");
    for subsystem in fs::read_dir(class).into_iter().flatten().flatten() {
        let Ok(dir) = fs::canonicalize(subsystem.path()) else {
            continue;
        };
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        let ours = entries
            .filter_map(|entry| fs::canonicalize(entry.path()).ok())
            .any(|controller| controller.starts_with(device));
        if ours {
            below(&dir, DEPTH, found);
        }
    }
}

/// The node of a display of NVIDIA's driver, which makes no device for it in sysfs.
/// /proc/driver/nvidia/gpus/ADDRESS/information has the minor number as `Device Minor: 0`, and
/// /proc/devices the major number (195, also in versions whose name has a suffix).
fn nvidia(proc: &Path, bdf: Bdf) -> Option<Node> {
    const MAJOR: u32 = 195;
    let information = proc.join(format!("driver/nvidia/gpus/{bdf}/information"));
    let information = fs::read_to_string(information).ok()?;
    let mut lines = information.lines();
    let minor = lines.find_map(|line| line.strip_prefix("Device Minor:"))?;
    let devices = fs::read_to_string(proc.join("devices")).unwrap_or_default();
    let mut devices = devices
        .lines()
        .filter_map(|line| line.trim().split_once(' '));
    let major = devices.find(|(_, name)| matches!(*name, "nvidia" | "nvidia-frontend"));
    let major = major
        .and_then(|(major, _)| major.parse().ok())
        .unwrap_or(MAJOR);
    Some(Node::Number(
        Kind::Character,
        major,
        minor.trim().parse().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;

    const BDF: &str = "0000:01:00.0";

    fn found(tree: &Tree) -> Vec<Node> {
        of(&tree.sysfs(), &tree.paths(), BDF.parse().unwrap())
    }

    #[test]
    fn nodes_of_every_depth_and_kind() {
        let tree = Tree::new();
        tree.device(BDF, "0x0c0330", Some("xhci_hcd"), Some(1));
        let home = Tree::home(BDF);
        tree.file(&format!("{home}/usb1/dev"), "189:0\n");
        let keyboard = format!("{home}/usb1/1-1/1-1:1.0/0003:1.1/input/input3/event3");
        tree.file(&format!("{keyboard}/dev"), "13:67\n");
        let disk = format!("{home}/usb1/1-2/1-2:1.0/host0/target0:0:0/0:0:0:0/block/sda");
        tree.file(&format!("{disk}/dev"), "8:0\n");
        tree.link(&format!("{disk}/subsystem"), "sys/class/block");
        // A link to another device, and no number.
        tree.file("sys/devices/other/dev", "1:3\n");
        tree.link(&format!("{home}/usb1/other"), "sys/devices/other");
        tree.file(&format!("{home}/usb1/1-3/dev"), "nonsense\n");
        let mut found = found(&tree);
        found.sort_by_key(|node| format!("{node:?}"));
        assert_eq!(
            found,
            [
                Node::Number(Kind::Block, 8, 0),
                Node::Number(Kind::Character, 13, 67),
                Node::Number(Kind::Character, 189, 0),
            ]
        );
    }

    #[test]
    fn nodes_that_are_not_below_the_device() {
        let tree = Tree::new();
        tree.device(BDF, "0x030000", Some("nvidia"), Some(1));
        assert_eq!(found(&tree), []);
        let file = format!("proc/driver/nvidia/gpus/{BDF}/information");
        tree.file(&file, "Model: \t\t Made Up\nDevice Minor: \t 2\n");
        assert_eq!(found(&tree), [Node::Number(Kind::Character, 195, 2)]);
        let devices = "Character devices:\n  1 mem\n196 nvidia-modeset\n197 nvidia\n";
        tree.file("proc/devices", devices);
        assert_eq!(found(&tree), [Node::Number(Kind::Character, 197, 2)]);

        let tree = Tree::new();
        tree.device(BDF, "0x010802", Some("nvme"), Some(1));
        let controller = format!("{}/nvme/nvme0", Tree::home(BDF));
        tree.file(&format!("{controller}/dev"), "242:0\n");
        for (subsystem, to) in [
            ("nvme-subsys0", controller.as_str()),
            ("nvme-subsys1", "sys"),
        ] {
            let dir = format!("sys/devices/virtual/nvme-subsystem/{subsystem}");
            tree.link(&format!("{dir}/nvme0"), to);
            tree.file(&format!("{dir}/ng0n1/dev"), "241:7\n");
            tree.link(&format!("sys/class/nvme-subsystem/{subsystem}"), &dir);
        }
        assert_eq!(
            found(&tree),
            [(242, 0), (241, 7)].map(|(major, minor)| Node::Number(Kind::Character, major, minor))
        );

        let tree = Tree::new();
        tree.device(BDF, "0x010802", Some("vfio-pci"), Some(9));
        // VFIO's own node of the device, and that of its group.
        assert_eq!(
            found(&tree),
            [
                Node::Number(Kind::Character, 511, 0),
                Node::Path(tree.path("dev/vfio/9")),
            ]
        );
    }
}
