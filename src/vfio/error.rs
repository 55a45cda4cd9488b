//! Why a device cannot be passed through, and what to type.

use std::io;

use super::IOMMUFD_NODE;
use super::candidate::MAX_DEVICES;
use super::device::DeviceError;
use crate::config::device::Slot;
use crate::host::sysfs::PciDevice;
use crate::pci::Bdf;

/// Why a device cannot be passed through.
#[derive(Debug, thiserror::Error)]
pub enum VfioError {
    /// Not an address.
    #[error("`{0}` is not the address of a PCI device")]
    BadAddress(String),
    /// Nothing there.
    #[error("there is no PCI device {0} on this host")]
    NoDevice(Bdf),
    /// Named more than once.
    #[error("PCI device {0} is given twice")]
    Twice(Bdf),
    /// More than the bus has room for.
    #[error("{0} devices are more than the guest's PCI bus has slots for, which is {MAX_DEVICES}")]
    TooMany(usize),
    /// A place on the guest's bus that two devices want.
    #[error("the guest's PCI address {0} is given twice")]
    SlotTwice(Slot),
    /// A function that no guest would find.
    #[error("the guest's PCI address {0} has no function 0 beside it, so no guest would find it")]
    NoFunctionZero(Slot),
    /// sysfs did not answer.
    #[error("cannot read what the kernel says about {what}")]
    Sysfs {
        /// A device or group.
        what: String,
        /// The errno.
        source: io::Error,
    },
    /// Another driver holds it, or none.
    #[error("PCI device {bdf} is bound to {}, not to vfio-pci", driver_name(.driver))]
    NotVfio {
        /// The device.
        bdf: Bdf,
        /// Its driver.
        driver: Option<String>,
    },
    /// The IOMMU is off, or there is none.
    #[error("PCI device {0} is in no IOMMU group: the host's IOMMU is off or missing")]
    NoGroup(Bdf),
    /// Other devices of the group are in the host's hands.
    #[error(
        "IOMMU group {group} of {bdf} is not viable: the host must give up {} too",
        culprit_list(.culprits)
    )]
    NotViable {
        /// The device asked for.
        bdf: Bdf,
        /// Its group.
        group: u32,
        /// Members that a host driver holds.
        culprits: Vec<PciDevice>,
    },
    /// A node under /dev/vfio.
    #[error("cannot open {path}{}", device_note(.bdf))]
    Node {
        /// The node.
        path: String,
        /// The device that needs it, if one in particular.
        bdf: Option<Bdf>,
        /// The errno.
        source: io::Error,
    },
    /// No node under /dev/vfio/devices.
    #[error("PCI device {0} has no node under /dev/vfio/devices")]
    NoCdev(Bdf),
    /// KVM's VFIO device.
    #[error("KVM_CREATE_DEVICE of KVM's VFIO device failed")]
    KvmDevice(#[source] kvm_ioctls::Error),
    /// Any other step of opening.
    #[error("cannot take PCI device {bdf} over")]
    Open {
        /// The device.
        bdf: Bdf,
        /// What vfio-ioctls says.
        source: vfio_ioctls::VfioError,
    },
    /// Asking the container.
    #[error("the IOMMU does not say what it can map")]
    IommuInfo(#[source] io::Error),
    /// The device itself.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A thread could not be started, or died.
    #[error("cannot open the devices in parallel")]
    Thread,
}

fn driver_name(driver: &Option<String>) -> String {
    driver
        .as_ref()
        .map_or("no driver".into(), |d| format!("the driver {d}"))
}

fn device_note(bdf: &Option<Bdf>) -> String {
    bdf.map(|b| format!(" for PCI device {b}"))
        .unwrap_or_default()
}

fn culprit_list(culprits: &[PciDevice]) -> String {
    let names: Vec<_> = culprits
        .iter()
        .map(|c| {
            format!(
                "{} (driver {})",
                c.bdf,
                c.driver.as_deref().unwrap_or("none")
            )
        })
        .collect();
    names.join(", ")
}

impl VfioError {
    /// A node that cannot be opened.
    pub(super) fn node(path: impl Into<String>, bdf: Option<Bdf>, source: io::Error) -> Self {
        Self::Node {
            path: path.into(),
            bdf,
            source,
        }
    }

    /// What to type.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::BadAddress(_) => {
                "give an address as `lspci -D` prints it, for example --vfio 0000:01:00.0".into()
            }
            Self::NoDevice(_) => "see what there is with `mini-vmm host list`".into(),
            Self::Twice(bdf) => format!("give --vfio {bdf} once"),
            Self::SlotTwice(_) => "give each device a slot= of its own, or none".into(),
            Self::NoFunctionZero(slot) => {
                format!("give another device slot={:02x}.0", slot.device)
            }
            Self::TooMany(_) => "pass fewer devices, or run a second guest".into(),
            Self::NotVfio { bdf, .. } => format!(
                "as root: mini-vmm host bind {bdf}; or, for this run alone, --vfio {bdf},managed=on"
            ),
            Self::NotViable { bdf, .. } => {
                format!("as root: mini-vmm host bind {bdf} --group")
            }
            Self::NoGroup(_) => {
                "turn the IOMMU on in the firmware and boot the host with intel_iommu=on (Intel) or amd_iommu=on (AMD)".into()
            }
            Self::NoCdev(_) => {
                "this kernel's VFIO has no device nodes; use --iommu container".into()
            }
            Self::Node { path, bdf, source } => match source.kind() {
                io::ErrorKind::NotFound if path == IOMMUFD_NODE => {
                    "this kernel has no iommufd, or as root: modprobe iommufd; else use --iommu container".into()
                }
                io::ErrorKind::NotFound => "as root: modprobe vfio-pci".into(),
                io::ErrorKind::PermissionDenied => match bdf {
                    Some(bdf) => format!(
                        "as root: mini-vmm host bind {bdf} --user $USER (with your user's name for $USER)"
                    ),
                    None => format!("as root: chmod 666 {path}"),
                },
                _ if source.raw_os_error() == Some(libc::EBUSY) => format!(
                    "another process has it open; see which with `fuser -v {path}`"
                ),
                _ => return None,
            },
            Self::Open { source: vfio_ioctls::VfioError::ContainerSetIOMMU(_), .. } => {
                "if `dmesg` says that the platform lacks interrupt remapping and you trust the guest, as root: echo 1 > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts".into()
            }
            Self::Open { .. } => "see `dmesg | grep -i vfio`".into(),
            _ => return None,
        })
    }
}
