//! A use that the host makes of a device, in words, with a remedy.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A use that the host makes of a device. The host loses it when the driver is unbound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "use", rename_all = "kebab-case")]
pub enum Use {
    /// A mounted file system on a disk of the device, or on a block device stacked on that disk.
    Mounted {
        /// The block device's name in sysfs: `nvme0n1p2`, `dm-0`.
        disk: String,
        /// The mount point.
        at: String,
    },
    /// Swap space on a disk, or on a block device stacked on the disk.
    Swap {
        /// The block device's name.
        disk: String,
    },
    /// A disk that is part of a RAID, a volume group or a pool.
    Held {
        /// The block device's name.
        disk: String,
        /// The block device stacked on the disk; `None` if the kernel only tells that the disk is
        /// in use.
        by: Option<String>,
    },
    /// A disk that the kernel exports to other machines (NVMe over Fabrics, iSCSI).
    Exported {
        /// The block device's name.
        disk: String,
        /// The directory in configfs that names the disk.
        by: String,
    },
    /// A disk that a process has open, for example a database or a VM.
    Open {
        /// The block device's name.
        disk: String,
        /// The process ID.
        process: u32,
        /// The name of the process.
        name: String,
    },
    /// A network interface that is up, has an address, or is part of a bridge or bond.
    Interface {
        /// The interface's name.
        name: String,
        /// The interface's addresses, without link-local addresses of IPv6.
        addresses: Vec<String>,
        /// Whether a default route uses the interface.
        default_route: bool,
        /// The bridge or bond that the interface is part of.
        master: Option<String>,
    },
    /// The display that the firmware used at boot. The console may be on this display.
    BootDisplay,
    /// A node of the device that a process has open or mapped.
    Node {
        /// The node's path, as the process sees it.
        path: String,
        /// The process ID.
        process: u32,
        /// The name of the process.
        name: String,
    },
    /// A console of the kernel.
    Console {
        /// The serial port (`ttyS4`), or the frame buffer with the text console (`fb0`).
        tty: String,
    },
    /// A keyboard, a mouse or a touch device.
    Input {
        /// The kind of device.
        kind: InputKind,
        /// Its name.
        name: String,
    },
    /// A screen that shows a picture of the driver.
    Screen {
        /// The connector: `card0-HDMI-A-1`.
        connector: String,
    },
    /// An open sound stream.
    Sound {
        /// The card and the device: `card0/pcm0p`.
        stream: String,
        /// The state of the stream: `running`, `prepared`, ...
        state: String,
        /// The process that opened the stream.
        process: Option<u32>,
    },
    /// A clock from which the kernel has set its time.
    Clock {
        /// The clock's name: `rtc0`.
        name: String,
    },
    /// A watchdog that runs: it resets the host when nobody serves it.
    Watchdog {
        /// The watchdog's name: `watchdog0`.
        name: String,
    },
    /// A TPM.
    Tpm {
        /// The TPM's name: `tpm0`.
        name: String,
    },
    /// The search for uses has not ended.
    Unknown {
        /// Why.
        why: String,
    },
}

/// A kind of input device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InputKind {
    /// Has a space bar.
    Keyboard,
    /// Has a left button.
    Mouse,
    /// A touch pad or touch screen.
    Touch,
}

impl Use {
    /// Whether the host loses something that it needs. An interface that is up but has no address
    /// is not needed.
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

    /// The way to end the use, most often a command; `None` if the host cannot work without the
    /// device.
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            // The root file system cannot be unmounted.
            Self::Mounted { at, .. } if at == "/" => return None,
            Self::Mounted { at, .. } => format!("as root: umount '{at}'"),
            Self::Swap { disk } => format!("as root: swapoff /dev/{disk}"),
            Self::Held { by: Some(by), .. } if by.starts_with("loop") => {
                format!("as root: losetup -d /dev/{by}")
            }
            Self::Exported { by, .. } if by.contains("/nvmet/") => {
                format!("as root: echo 0 >'{by}/enable'")
            }
            Self::Exported { .. } => {
                "as root: targetcli ls shows the backstore; targetcli /backstores/KIND delete NAME"
                    .into()
            }
            Self::Open { process, .. } => {
                format!("end process {process}; `ps -p {process} -f` shows its command")
            }
            Self::Held { by: Some(by), .. } if by.starts_with("md") => {
                format!("as root: mdadm --stop /dev/{by}")
            }
            Self::Held { by: Some(by), .. } if by.starts_with("dm-") => {
                format!("as root: dmsetup remove /dev/{by}")
            }
            Self::Held { disk, by: Some(by) } => format!(
                "stop what uses /dev/{disk}: as root, dmsetup remove or mdadm --stop /dev/{by}"
            ),
            Self::Held { disk, by: None } => format!(
                "see what uses /dev/{disk}: as root, fuser -v /dev/{disk} \
                 (a pool: zpool export POOL)"
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
            Self::Node { process, .. }
            | Self::Sound {
                process: Some(process),
                ..
            } => format!("end process {process}; `ps -p {process} -f` shows its command"),
            Self::Sound { stream, .. } => {
                format!("stop the sound; cat /proc/asound/{stream}/sub0/status shows the stream")
            }
            Self::Console { .. } => {
                "boot the host with another console (the kernel's parameter console=)".into()
            }
            Self::Input { .. } => "plug it into another controller, or use the host by ssh".into(),
            Self::Screen { .. } => {
                "use the host by ssh, or with a screen on another display controller".into()
            }
            Self::Watchdog { name } => {
                format!("stop the program that serves /dev/{name}, in the way that stops the timer")
            }
            Self::Clock { .. } | Self::Tpm { .. } => return None,
            Self::Unknown { .. } => {
                "see which process sleeps in the kernel: ps -eo pid,stat,wchan:30,args | grep ' D'"
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
            Self::Exported { disk, by } => {
                write!(f, "/dev/{disk} is exported to other machines by {by}")
            }
            Self::Held { disk, by: None } => {
                write!(f, "/dev/{disk} is used by a program or a pool")
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
            Self::Node {
                path,
                process,
                name,
            } => write!(f, "{name} (process {process}) has {path} open"),
            Self::Console { tty } => write!(f, "{tty} is a console of the kernel"),
            Self::Input { kind, name } => {
                let kind = match kind {
                    InputKind::Keyboard => "keyboard",
                    InputKind::Mouse => "mouse",
                    InputKind::Touch => "touch device",
                };
                write!(f, "the {kind} {name} is attached to it")
            }
            Self::Screen { connector } => write!(f, "the screen at {connector} shows a picture"),
            Self::Sound {
                stream,
                state,
                process,
            } => {
                let by = process.map_or(String::new(), |pid| format!(" by process {pid}"));
                write!(f, "the sound stream {stream} is opened{by} ({state})")
            }
            Self::Clock { name } => write!(f, "{name} is the clock that sets the host's time"),
            Self::Watchdog { name } => write!(f, "the watchdog {name} runs"),
            Self::Tpm { name } => write!(f, "{name} is a TPM of the host"),
            Self::Unknown { why } => write!(f, "its use could not be found out: {why}"),
        }
    }
}
