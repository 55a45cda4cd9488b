//! The reasons why devices cannot be bound or given back, and a remedy for each.

use std::io;
use std::path::{Path, PathBuf};

use crate::bind::functions_error::FunctionsError;
use pci::Bdf;
use uuid::Uuid;
use vmm::hostinfo::pci_device::PciDevice;
use vmm::log::error_chain::with_causes;
use vmm::vfio::open::TURN_ON;

use crate::bind::under_way::UnderWay;
use crate::persist::PersistError;

/// The reason why devices cannot be bound or given back.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The text is not an address.
    #[error("`{0}` is not the address of a PCI device")]
    BadAddress(String),
    /// No device has the address.
    #[error("there is no PCI device {0} on this host")]
    NoDevice(Bdf),
    /// The device is a bridge, which the host always keeps.
    #[error("PCI device {0} is a bridge, which cannot be passed to a guest")]
    Bridge(Bdf),
    /// The IOMMU is off or missing.
    #[error("PCI device {0} is in no IOMMU group, because the host's IOMMU is off or missing")]
    NoGroup(Bdf),
    /// VFIO's no-IOMMU mode has made the device's group.
    #[error("PCI device {0} is in VFIO's no-IOMMU mode, which isolates nothing")]
    NoIommuMode(Bdf),
    /// Host drivers have other devices of the group.
    #[error(
        "{bdf} cannot be passed through alone: host drivers have {} of its IOMMU group {group}",
        device_list(.others)
    )]
    Shared {
        /// The device that the user named.
        bdf: Bdf,
        /// Its group.
        group: u32,
        /// The members that host drivers have.
        others: Vec<PciDevice>,
    },
    /// The bridge's driver keeps guests from using the group.
    #[error(
        "the bridge {bridge} keeps guests from using IOMMU group {group}, which contains {bdf}"
    )]
    BridgeInGroup {
        /// The device that the user named.
        bdf: Bdf,
        /// Its group.
        group: u32,
        /// The bridge.
        bridge: Bdf,
    },
    /// The host uses the device.
    #[error("PCI device {bdf} is in use: {}", .uses.join(", "))]
    InUse {
        /// The device.
        bdf: Bdf,
        /// The uses, a few words each.
        uses: Vec<String>,
        /// A remedy for the first use; `None` if the host cannot do without the device.
        remedy: Option<String>,
        /// Whether the bind was for a run. The command of a run has no `--force`.
        run: bool,
    },
    /// A guest, or another program that uses VFIO, has the device open.
    #[error("PCI device {bdf} is in use: {} it open", holder_list(.holders))]
    Held {
        /// The device.
        bdf: Bdf,
        /// Process ids and names.
        holders: Vec<(u32, String)>,
    },
    /// Another run has bound the device and gives it back when it ends.
    #[error(
        "PCI device {bdf} belongs to the run of process {run}, which gives it back when it ends"
    )]
    Owned {
        /// The device, or another of its group.
        bdf: Bdf,
        /// The run's process.
        run: u32,
    },
    /// Virtual functions would be removed while one of them is used.
    #[error("the virtual functions of {physical} would be removed, and {}", with_causes(.cause))]
    FunctionInUse {
        /// The physical function.
        physical: Bdf,
        /// The virtual function, and the reason why it is in use.
        cause: Box<BindError>,
    },
    /// `--vfs`, and host drivers have other devices of a virtual function's group.
    #[error(
        "the virtual functions of {physical} cannot be passed through: {}",
        with_causes(.cause)
    )]
    FunctionsShared {
        /// The physical function.
        physical: Bdf,
        /// The devices and the group.
        cause: Box<BindError>,
    },
    /// `unbind` of a device that has no VFIO driver.
    #[error("PCI device {0} is not bound to vfio-pci, so there is nothing to give back")]
    NotBound(Bdf),
    /// `--vfs` for a device without SR-IOV.
    #[error("PCI device {0} cannot have virtual functions")]
    NoFunctions(Bdf),
    /// `--vfs` with more functions than the device has.
    #[error("PCI device {bdf} has {most} virtual functions at most, not {asked}")]
    TooManyFunctions {
        /// The physical function.
        bdf: Bdf,
        /// How many the device can have.
        most: u32,
        /// How many the user asked for.
        asked: u32,
    },
    /// `--vfs`, and the device or its driver does not make them.
    #[error(transparent)]
    Functions(#[from] FunctionsError),
    /// `--vfs` for a device that has virtual functions.
    #[error("PCI device {bdf} has {made} virtual functions already")]
    HasFunctions {
        /// The physical function.
        bdf: Bdf,
        /// How many there are.
        made: u32,
    },
    /// A physical function that has virtual functions cannot be bound itself.
    #[error("PCI device {bdf} would lose its {made} virtual functions")]
    WouldLoseFunctions {
        /// The physical function.
        bdf: Bdf,
        /// How many there are.
        made: u32,
    },
    /// A device with mediated devices cannot be bound.
    #[error("PCI device {bdf} would lose its mediated devices {}", uuid_list(.uuids))]
    WouldLoseMediated {
        /// The device.
        bdf: Bdf,
        /// The mediated devices.
        uuids: Vec<Uuid>,
    },
    /// `--user` with an unknown name.
    #[error("there is no user `{0}`")]
    NoUser(String),
    /// The kernel lacks the driver, and modprobe cannot load it.
    #[error("this kernel has no driver {module}, and the module cannot be loaded")]
    NoDriver {
        /// The module.
        module: String,
        /// The last line that modprobe printed.
        source: io::Error,
    },
    /// The kernel refused a write.
    #[error("cannot write `{text}` to {}", .path.display())]
    Write {
        /// The attribute.
        path: PathBuf,
        /// The value.
        text: String,
        /// The errno.
        source: io::Error,
    },
    /// The owner of a node could not be changed.
    #[error("cannot change the owner of {}", .path.display())]
    Own {
        /// The node.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// The driver did not bind the device when the kernel offered it.
    #[error("{wanted} did not bind PCI device {bdf}, which has {}", driver(.has))]
    NotTaken {
        /// The device.
        bdf: Bdf,
        /// The driver that should have the device.
        wanted: String,
        /// The driver that has the device.
        has: Option<String>,
    },
    /// sysfs could not be read.
    #[error("cannot read facts about {what} from sysfs")]
    Sysfs {
        /// A device or group.
        what: String,
        /// The errno.
        source: io::Error,
    },
    /// A record could not be read or written.
    #[error("cannot keep a record in {}", .path.display())]
    Record {
        /// The directory or file.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// The file is not a record.
    #[error("{} is not a record of mini-vmm", .0.display())]
    BadRecord(PathBuf),
    /// The file is not a journal.
    #[error(
        "{} is not a journal of mini-vmm, so the change that a killed command began stays \
         unfinished",
        .0.display()
    )]
    BadJournal(PathBuf),
    /// A newer version of the program wrote the record.
    #[error(
        "the record {} has version {version}, which this mini-vmm does not know",
        .path.display()
    )]
    UnknownRecord {
        /// The record.
        path: PathBuf,
        /// The version in the file.
        version: String,
    },
    /// A newer version of the program wrote the journal.
    #[error(
        "the journal {} has version {version}, which this mini-vmm does not know: a later one \
         was killed while it changed devices",
        .path.display()
    )]
    UnknownJournal {
        /// The journal.
        path: PathBuf,
        /// The version in the file.
        version: String,
    },
    /// A call of the kernel for the device goes on, or was lost in the kernel.
    #[error("{}", .1.describe(*.0))]
    UnderWay(Bdf, Box<UnderWay>),
    /// Another command changes the device.
    #[error(
        "process {process}, another mini-vmm, is changing PCI device {bdf}{}",
        call_text(.call)
    )]
    Changing {
        /// The device.
        bdf: Bdf,
        /// The other command.
        process: u32,
        /// The call of the kernel that the command waits for.
        call: Option<String>,
    },
    /// The files of persistent devices cannot be used.
    #[error(transparent)]
    Persist(#[from] PersistError),
    /// Another command kept the lock for too long.
    #[error("another mini-vmm has been changing devices for more than 30 seconds")]
    Busy,
    /// The guardian, the process that gives a run's devices back, could not be started.
    #[error("cannot start the process that gives the devices back if this process is killed")]
    Guardian(#[source] io::Error),
    /// A step failed. The changes before the failure were undone as far as possible.
    #[error("{}; {}", with_causes(.cause), undone(.cause, .left))]
    Undone {
        /// The failure.
        cause: Box<BindError>,
        /// The errors of changes that could not be undone.
        left: Vec<BindError>,
    },
}

fn driver(name: &Option<String>) -> String {
    name.as_ref()
        .map_or("no driver".into(), |d| format!("the driver {d}"))
}

fn device_list(devices: &[PciDevice]) -> String {
    let names: Vec<_> = devices
        .iter()
        .map(|d| {
            format!(
                "{} (driver {})",
                d.bdf,
                d.driver.as_deref().unwrap_or("none")
            )
        })
        .collect();
    names.join(", ")
}

fn uuid_list(uuids: &[Uuid]) -> String {
    let names: Vec<_> = uuids.iter().map(Uuid::to_string).collect();
    names.join(", ")
}

fn holder_list(holders: &[(u32, String)]) -> String {
    let names: Vec<_> = holders
        .iter()
        .map(|(pid, name)| format!("{name} (process {pid})"))
        .collect();
    let verb = if names.len() == 1 { "has" } else { "have" };
    format!("{} {verb}", names.join(", "))
}

fn call_text(call: &Option<String>) -> String {
    let text = |call: &String| format!(": it waits for `{call}`");
    call.as_ref().map_or(String::new(), text)
}

fn undone(cause: &BindError, left: &[BindError]) -> String {
    if left.is_empty() {
        return match cause {
            BindError::UnderWay(..) => "the changes of other devices were undone".into(),
            _ => "all changes were undone".into(),
        };
    }
    let left: Vec<_> = left.iter().map(|e| with_causes(e)).collect();
    format!("not all changes could be undone: {}", left.join("; "))
}

/// The hint for a device that the host must keep.
const LEAVE: &str = "bind another device: the host needs this one";
/// What to do without a journal.
const LOOK: &str = "see with `mini-vmm host list` which devices have no driver or a VFIO driver, \
                    and give them back with `mini-vmm host unbind`";

impl BindError {
    /// The call of the kernel that keeps a device from this command, if the call still goes on.
    pub fn sleeping_call(&self) -> Option<UnderWay> {
        match self {
            Self::UnderWay(_, state) if state.sleeps() => Some((**state).clone()),
            _ => None,
        }
    }

    /// The remedy, most often a command to type; `None` if there is no remedy.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Undone { cause, .. } => cause.hint(),
            Self::Write { source, .. } | Self::Own { source, .. } | Self::Record { source, .. }
                if needs_root(source) =>
            {
                Some("only root may do this: put sudo before the command".into())
            }
            _ => self
                .end_use()
                .or_else(|| self.do_without_record())
                .or_else(|| self.correct_request()),
        }
    }

    /// The way to end or ignore the use of a device.
    fn end_use(&self) -> Option<String> {
        let force = "or force it, as root:";
        Some(match self {
            Self::InUse { remedy: None, .. } => LEAVE.into(),
            Self::InUse {
                bdf,
                remedy: Some(remedy),
                run: true,
                ..
            } => format!("{remedy}; {force} mini-vmm host bind {bdf} --force"),
            Self::InUse {
                remedy: Some(remedy),
                ..
            } => format!("{remedy}; {force} the same command with --force"),
            Self::Held { bdf, .. } => {
                format!("end that process; {force} mini-vmm host unbind {bdf} --force")
            }
            Self::Owned { run, .. } => {
                format!("wait until that run ends; `ps -p {run} -f` shows its command")
            }
            Self::FunctionInUse { physical, cause } => {
                let end = match &**cause {
                    Self::InUse {
                        remedy: Some(remedy),
                        ..
                    } => remedy,
                    Self::InUse { .. } => return Some(LEAVE.into()),
                    _ => "end that process",
                };
                format!("{end}; {force} mini-vmm host unbind {physical} --force")
            }
            _ => return None,
        })
    }

    /// Whether both errors are about the same call.
    pub(super) fn is_same_call(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::UnderWay(a, _), Self::UnderWay(b, _)) => a == b,
            _ => false,
        }
    }

    /// The way to give a device back if its record or the journal cannot be read.
    fn do_without_record(&self) -> Option<String> {
        Some(match self {
            Self::BadRecord(path) => forget(path),
            Self::UnknownRecord { path, .. } => {
                format!(
                    "use the mini-vmm that bound the device; or {}",
                    forget(path)
                )
            }
            Self::BadJournal(_) => LOOK.into(),
            Self::UnknownJournal { path, .. } => format!(
                "any `host bind` or `host unbind` of that mini-vmm recovers them; or as root: \
                 rm {}; then {LOOK}",
                path.display()
            ),
            _ => return None,
        })
    }

    /// The corrected request, or the change that the host needs first.
    fn correct_request(&self) -> Option<String> {
        Some(match self {
            Self::BadAddress(_) => {
                "give an address as `mini-vmm host list` prints it, for example 0000:01:00.0".into()
            }
            Self::NoDevice(_) | Self::NotBound(_) => {
                "list the devices with `mini-vmm host list`".into()
            }
            Self::Bridge(_) => {
                "name the devices behind the bridge; list them with `mini-vmm host list --all`"
                    .into()
            }
            Self::NoGroup(_) | Self::NoIommuMode(_) => TURN_ON.into(),
            Self::Shared { bdf, .. } => {
                format!("bind all of the group, as root: mini-vmm host bind {bdf} --group")
            }
            Self::BridgeInGroup { bdf, .. } => {
                format!("put {bdf} into another slot, where the bridge is not in its group")
            }
            Self::FunctionsShared { physical, .. } => format!(
                "put {physical} into a slot behind a root port with ACS, where each function has \
                 a group of its own; or give a guest all of it: \
                 mini-vmm host bind {physical} --group"
            ),
            Self::Persist(e) => e.hint(),
            Self::NoFunctions(_) => "omit --vfs, or turn SR-IOV on in the firmware".into(),
            Self::Functions(e) => e.hint(),
            Self::TooManyFunctions { most, .. } => format!("give --vfs {most} or less"),
            Self::HasFunctions { bdf, .. } => format!(
                "bind them (`ls -d /sys/bus/pci/devices/{bdf}/virtfn*`), or remove them first"
            ),
            Self::WouldLoseFunctions { bdf, .. } => format!(
                "remove them first: mini-vmm host unbind {bdf}, or as root: \
                 echo 0 > /sys/bus/pci/devices/{bdf}/sriov_numvfs"
            ),
            Self::WouldLoseMediated { uuids, .. } => {
                let remove = |uuid| format!("echo 1 > /sys/bus/mdev/devices/{uuid}/remove");
                let remove: Vec<_> = uuids.iter().map(remove).collect();
                format!(
                    "pass them to guests (--vfio UUID), or remove them first, as root: {}",
                    remove.join("; ")
                )
            }
            Self::NoUser(_) => "give a name from /etc/passwd, or a number".into(),
            Self::NoDriver { module, .. } => format!(
                "as root: modprobe {module}; if there is no such module, the kernel needs \
                 CONFIG_VFIO_PCI"
            ),
            Self::NotTaken { bdf, .. } => format!("find the reason with `dmesg | grep {bdf}`"),
            Self::UnderWay(bdf, state) => state.remedy(*bdf),
            Self::Changing { process, .. } => {
                format!("wait until that command ends; `ps -p {process} -f` shows it")
            }
            Self::Sysfs { source, .. } if source.kind() == io::ErrorKind::TimedOut => {
                "see which process sleeps in the kernel: ps -eo pid,stat,wchan:30,args | grep ' D'"
                    .into()
            }
            Self::Busy => "find that process with `fuser -v /run/mini-vmm/lock`".into(),
            Self::Write { .. } => "find the reason with `dmesg | tail`".into(),
            _ => return None,
        })
    }
}

/// The way to give a device back without its record.
fn forget(record: &Path) -> String {
    let bdf = record.file_name().unwrap_or_default().to_string_lossy();
    format!(
        "as root: rm {}; then `mini-vmm host unbind {bdf}` gives the device to the driver that \
         matches it",
        record.display()
    )
}

fn needs_root(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}
