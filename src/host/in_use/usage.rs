//! One use that the host makes of a device, in words, and what ends it.

use std::fmt;

use serde::Serialize;

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
