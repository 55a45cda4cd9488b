//! `host cdi`: the specification by which container engines give bound devices to containers
//! (Container Device Interface, SPEC.md of container-device-interface).
//!
//! Version 0.5.0 is the first that takes names which begin with a digit. It has all fields that are
//! needed here, so older engines such as podman 4 read the file too.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use pci::Bdf;
use serde::Serialize;
use vmm::hostinfo::device_node::device_node;
use vmm::hostinfo::pci_device::PciDevice;
use vmm::hostinfo::sysfs::Sysfs;

use crate::list::State;
use crate::paths::HostPaths;

/// The vendor and class of all devices.
pub const KIND: &str = "mini-vmm.dev/vfio";

const VERSION: &str = "0.5.0";

/// The limit that a container needs, and that no specification can set.
pub const MEMLOCK_NOTE: &str = "CDI cannot set a container's limit of locked memory, which must be \
                                above the guest's memory: podman run --ulimit memlock=-1:-1";

/// The interface by which the containers use devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// Groups and /dev/vfio/vfio.
    Container,
    /// Device nodes and /dev/iommu.
    Iommufd,
}

/// The reason why there is no specification.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// sysfs cannot be read.
    #[error("cannot read the devices from sysfs")]
    Sysfs(#[source] io::Error),
    /// No device is bound.
    #[error("no device is ready for a guest")]
    NoDevice,
    /// A node that every container needs is missing.
    #[error("this host has no {}", .0.display())]
    NoNode(PathBuf),
    /// The file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
}

impl CdiError {
    /// The remedy to type.
    pub fn hint(&self) -> String {
        match self {
            Self::Sysfs(_) => "mount /sys, and look at `mini-vmm host list`".into(),
            Self::NoDevice => {
                "bind one, as root: mini-vmm host bind 0000:01:00.0 --persist; `mini-vmm host \
                 list` shows which are ready"
                    .into()
            }
            Self::NoNode(_) => "see what is missing with `mini-vmm host check`; --iommu container \
                                and --iommu iommufd need different nodes"
                .into(),
            Self::Write { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "only root may do this: put sudo before the command".into()
            }
            Self::Write { .. } => "name a file in a folder that can be written".into(),
        }
    }
}

/// A specification. Its field names are those of SPEC.md.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    cdi_version: &'static str,
    kind: &'static str,
    devices: Vec<Device>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    container_edits: Edits,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Edits {
    device_nodes: Vec<Node>,
}

#[derive(Debug, Serialize)]
struct Node {
    path: String,
    permissions: &'static str,
}

impl Spec {
    /// The specification of all devices that are ready for a guest: one CDI device for each group,
    /// or one for each device node. The two are never mixed: a container that had a group and a
    /// device node could open one device by both, which VFIO refuses.
    ///
    /// # Errors
    /// There is no device, or a node is missing.
    pub fn read(
        sysfs: &Sysfs,
        paths: &HostPaths,
        interface: Option<Interface>,
    ) -> Result<Self, CdiError> {
        let all = sysfs.devices().map_err(CdiError::Sysfs)?;
        let group = |device: &PciDevice| {
            let members = all.iter().filter(|d| d.group == device.group);
            members.cloned().collect::<Vec<_>>()
        };
        let ready = all
            .iter()
            .filter(|d| State::of(d, &group(d)) == State::Ready);
        let ready: Vec<_> = ready.collect();
        if ready.is_empty() {
            return Err(CdiError::NoDevice);
        }
        // A run with `--iommu auto` decides in the same way.
        let has_nodes = ready
            .iter()
            .all(|device| device_node(&device.path).is_some());
        let auto = match has_nodes && paths.dev.join("iommu").exists() {
            true => Interface::Iommufd,
            false => Interface::Container,
        };
        let interface = interface.unwrap_or(auto);
        let devices = match interface {
            Interface::Container => by_group(&ready),
            Interface::Iommufd => by_node(&ready),
        };
        let common = match interface {
            Interface::Container => ["/dev/kvm", "/dev/vfio/vfio"],
            Interface::Iommufd => ["/dev/kvm", "/dev/iommu"],
        };
        let spec = Self {
            cdi_version: VERSION,
            kind: KIND,
            devices: devices
                .into_iter()
                .map(|(bdf, node)| device(bdf, &common, node))
                .collect(),
        };
        spec.check_nodes(paths)?;
        match spec.devices.is_empty() {
            true => Err(CdiError::NoNode(paths.dev.join("vfio/devices"))),
            false => Ok(spec),
        }
    }

    /// The name of each device, as a container engine takes it.
    pub fn names(&self) -> Vec<String> {
        let devices = self.devices.iter();
        devices
            .map(|device| format!("{KIND}={}", device.name))
            .collect()
    }

    /// The text of the file.
    ///
    /// # Errors
    /// serde_json's signature requires an error, but these types cause no error.
    pub fn to_json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// An engine refuses to start a container with a node that the host lacks.
    fn check_nodes(&self, paths: &HostPaths) -> Result<(), CdiError> {
        let devices = self.devices.iter();
        for node in devices.flat_map(|device| &device.container_edits.device_nodes) {
            let below = node.path.strip_prefix("/dev/").unwrap_or(&node.path);
            let path = paths.dev.join(below);
            if !path.exists() {
                return Err(CdiError::NoNode(path));
            }
        }
        Ok(())
    }
}

/// The node of each group, named by the first of its ready devices: numbers of groups change from
/// boot to boot.
fn by_group(ready: &[&PciDevice]) -> Vec<(Bdf, String)> {
    let mut groups = BTreeMap::new();
    for device in ready {
        if let Some(group) = device.group {
            let first = groups.entry(group).or_insert(device.bdf);
            *first = (*first).min(device.bdf);
        }
    }
    let mut nodes: Vec<_> = groups
        .into_iter()
        .map(|(group, bdf)| (bdf, format!("/dev/vfio/{group}")))
        .collect();
    nodes.sort();
    nodes
}

fn by_node(ready: &[&PciDevice]) -> Vec<(Bdf, String)> {
    let node = |device: &&PciDevice| {
        let name = device_node(&device.path)?;
        Some((device.bdf, format!("/dev/vfio/devices/{name}")))
    };
    ready.iter().filter_map(node).collect()
}

fn device(bdf: Bdf, common: &[&str], own: String) -> Device {
    let node = |path: String| Node {
        path,
        // Reading and writing, and no mknod.
        permissions: "rw",
    };
    let common = common.iter().map(|path| node((*path).into()));
    Device {
        name: bdf.to_string(),
        container_edits: Edits {
            device_nodes: common.chain([node(own)]).collect(),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::tree::Tree;

    /// Three ready devices, two of them in one group, and devices that are not ready.
    fn host() -> Tree {
        let tree = Tree::new();
        tree.device("0000:01:00.0", "0x010802", Some("vfio-pci"), Some(7));
        tree.device("0000:02:00.0", "0x020000", Some("vfio-pci"), Some(11));
        tree.device("0000:02:00.1", "0x020000", Some("vfio-pci"), Some(11));
        tree.device("0000:03:00.0", "0x010802", Some("nvme"), Some(12));
        tree.device("0000:04:00.0", "0x010802", Some("vfio-pci"), Some(13));
        tree.device("0000:04:00.1", "0x010802", Some("nvme"), Some(13));
        tree.device("0000:05:00.0", "0x010802", None, Some(14));
        for node in [
            "kvm",
            "vfio/vfio",
            "vfio/7",
            "vfio/11",
            "iommu",
            "vfio/devices/vfio0",
        ] {
            tree.file(&format!("dev/{node}"), "");
        }
        tree
    }

    fn spec(tree: &Tree, interface: Option<Interface>) -> Result<Value, CdiError> {
        let spec = Spec::read(&tree.sysfs(), &tree.paths(), interface)?;
        Ok(serde_json::from_str(&spec.to_json().unwrap()).unwrap())
    }

    /// The rules of SPEC.md and of the engines' parser: all fields are known, all names are valid.
    fn check(spec: &Value) {
        let keys =
            |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
        assert_eq!(keys(spec), ["cdiVersion", "devices", "kind"]);
        let (vendor, class) = spec["kind"].as_str().unwrap().split_once('/').unwrap();
        let word = |text: &str, more: &str| {
            let ends = |c: char| c.is_ascii_alphanumeric();
            let inner = |c: char| ends(c) || more.contains(c);
            text.len() <= 63
                && text.starts_with(ends)
                && text.ends_with(ends)
                && text.chars().all(inner)
        };
        assert!(vendor.split('.').all(|label| word(label, "-")) && vendor.contains('.'));
        assert!(word(class, "-_") && class.starts_with(|c: char| c.is_ascii_alphabetic()));
        let mut names = Vec::new();
        for device in spec["devices"].as_array().unwrap() {
            assert_eq!(keys(device), ["containerEdits", "name"]);
            let name = device["name"].as_str().unwrap();
            assert!(word(name, "_-.:"), "{name}");
            names.push(name);
            assert_eq!(keys(&device["containerEdits"]), ["deviceNodes"]);
            for node in device["containerEdits"]["deviceNodes"].as_array().unwrap() {
                assert_eq!(keys(node), ["path", "permissions"]);
                let permissions = node["permissions"].as_str().unwrap();
                assert!(permissions.chars().all(|c| "rwm".contains(c)));
            }
        }
        let count = names.len();
        names.dedup();
        assert!(count == names.len() && count > 0, "{names:?}");
    }

    fn nodes(spec: &Value) -> Vec<(&str, Vec<&str>)> {
        let devices = spec["devices"].as_array().unwrap().iter();
        let paths = |device: &'_ Value| -> Vec<_> {
            let nodes = device["containerEdits"]["deviceNodes"]
                .as_array()
                .unwrap()
                .clone();
            nodes
                .iter()
                .map(|node| node["path"].as_str().unwrap().to_owned())
                .collect()
        };
        let paths = devices.map(|device| (device["name"].as_str().unwrap(), paths(device)));
        let leak = |texts: Vec<String>| texts.into_iter().map(|t| &*t.leak()).collect();
        paths.map(|(name, paths)| (name, leak(paths))).collect()
    }

    #[test]
    fn a_cdi_device_for_each_group() {
        let spec = spec(&host(), Some(Interface::Container)).unwrap();
        check(&spec);
        let expected = [
            (
                "0000:01:00.0",
                vec!["/dev/kvm", "/dev/vfio/vfio", "/dev/vfio/7"],
            ),
            (
                "0000:02:00.0",
                vec!["/dev/kvm", "/dev/vfio/vfio", "/dev/vfio/11"],
            ),
        ];
        assert_eq!(nodes(&spec), expected);
        assert_eq!(spec["kind"], json!("mini-vmm.dev/vfio"));
        assert_eq!(spec["cdiVersion"], json!("0.5.0"));
    }

    #[test]
    fn a_cdi_device_for_each_node() {
        let tree = host();
        let spec = spec(&tree, Some(Interface::Iommufd)).unwrap();
        check(&spec);
        let own = vec!["/dev/kvm", "/dev/iommu", "/dev/vfio/devices/vfio0"];
        // In the made-up host all nodes have one name.
        let names = ["0000:01:00.0", "0000:02:00.0", "0000:02:00.1"];
        let expected: Vec<_> = names.map(|name| (name, own.clone())).into();
        assert_eq!(nodes(&spec), expected);
        let read = Spec::read(&tree.sysfs(), &tree.paths(), None).unwrap();
        assert_eq!(read.names()[0], "mini-vmm.dev/vfio=0000:01:00.0");
    }

    #[test]
    fn the_interface_is_that_of_a_run() {
        let tree = host();
        let uses = |tree: &Tree| nodes(&spec(tree, None).unwrap())[0].1[1].to_owned();
        assert_eq!(uses(&tree), "/dev/iommu");
        std::fs::remove_file(tree.path("dev/iommu")).unwrap();
        assert_eq!(uses(&tree), "/dev/vfio/vfio");
    }

    #[test]
    fn what_is_missing_is_said() {
        let tree = host();
        std::fs::remove_file(tree.path("dev/iommu")).unwrap();
        let error = spec(&tree, Some(Interface::Iommufd)).unwrap_err();
        assert!(error.to_string().ends_with("/dev/iommu"), "{error}");
        std::fs::remove_file(tree.path("dev/kvm")).unwrap();
        let error = spec(&tree, None).unwrap_err();
        assert!(error.to_string().ends_with("/dev/kvm"), "{error}");
        let error = spec(&Tree::new(), None).unwrap_err();
        assert!(matches!(error, CdiError::NoDevice), "{error}");
    }
}
