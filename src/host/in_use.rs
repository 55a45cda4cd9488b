//! What the host does with a device at the moment: what is lost when its driver lets go of it.
//!
//! Disks and interfaces are found by where they are in sysfs: `/sys/class/block/NAME` and
//! `/sys/class/net/NAME` are links to a directory below the device's own, whatever controller, bus
//! or hub is between (Documentation/admin-guide/sysfs-rules.rst). What is stacked on a disk (LVM, a
//! RAID, encryption) is named by its `holders`. Nothing is written, and no device is opened but a
//! disk that seems free, for a moment.

mod disks;
mod network;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use serde::Serialize;
use vmm::hostinfo::sysfs::{PciDevice, Sysfs};
use vmm::sys::interfaces;
use vmm::sys::interfaces::Address;

/// One thing that the host does with a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Use {
    /// A file system on a disk of the device's, or on what is stacked on that disk.
    Mounted {
        /// The block device's name under /dev, as sysfs has it: `nvme0n1p2`, `dm-0`.
        disk: String,
        /// Where.
        at: String,
    },
    /// Swap space, likewise.
    Swap {
        /// The block device's name.
        disk: String,
    },
    /// A disk that something else holds: a RAID, a volume group, a pool.
    Held {
        /// The block device's name.
        disk: String,
        /// The block device stacked on it; `None` where the kernel only says that it is taken.
        by: Option<String>,
    },
    /// A disk that a process has open: a database, a copy, another guest's.
    Open {
        /// The block device's name.
        disk: String,
        /// The process.
        process: u32,
        /// Its name.
        name: String,
    },
    /// A network interface that is up, has an address, or is part of another.
    Interface {
        /// Its name.
        name: String,
        /// Its addresses, link-local ones of IPv6 aside.
        addresses: Vec<String>,
        /// Whether the default route leads over it.
        default_route: bool,
        /// The bridge or bond that it belongs to.
        master: Option<String>,
    },
    /// The display that the firmware started with; the console may be on it.
    BootDisplay,
}

impl Use {
    /// Whether something is lost when the device goes: false for an interface that is merely up.
    pub fn is_serious(&self) -> bool {
        match self {
            Self::Interface {
                addresses,
                default_route,
                master,
                ..
            } => !addresses.is_empty() || *default_route || master.is_some(),
            _ => true,
        }
    }

    /// What to type to end it; `None` where only another device helps.
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            // Nobody unmounts what the host runs from.
            Self::Mounted { at, .. } if at == "/" => return None,
            Self::Mounted { at, .. } => format!("as root: umount '{at}'"),
            Self::Swap { disk } => format!("as root: swapoff /dev/{disk}"),
            Self::Held { by: Some(by), .. } if by.starts_with("loop") => {
                format!("as root: losetup -d /dev/{by}")
            }
            Self::Open { process, .. } => {
                format!("see what it is with `ps -p {process} -f`, and end it")
            }
            Self::Held { disk, by: Some(by) } => format!(
                "stop what is on /dev/{disk}: as root, dmsetup remove or mdadm --stop /dev/{by}"
            ),
            Self::Held { disk, by: None } => format!(
                "see who has /dev/{disk}: as root, fuser -v /dev/{disk} (a pool: zpool export POOL)"
            ),
            Self::Interface {
                name,
                master: Some(_),
                ..
            } => format!("as root: ip link set {name} nomaster down; ip addr flush dev {name}"),
            Self::Interface { name, .. } => {
                format!("as root: ip addr flush dev {name}; ip link set {name} down")
            }
            Self::BootDisplay => {
                "boot the host on another display (a setting of its firmware), or use it by ssh"
                    .into()
            }
        })
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { disk, at } => write!(f, "/dev/{disk} is mounted at {at}"),
            Self::Swap { disk } => write!(f, "/dev/{disk} is swap space"),
            Self::Held { disk, by: Some(by) } => write!(f, "/dev/{disk} is part of /dev/{by}"),
            Self::Held { disk, by: None } => {
                write!(f, "/dev/{disk} is held by a program or a pool")
            }
            Self::Open {
                disk,
                process,
                name,
            } => write!(f, "{name} (process {process}) has /dev/{disk} open"),
            Self::Interface {
                name,
                addresses,
                default_route,
                master,
            } => {
                write!(f, "network interface {name} ")?;
                match (master, addresses.first(), default_route) {
                    (Some(master), ..) => write!(f, "is part of {master}"),
                    (_, _, true) => write!(f, "has the default route"),
                    (_, Some(address), _) => write!(f, "has the address {address}"),
                    _ => write!(f, "is up"),
                }
            }
            Self::BootDisplay => write!(f, "it is the display that the firmware started with"),
        }
    }
}

/// Where the kernel tells of other things than devices, or a tree made up for a test.
#[derive(Clone, Debug)]
pub struct Places {
    /// As /proc: processors, mounts, swap, routes.
    pub proc: PathBuf,
    /// As /dev.
    pub dev: PathBuf,
    /// As /lib/modules: what can be loaded.
    pub modules: PathBuf,
    /// Who has which address.
    pub addresses: Addresses,
}

/// The addresses of network interfaces: no file has them all.
#[derive(Clone, Debug, Default)]
pub enum Addresses {
    /// As this host's kernel has them.
    #[default]
    OfThisHost,
    /// Made up for a test.
    These(Vec<Address>),
}

impl Addresses {
    fn read(&self) -> io::Result<Vec<Address>> {
        match self {
            Self::OfThisHost => interfaces::addresses(),
            Self::These(addresses) => Ok(addresses.clone()),
        }
    }
}

impl Default for Places {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            dev: "/dev".into(),
            modules: "/lib/modules".into(),
            addresses: Addresses::default(),
        }
    }
}

/// All that the host does with a device and what is below it; empty when it is free.
///
/// A device that a VFIO driver holds has neither disks nor interfaces.
///
/// # Errors
/// When sysfs or /proc cannot be read.
pub fn in_use(sysfs: &Sysfs, places: &Places, device: &PciDevice) -> io::Result<Vec<Use>> {
    let below = Below::new(&device.path)?;
    let mut uses = disks::uses(sysfs, places, &below)?;
    uses.extend(network::uses(sysfs, places, &below)?);
    // Documentation/ABI/testing/sysfs-bus-pci: boot_vga.
    let boot_vga = fs::read_to_string(device.path.join("boot_vga"));
    if boot_vga.is_ok_and(|text| text.trim() == "1") && !device.is_vfio() {
        uses.push(Use::BootDisplay);
    }
    Ok(uses)
}

/// What is below a device: everything whose real place in sysfs begins with the device's.
struct Below(PathBuf);

impl Below {
    fn new(device: &Path) -> io::Result<Self> {
        fs::canonicalize(device).map(Self)
    }

    fn has(&self, path: &Path) -> bool {
        fs::canonicalize(path).is_ok_and(|real| real.starts_with(&self.0))
    }
}

/// The names in a directory, sorted; none where it is not.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// A file's text; empty where there is none.
fn text(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}
