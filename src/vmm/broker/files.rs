//! Which nodes, files of sysfs and descriptors belong to the devices of a run.
//!
//! A name that the VMM sends is compared with a grammar, and the path that is opened is made anew:
//! no part of it is the VMM's, so that neither `..` nor a symbolic link leads elsewhere.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use pci::Bdf;

use crate::broker::named::{Named, Right};
use crate::hostinfo::device_node::device_node;
use crate::hostinfo::name::HostName;
use crate::hostinfo::node_of::{NodeOf, node_of};
use crate::hostinfo::sysfs::{Sysfs, link_name};
use crate::sys::descriptor::char_device;

/// The error of a request for a file that is not the run's.
pub fn refused() -> io::Error {
    io::Error::from_raw_os_error(libc::EACCES)
}

/// A node of VFIO or iommufd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// /dev/iommu.
    Iommufd,
    /// /dev/vfio/vfio.
    Container,
    /// /dev/vfio/N.
    Group(u32),
    /// /dev/vfio/devices/vfioN.
    Device(u32),
}

impl Node {
    /// The node with this path.
    pub fn parse(path: &str) -> Option<Self> {
        let rest = match path {
            "/dev/iommu" => return Some(Self::Iommufd),
            "/dev/vfio/vfio" => return Some(Self::Container),
            _ => path.strip_prefix("/dev/vfio/")?,
        };
        match rest.strip_prefix("devices/vfio") {
            Some(number) => plain_number(number).map(Self::Device),
            None => plain_number(rest).map(Self::Group),
        }
    }

    /// The path.
    pub fn path(&self) -> String {
        "/dev/".to_owned() + &self.below_dev()
    }

    /// The path below /dev.
    pub fn below_dev(&self) -> String {
        match self {
            Self::Iommufd => "iommu".into(),
            Self::Container => "vfio/vfio".into(),
            Self::Group(number) => format!("vfio/{number}"),
            Self::Device(number) => format!("vfio/devices/vfio{number}"),
        }
    }

    /// The directory in /sys/class that has the node's number.
    fn class(&self) -> String {
        match self {
            Self::Iommufd => "misc/iommu".into(),
            Self::Container => "misc/vfio".into(),
            Self::Group(number) => format!("vfio/{number}"),
            Self::Device(number) => format!("vfio-dev/vfio{number}"),
        }
    }

    /// The run's right to the node: to one of no device, or by one of its own devices; `None` if it
    /// has none.
    pub fn right(&self, sysfs: &Sysfs, named: &Named) -> Option<Right> {
        if matches!(self, Self::Iommufd | Self::Container) {
            return Some(Right::Open);
        }
        let devices = named.all().into_iter();
        let own = devices.filter(|device| nodes_of(sysfs, device.name).contains(self));
        own.map(|device| device.right).max()
    }

    /// Whether an open file is this node's, and not that of another device with its path.
    pub fn is_behind(&self, sysfs: &Sysfs, file: &File) -> bool {
        let number = sysfs.path("class").join(self.class()).join("dev");
        let number = fs::read_to_string(number).unwrap_or_default();
        let found = char_device(file).map(|(major, minor)| format!("{major}:{minor}"));
        found.is_some_and(|found| found == number.trim())
    }
}

/// A decimal number as the kernel writes it.
fn plain_number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// The nodes of a device: its group's, and its own one.
pub fn nodes_of(sysfs: &Sysfs, name: HostName) -> Vec<Node> {
    let own = || {
        let node = device_node(&sysfs.path_of(name))?;
        plain_number(node.strip_prefix("vfio")?).map(Node::Device)
    };
    let group = group(sysfs, name).map(Node::Group);
    group.into_iter().chain(own()).collect()
}

fn group(sysfs: &Sysfs, name: HostName) -> Option<u32> {
    let link = sysfs.path_of(name).join("iommu_group");
    plain_number(&link_name(&link).ok()??)
}

/// The attributes of a link, which those of the other end of it tell too.
const LINK: [&str; 4] = [
    "current_link_speed",
    "current_link_width",
    "max_link_speed",
    "max_link_width",
];

/// The file of sysfs that is read for a path: an attribute of a device of the run, or of the link
/// above it.
///
/// # Errors
/// EACCES.
pub fn fact(sysfs: &Sysfs, named: &Named, path: &str) -> io::Result<PathBuf> {
    let below = Path::new(path);
    let folder = below.parent().and_then(Path::file_name);
    let parts = (
        folder.and_then(OsStr::to_str),
        below.file_name().and_then(OsStr::to_str),
    );
    let (Some(folder), Some(attribute)) = parts else {
        return Err(refused());
    };
    let name: HostName = folder.parse().map_err(|_| refused())?;
    let resize = attribute
        .strip_prefix("resource")
        .and_then(|rest| rest.strip_suffix("_resize"))
        .and_then(plain_number);
    let own = attribute == "config" || resize.is_some_and(|bar| bar < 6);
    let known = match own {
        true => named.has(name),
        false => LINK.contains(&attribute) && shows_link(sysfs, named, name),
    };
    match known {
        true => Ok(sysfs.path_of(name).join(attribute)),
        false => Err(refused()),
    }
}

/// As [`fact`], for a run that is not confined: any file of sysfs.
///
/// # Errors
/// EACCES.
pub fn any_fact(path: &str) -> io::Result<PathBuf> {
    match path.starts_with("/sys/") && !path.split('/').any(|part| part == "..") {
        true => Ok(path.into()),
        false => Err(refused()),
    }
}

/// Whether a device's link is that of a device of the run: it is such a device, the port above it,
/// or its physical function.
fn shows_link(sysfs: &Sysfs, named: &Named, name: HostName) -> bool {
    let HostName::Pci(bdf) = name else {
        return named.has(name);
    };
    named.has(name)
        || named.all().into_iter().any(|device| {
            let HostName::Pci(own) = device.name else {
                return false;
            };
            let above = port_above(sysfs, own);
            above == Some(bdf) || sysfs.physical_function(own).ok().flatten() == Some(bdf)
        })
}

fn port_above(sysfs: &Sysfs, device: Bdf) -> Option<Bdf> {
    let path = fs::canonicalize(sysfs.device_path(device)).ok()?;
    path.parent()?.file_name()?.to_str()?.parse().ok()
}

/// Checks the name for VFIO_GROUP_GET_DEVICE_FD: that of a device of the run, alone or with a token
/// (drivers/vfio/pci/vfio_pci_core.c, vfio_pci_core_match).
///
/// # Errors
/// EACCES.
pub fn check_name(named: &Named, text: &str) -> io::Result<()> {
    let name = text.split_once(" vf_token=").map_or(text, |(name, _)| name);
    match name.parse::<HostName>() {
        Ok(known) if known.to_string() == name && named.has(known) => Ok(()),
        _ => Err(refused()),
    }
}

/// What a descriptor is that comes with a request. The descriptor is the right to what it stands
/// for: the VMM has it from this process, from the command line or from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A device, by its own node or from its group.
    Device,
    /// An IOMMU group.
    Group,
    /// An iommufd.
    Iommufd,
}

/// Checks that a descriptor is of a kind: a call of VFIO for another file would be the VMM's own
/// choice, made with the rights of this process.
///
/// # Errors
/// EACCES.
pub fn check_kind(sysfs: &Sysfs, file: &File, kind: Kind) -> io::Result<()> {
    let fits = match (kind, char_device(file)) {
        (Kind::Device, None) => is_vfio_device(file),
        (_, None) => false,
        (Kind::Iommufd, Some(_)) => Node::Iommufd.is_behind(sysfs, file),
        (kind, Some(number)) => match node_of(sysfs, number) {
            Ok(NodeOf::Device(_)) => kind == Kind::Device,
            Ok(NodeOf::Group(_)) => kind == Kind::Group,
            Ok(NodeOf::Other) => false,
            // A device that is leaving the host has no number in sysfs any more, and its file is
            // open still (drivers/vfio/vfio_main.c, vfio_unregister_group_dev).
            Err(_) => is_below_vfio(file),
        },
    };
    match fits {
        true => Ok(()),
        false => Err(refused()),
    }
}

/// Whether a file is a device that a group has given (drivers/vfio/group.c,
/// vfio_device_open_file).
fn is_vfio_device(file: &File) -> bool {
    name_of(file).as_deref() == Some(Path::new("anon_inode:[vfio-device]"))
}

fn is_below_vfio(file: &File) -> bool {
    name_of(file).is_some_and(|path| path.starts_with("/dev/vfio"))
}

/// What the kernel calls a file (proc_pid_fd(5)).
fn name_of(file: &File) -> Option<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

#[cfg(test)]
mod tests;
