//! The reasons why a device cannot be passed through, and a remedy for each.

use std::io;
use std::path::{Path, PathBuf};

use pci::Bdf;
use uuid::Uuid;

use crate::config::device::Slot;
use crate::config::slots::SlotError;
use crate::errnos;
use crate::hostinfo::holders::Holders;
use crate::hostinfo::name::HostName;
use crate::hostinfo::node_access::Cause;
use crate::hostinfo::pci_device::PciDevice;
use crate::vfio::device::DeviceError;
use crate::vfio::open::nodes;
use crate::vfio::opener::Waiting;

/// Slots of the guest's root bus, without the host bridge's.
const MAX_DEVICES: usize = 31;

/// The reason why a device cannot be passed through.
#[derive(Debug, thiserror::Error)]
pub enum VfioError {
    /// The text is not an address.
    #[error("`{0}` is not the address of a PCI device, nor a mediated device's UUID")]
    BadAddress(String),
    /// A mediated device was named for a use that needs a PCI device.
    #[error("{} is not a PCI device of this host", .0.in_words())]
    NotPhysical(HostName),
    /// No device has the address.
    #[error("there is no PCI device {0} on this host")]
    NoDevice(Bdf),
    /// No mediated device has the UUID.
    #[error("there is no mediated device {0} on this host")]
    NoMediated(Uuid),
    /// A mediated device of another bus than PCI.
    #[error("mediated device {uuid} is used by `{api}`, not as a PCI device")]
    NotPci {
        /// The device.
        uuid: Uuid,
        /// The `device_api` of the device's type.
        api: String,
    },
    /// A mediated device without a driver: its parent's driver has given it up.
    #[error("mediated device {0} has no driver that gives it to VFIO")]
    Driverless(Uuid),
    /// A token for a device that accepts no token.
    #[error("{} takes no VF token", .0.in_words())]
    TokenUnused(HostName),
    /// A token, though the user has chosen iommufd, which takes no token for the device.
    #[error(
        "this kernel takes the VF token of {} by group and container only, not by iommufd",
        .0.in_words()
    )]
    TokenByIommufd(HostName),
    /// The kernel wants a token, or the token is wrong.
    #[error(
        "{} is opened only with {} VF token{}",
        .name.in_words(),
        if *.given { "another" } else { "a" },
        holder_note(.physical)
    )]
    TokenRefused {
        /// The device.
        name: HostName,
        /// Whether the user gave a token.
        given: bool,
        /// The physical function, if the device is a virtual function.
        physical: Option<Bdf>,
    },
    /// The user named the device twice.
    #[error("{} is given twice", .0.in_words())]
    Twice(HostName),
    /// More devices than the guest's bus has slots.
    #[error("{0} devices are too many: the guest's PCI bus has {MAX_DEVICES} free slots")]
    TooMany(usize),
    /// Two devices at one address of the guest's bus.
    #[error("the guest's PCI address {0} is given twice")]
    SlotTwice(Slot),
    /// A function without a function 0 in its slot: no guest would find it.
    #[error("the guest would not find PCI address {0}, because its slot has no function 0")]
    NoFunctionZero(Slot),
    /// sysfs did not answer.
    #[error("cannot read facts about {what} from sysfs")]
    Sysfs {
        /// A device or group.
        what: String,
        /// The errno.
        source: io::Error,
    },
    /// The device is bound to another driver, or to no driver.
    #[error("PCI device {bdf} is bound to {}, not to vfio-pci", driver_name(.driver))]
    NotVfio {
        /// The device.
        bdf: Bdf,
        /// The device's driver.
        driver: Option<String>,
        /// The attribute that makes the device a vGPU, if its driver has one.
        vgpu: Option<PathBuf>,
    },
    /// The device is a bridge.
    #[error("PCI device {0} is a bridge, which cannot be passed to a guest")]
    Bridge(Bdf),
    /// VFIO's no-IOMMU mode has made the device's group.
    #[error(
        "PCI device {0} is in VFIO's no-IOMMU mode: nothing keeps it from reading and writing all \
         of the host's memory, so no guest can have it"
    )]
    NoIommuMode(Bdf),
    /// The IOMMU is off or missing.
    #[error("PCI device {0} is in no IOMMU group: the host's IOMMU is off or missing")]
    NoGroup(Bdf),
    /// The host's drivers hold other devices of the group.
    #[error(
        "IOMMU group {group} of {bdf} is not viable: host drivers have {}",
        culprit_list(.culprits)
    )]
    NotViable {
        /// The device asked for.
        bdf: Bdf,
        /// The device's group.
        group: u32,
        /// Members that a host driver holds.
        culprits: Vec<PciDevice>,
    },
    /// A node under /dev/vfio that cannot be opened.
    #[error("cannot open {path}{}{cause}", device_note(.name))]
    Node {
        /// The facts behind the errno.
        cause: Cause,
        /// The node.
        path: String,
        /// The device that needs the node, if it is the node of a single device.
        name: Option<HostName>,
        /// The errno.
        source: io::Error,
    },
    /// The file of the device, which another process has opened, cannot be used.
    #[error("cannot use the open file of {}", .name.in_words())]
    Given {
        /// The device.
        name: HostName,
        /// The reason.
        source: io::Error,
    },
    /// Another process has opened the device's file, and has bound it too.
    #[error(
        "the open file of {} is bound already: it was used for a run, and its owner still has it",
        .0.in_words()
    )]
    BoundBefore(HostName),
    /// The device has no node under /dev/vfio/devices.
    #[error("{} has no node under /dev/vfio/devices", .0.in_words())]
    NoCdev(HostName),
    /// KVM's VFIO device cannot be made.
    #[error("{}", errnos::text("KVM_CREATE_DEVICE", .0))]
    KvmDevice(#[source] kvm_ioctls::Error),
    /// Any other step of opening failed.
    #[error("cannot open {}", .name.in_words())]
    Open {
        /// The device.
        name: HostName,
        /// The step.
        source: StepError,
    },
    /// Other processes have the device.
    #[error("cannot open {}: {holders} ({call})", .name.in_words())]
    Held {
        /// The device.
        name: HostName,
        /// The processes.
        holders: Box<Holders>,
        /// The device's node.
        node: String,
        /// The call that the kernel has refused.
        call: &'static str,
        /// The errno.
        source: io::Error,
    },
    /// The query of the I/O addresses, or the making of the I/O address space, failed.
    #[error("{}", errnos::text(.call, .source))]
    Iommu {
        /// The call's name.
        call: &'static str,
        /// The errno.
        source: io::Error,
    },
    /// The call that opens a device has not ended.
    #[error("cannot open {0}")]
    Waits(Waiting),
    /// A call to the open device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Functions of one device whose IOMMUs cannot be used together.
    #[error("the functions of {0} are behind IOMMUs that cannot be used together")]
    Apart(HostName),
    /// A thread could not be started, or panicked.
    #[error("cannot open the devices in parallel")]
    Thread,
}

const SET_CONTAINER: &str = "VFIO_GROUP_SET_CONTAINER";
const SET_IOMMU: &str = "VFIO_SET_IOMMU";

/// A failed step of opening a device.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The kernel reports the group as not viable, although sysfs showed no device that a host
    /// driver holds.
    #[error("the IOMMU group is not viable")]
    NotViable,
    /// The container refuses the group.
    #[error("{}", errnos::text(SET_CONTAINER, .0))]
    SetContainer(#[source] io::Error),
    /// The container refuses the group's IOMMU.
    #[error("{}", errnos::text(SET_IOMMU, .0))]
    SetIommu(#[source] io::Error),
    /// The kernel has no type 1 IOMMU for containers.
    #[error("VFIO has no IOMMU of type 1 for containers")]
    NoType1,
    /// Any other call failed.
    #[error("{}", errnos::text(.call, .source))]
    Call {
        /// The call's name.
        call: &'static str,
        /// The errno.
        source: io::Error,
    },
    /// A call that vfio-ioctls makes.
    #[error(transparent)]
    Library(vfio_ioctls::VfioError),
}

/// The way to turn an IOMMU on. AMD's is on unless a parameter turns it off
/// (Documentation/admin-guide/kernel-parameters.txt, amd_iommu, intel_iommu, iommu).
pub const TURN_ON: &str = "turn the IOMMU on in the firmware, and boot the host with \
     intel_iommu=on (Intel) or without amd_iommu=off (AMD), and without iommu=off";

fn vgpu_hint(file: &Path) -> String {
    let dir = file.parent().unwrap_or(file).display();
    format!(
        "choose a vGPU type for the virtual function: `cat {dir}/creatable_vgpu_types`, then as \
         root: echo NUMBER > {}",
        file.display()
    )
}

fn driver_name(driver: &Option<String>) -> String {
    driver
        .as_ref()
        .map_or("no driver".into(), |d| format!("the driver {d}"))
}

fn device_note(name: &Option<HostName>) -> String {
    name.map(|n| format!(" for {}", n.in_words()))
        .unwrap_or_default()
}

fn holder_note(physical: &Option<Bdf>) -> String {
    physical
        .map(|p| format!(": its physical function {p} is bound to VFIO too"))
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

impl From<SlotError> for VfioError {
    fn from(error: SlotError) -> Self {
        match error {
            SlotError::Twice(slot) => Self::SlotTwice(slot),
            SlotError::NoFunctionZero(slot) => Self::NoFunctionZero(slot),
            SlotError::TooMany(devices) => Self::TooMany(devices),
        }
    }
}

impl VfioError {
    /// Makes the error of a node that cannot be opened. `also` is the device's other node.
    pub(super) fn node(
        path: impl Into<String>,
        name: Option<HostName>,
        source: io::Error,
        also: Option<String>,
    ) -> Self {
        if let Some(waiting) = Waiting::behind(&source) {
            return Self::Waits(waiting.clone());
        }
        let path = path.into();
        let both = [Some(&path), also.as_ref()];
        let both: Vec<_> = both.into_iter().flatten().map(Path::new).collect();
        Self::Node {
            cause: Cause::of(&path, &nodes::class(&path), &both, &source),
            path,
            name,
            source,
        }
    }

    /// The other processes that have the device, if they are the reason.
    pub(super) fn holders(&self) -> Option<&Holders> {
        match self {
            Self::Held { holders, .. } => Some(holders),
            Self::Node { cause, .. } => cause.holders(),
            _ => None,
        }
    }

    /// Whether a container has refused a group, so that another container may take it.
    pub(super) fn is_refused_group(&self) -> bool {
        use StepError::{SetContainer, SetIommu};
        matches!(
            self,
            Self::Open {
                source: SetContainer(_) | SetIommu(_),
                ..
            }
        )
    }

    /// The remedy, if one is known; mostly a command to type.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::BadAddress(_) => {
                "give an address as `mini-vmm host list` prints it, for example \
                 --vfio 0000:01:00.0, or a UUID that `ls /sys/bus/mdev/devices` shows"
                    .into()
            }
            Self::NotPhysical(name) => format!(
                "name its parent, the PCI device: \
                 dirname $(readlink -f /sys/bus/mdev/devices/{name})"
            ),
            Self::NoDevice(_) => "list the devices with `mini-vmm host list`".into(),
            Self::NoMediated(uuid) => format!(
                "list the devices with `ls /sys/bus/mdev/devices`; as root, `echo {uuid} > \
                 /sys/class/mdev_bus/PARENT/mdev_supported_types/TYPE/create` makes one"
            ),
            Self::NotPci { .. } => "take a type whose device_api is vfio-pci: \
                 grep . /sys/class/mdev_bus/*/mdev_supported_types/*/device_api"
                .into(),
            Self::Driverless(uuid) => format!(
                "remove it and create it again, as root: \
                 echo 1 > /sys/bus/mdev/devices/{uuid}/remove"
            ),
            Self::TokenUnused(_) => "leave vf-token= out: it is for a virtual function whose \
                 physical function is bound to vfio-pci, and for that physical function"
                .into(),
            Self::TokenByIommufd(_) => "use --iommu container, or leave --iommu out".into(),
            Self::TokenRefused { name, physical, .. } => token_hint(*name, *physical),
            Self::Waits(waiting) => waiting.hint(),
            Self::Twice(name) => format!("give --vfio {name} once"),
            Self::SlotTwice(_) => "give each device a slot= of its own, or none".into(),
            Self::NoFunctionZero(slot) => {
                format!("give another device slot={:02x}.0", slot.device)
            }
            Self::TooMany(_) => {
                "pass fewer devices, run a second guest, or let eight devices share a slot behind \
                 root ports: port=on"
                    .into()
            }
            Self::NotVfio {
                vgpu: Some(file), ..
            } => vgpu_hint(file),
            Self::NotVfio { bdf, .. } => format!(
                "as root: mini-vmm host bind {bdf}; or, for this run alone, --vfio {bdf},managed=on"
            ),
            Self::NotViable { bdf, .. } => format!("as root: mini-vmm host bind {bdf} --group"),
            Self::Bridge(_) => {
                "name a device behind the bridge; `mini-vmm host list` shows them".into()
            }
            Self::NoGroup(_) | Self::NoIommuMode(_) => TURN_ON.into(),
            Self::BoundBefore(_) => {
                "open the device's node anew for each run, and close the file after it".into()
            }
            Self::NoCdev(_) => {
                "this kernel's VFIO has no device nodes; use --iommu container".into()
            }
            Self::Node {
                path, name, cause, ..
            } => return node_hint(path, *name, cause),
            Self::Held { holders, node, .. } => holders.hint(node),
            Self::Open { name, source } => return source.hint(*name),
            Self::Iommu { call, source } => return errnos::hint(call, source),
            Self::KvmDevice(e) => return errnos::hint("KVM_CREATE_DEVICE", e),
            Self::Device(e) => return e.hint(),
            Self::Thread => "raise the limit of threads with `ulimit -u`".into(),
            Self::Apart(_) => "start the guest with these functions".into(),
            Self::Sysfs { .. } | Self::Given { .. } => return None,
        })
    }
}

impl StepError {
    /// Makes the error of the failed call `call`.
    pub(super) fn call(call: &'static str, source: io::Error) -> Self {
        Self::Call { call, source }
    }

    fn hint(&self, name: HostName) -> Option<String> {
        match self {
            Self::SetContainer(e) => errnos::hint(SET_CONTAINER, e),
            Self::SetIommu(e) => errnos::hint(SET_IOMMU, e),
            Self::Call { call, source } => errnos::hint(call, source),
            Self::NotViable => Some(format!("as root: mini-vmm host bind {name} --group")),
            Self::NoType1 => {
                Some("as root: modprobe vfio_iommu_type1; or use --iommu iommufd".into())
            }
            Self::Library(_) => None,
        }
    }
}

fn token_hint(name: HostName, physical: Option<Bdf>) -> String {
    match physical {
        Some(physical) => {
            format!("give the token that {physical} was opened with: --vfio {name},vf-token=UUID")
        }
        None => format!(
            "its virtual functions are in use; give the token that they were opened with: \
             --vfio {name},vf-token=UUID"
        ),
    }
}

fn node_hint(path: &str, name: Option<HostName>, cause: &Cause) -> Option<String> {
    let permit = match name {
        Some(HostName::Pci(bdf)) => format!(
            "as root: mini-vmm host bind {bdf} --user $USER (with your user's name for $USER)"
        ),
        _ => format!("as root: chown $USER {path} (with your user's name for $USER)"),
    };
    let module = match path {
        nodes::IOMMUFD => "iommufd; if this kernel has no iommufd, use --iommu container",
        _ => "vfio-pci",
    };
    cause.hint(path, module, &permit)
}

#[cfg(test)]
mod tests;
