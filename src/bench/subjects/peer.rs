//! The ways in which another VMM gives the disk or the network port to its guest.

use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Another VMM, and the way in which it gives the disk or the port to its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// QEMU, to which the device is assigned by vfio-pci
    QemuVfio,
    /// QEMU's emulated NVMe disk, whose data is the host's disk
    QemuNvme,
    /// QEMU's virtio-blk with a thread of its own, whose data is the host's disk
    QemuVirtio,
    /// QEMU's emulated network card of the kind e1000e, over the host's port
    QemuE1000e,
    /// QEMU's virtio-net with the host kernel's vhost, over the host's port
    QemuVhost,
    /// Cloud Hypervisor, to which the device is assigned
    CloudHypervisor,
    /// Cloud Hypervisor's virtio-blk, whose data is the host's disk
    CloudHypervisorVirtio,
    /// crosvm, to which the device is assigned
    Crosvm,
    /// Firecracker's virtio-blk, whose data is the host's disk
    Firecracker,
    /// alioth, to which the device is assigned by iommufd
    Alioth,
    /// OpenVMM, to which the device is assigned
    Openvmm,
}

/// What is not equal to a guest of mini-vmm wherever the VMM is another one.
const LATE: &str = "virtual CPUs are put on their CPUs when the guest is ready";

/// What a VMM has of the device, and its guest through the VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The device itself, which the host's driver must leave.
    Device,
    /// The disk of the host's driver.
    Disk,
    /// A macvtap over the port of the host's driver.
    Port,
}

/// What is not equal where the host's driver has the disk.
const THROUGH: &str = "each read also goes through a thread of the VMM and the host's own driver, \
    whose interrupts may come on other CPUs";

/// The same for a port.
const OVER: &str = "and, by a macvtap, through the host's own driver, whose interrupts may come on \
    other CPUs";

impl Peer {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::QemuVfio => "QEMU, vfio-pci",
            Self::QemuNvme => "QEMU, emulated NVMe",
            Self::QemuVirtio => "QEMU, virtio-blk",
            Self::QemuE1000e => "QEMU, emulated e1000e",
            Self::QemuVhost => "QEMU, virtio-net with vhost",
            Self::CloudHypervisor => "Cloud Hypervisor, vfio-pci",
            Self::CloudHypervisorVirtio => "Cloud Hypervisor, virtio-blk",
            Self::Crosvm => "crosvm, vfio-pci",
            Self::Firecracker => "Firecracker, virtio-blk",
            Self::Alioth => "alioth, vfio-pci",
            Self::Openvmm => "OpenVMM, vfio-pci",
        }
    }

    /// The program's name in PATH.
    pub fn program(self) -> &'static str {
        match self {
            Self::QemuVfio
            | Self::QemuNvme
            | Self::QemuVirtio
            | Self::QemuE1000e
            | Self::QemuVhost => "qemu-system-x86_64",
            Self::CloudHypervisor | Self::CloudHypervisorVirtio => "cloud-hypervisor",
            Self::Crosvm => "crosvm",
            Self::Firecracker => "firecracker",
            Self::Alioth => "alioth",
            Self::Openvmm => "openvmm",
        }
    }

    /// What makes the program say its version.
    pub fn version(self) -> &'static str {
        match self {
            Self::Crosvm => "version",
            _ => "--version",
        }
    }

    /// What the VMM has.
    pub fn way(self) -> Way {
        match self {
            Self::QemuVfio
            | Self::CloudHypervisor
            | Self::Crosvm
            | Self::Alioth
            | Self::Openvmm => Way::Device,
            Self::QemuNvme | Self::QemuVirtio | Self::CloudHypervisorVirtio | Self::Firecracker => {
                Way::Disk
            }
            Self::QemuE1000e | Self::QemuVhost => Way::Port,
        }
    }

    /// Whether the guest has the device itself, so that the host's driver must leave it.
    pub fn is_assigned(self) -> bool {
        self.way() == Way::Device
    }

    /// Whether the program's standard input must be a terminal.
    pub fn needs_terminal(self) -> bool {
        self == Self::Alioth
    }

    /// Whether the VMM says what KVM counts.
    pub fn counts(self) -> bool {
        self.program() == "qemu-system-x86_64"
    }

    /// Whether its guest is also started to be rebooted. The others are untested.
    pub fn reboots(self) -> bool {
        self.counts()
    }

    /// Whether the VMM can let the guest's idle loop run without exits.
    pub fn has_native_idle(self) -> bool {
        self == Self::QemuVfio
    }

    /// What is not equal between this subject and a guest of mini-vmm.
    pub fn differs(self) -> String {
        let machine = match self {
            Self::QemuVfio
            | Self::QemuNvme
            | Self::QemuVirtio
            | Self::QemuE1000e
            | Self::QemuVhost => {
                "the machine q35 with firmware, which has devices that mini-vmm lacks; on AMD, the \
                 guest lacks KVM's IA32_ARCH_CAPABILITIES"
            }
            Self::CloudHypervisor | Self::CloudHypervisorVirtio => {
                "Cloud Hypervisor's own devices and seccomp filters"
            }
            Self::Crosvm => "crosvm's own devices, without its sandbox",
            Self::Firecracker => "Firecracker's own devices; an ELF kernel",
            Self::Alioth => "alioth's own devices",
            Self::Openvmm => "OpenVMM's own devices, and a root port; an ELF kernel",
        };
        let path = match self {
            _ if self.is_assigned() => String::new(),
            Self::QemuNvme => format!("; {THROUGH}, the thread being QEMU's main one"),
            Self::QemuE1000e => format!(
                "; each packet also goes through QEMU's main thread, {OVER}; the guest's driver is \
                 e1000e, and the offloads are those of QEMU's card"
            ),
            Self::QemuVhost => format!(
                "; each packet also goes through a thread of the host's kernel (vhost), {OVER}; \
                 the guest's driver is virtio_net, and the offloads are virtio's: between guest \
                 and host, a packet may have 64 KiB"
            ),
            _ => format!("; {THROUGH}; the guest's driver is virtio_blk"),
        };
        format!("{machine}; {LATE}{path}")
    }

    /// What the guest's modules know the disk or port by; empty if it is the host's device itself.
    /// A device of virtio has two numbers: QEMU's on the root bus also has virtio's older interface
    /// (Virtual I/O Device 1.2, 4.1.2.1: a transitional device).
    pub fn modaliases(self) -> &'static [&'static str] {
        match self {
            _ if self.is_assigned() => &[],
            Self::QemuE1000e => &["pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00"],
            Self::QemuVhost => &[
                "pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00",
                "pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00",
                "virtio:d00000001v00001AF4",
            ],
            Self::QemuNvme => &["pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02"],
            _ => &[
                "pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00",
                "pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00",
                "virtio:d00000002v00001AF4",
            ],
        }
    }
}

/// The user's choice of another VMM: `NAME` or `NAME=PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The VMM.
    pub peer: Peer,
    /// Its program; without one, PATH is searched.
    pub path: Option<PathBuf>,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = match text.split_once('=') {
            Some((_, "")) => return Err(format!("`{text}` has no path after `=`")),
            Some((name, path)) => (name, Some(path.into())),
            None => (text, None),
        };
        match Peer::from_str(name, false) {
            Ok(peer) => Ok(Self { peer, path }),
            Err(_) => Err(format!("`{name}` is none of {}", names().join(", "))),
        }
    }
}

/// The names of all VMMs.
fn names() -> Vec<String> {
    let values = Peer::value_variants().iter();
    let values = values.filter_map(Peer::to_possible_value);
    values.map(|value| value.get_name().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vmm_is_chosen_by_name_and_path() {
        let choice = |text: &str| text.parse::<Choice>();
        let qemu = choice("qemu-vfio").unwrap();
        assert_eq!((qemu.peer, qemu.path), (Peer::QemuVfio, None));
        assert_eq!(choice("qemu-e1000e").unwrap().peer, Peer::QemuE1000e);
        assert_eq!(choice("qemu-vhost").unwrap().peer, Peer::QemuVhost);
        let cloud = choice("cloud-hypervisor=/opt/a=b").unwrap();
        assert_eq!(cloud.peer, Peer::CloudHypervisor);
        assert_eq!(cloud.path, Some("/opt/a=b".into()));
        let unknown = choice("vmware").unwrap_err();
        assert!(unknown.contains("crosvm, firecracker"), "{unknown}");
        assert!(choice("crosvm=").is_err() && choice("").is_err());
    }

    #[test]
    fn what_is_not_equal_is_said_of_each() {
        for peer in Peer::value_variants() {
            let differs = peer.differs();
            assert!(differs.contains("when the guest is ready"), "{differs}");
            assert_eq!(peer.is_assigned(), !differs.contains("host's own driver"));
            assert_eq!(peer.is_assigned(), peer.modaliases().is_empty());
        }
    }
}
