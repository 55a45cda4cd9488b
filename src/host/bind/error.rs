//! Why devices cannot be bound or given back, and what to type.

use std::io;
use std::path::PathBuf;

use pci::Bdf;
use uuid::Uuid;
use vmm::hostinfo::sysfs::PciDevice;
use vmm::log::error_chain::with_causes;

/// Why devices cannot be bound or given back.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Not an address.
    #[error("`{0}` is not the address of a PCI device")]
    BadAddress(String),
    /// Nothing there.
    #[error("there is no PCI device {0} on this host")]
    NoDevice(Bdf),
    /// A bridge belongs to the host, always.
    #[error("PCI device {0} is a bridge, which no guest can have")]
    Bridge(Bdf),
    /// The IOMMU is off, or there is none.
    #[error("PCI device {0} is in no IOMMU group: the host's IOMMU is off or missing")]
    NoGroup(Bdf),
    /// Others would have to come along.
    #[error(
        "{bdf} alone would be of use to nobody: the host keeps {} of its IOMMU group {group}",
        device_list(.others)
    )]
    Shared {
        /// The device asked for.
        bdf: Bdf,
        /// Its group.
        group: u32,
        /// The members that a host driver holds.
        others: Vec<PciDevice>,
    },
    /// A bridge's driver keeps the group from being used.
    #[error("the bridge {bridge} keeps IOMMU group {group} of {bdf} in the host's hands")]
    BridgeInGroup {
        /// The device asked for.
        bdf: Bdf,
        /// Its group.
        group: u32,
        /// The bridge.
        bridge: Bdf,
    },
    /// The host needs it.
    #[error("PCI device {bdf} is in use: {}", .uses.join(", "))]
    InUse {
        /// The device.
        bdf: Bdf,
        /// Each use in a few words.
        uses: Vec<String>,
        /// What ends the first; none if the host cannot do without the device.
        remedy: Option<String>,
        /// Whether it was to be bound for a run, whose command has no `--force`.
        run: bool,
    },
    /// A guest, or another program of VFIO's, has it open.
    #[error("PCI device {bdf} is in use: {} it open", holder_list(.holders))]
    Held {
        /// The device.
        bdf: Bdf,
        /// Process ids and names.
        holders: Vec<(u32, String)>,
    },
    /// Another run has bound it for itself, and gives it back at its end.
    #[error("PCI device {bdf} belongs to the run of process {run}, at whose end it goes back")]
    Owned {
        /// The device, or another of its group.
        bdf: Bdf,
        /// The run's process.
        run: u32,
    },
    /// What would take virtual functions away while one of them is used.
    #[error("the virtual functions of {physical} would go with it, and {}", with_causes(.cause))]
    FunctionInUse {
        /// The physical function.
        physical: Bdf,
        /// Who uses which.
        cause: Box<BindError>,
    },
    /// `--vfs` where the host keeps other devices of a virtual function's group.
    #[error("no guest could have the virtual functions of {physical}: {}", with_causes(.cause))]
    FunctionsShared {
        /// The physical function.
        physical: Bdf,
        /// Which devices of which group.
        cause: Box<BindError>,
    },
    /// `unbind` of what no VFIO driver holds.
    #[error("PCI device {0} is not bound to vfio-pci, so there is nothing to give back")]
    NotBound(Bdf),
    /// `--vfs` for a device without SR-IOV.
    #[error("PCI device {0} cannot have virtual functions")]
    NoFunctions(Bdf),
    /// `--vfs` for more than the device has.
    #[error("PCI device {bdf} has {most} virtual functions at most, not {asked}")]
    TooManyFunctions {
        /// The physical function.
        bdf: Bdf,
        /// What it can have.
        most: u32,
        /// What was asked for.
        asked: u32,
    },
    /// `--vfs` for a device that has some.
    #[error("PCI device {bdf} has {made} virtual functions already")]
    HasFunctions {
        /// The physical function.
        bdf: Bdf,
        /// How many there are.
        made: u32,
    },
    /// A physical function that has some, and that is to be taken itself.
    #[error("PCI device {bdf} would lose its {made} virtual functions")]
    WouldLoseFunctions {
        /// The physical function.
        bdf: Bdf,
        /// How many there are.
        made: u32,
    },
    /// A device of which mediated ones are made.
    #[error("PCI device {bdf} would lose its mediated devices {}", uuid_list(.uuids))]
    WouldLoseMediated {
        /// The device.
        bdf: Bdf,
        /// Those.
        uuids: Vec<Uuid>,
    },
    /// `--user` with a name that is none.
    #[error("there is no user `{0}`")]
    NoUser(String),
    /// The driver is neither in the kernel nor can it be loaded.
    #[error("this kernel has no driver {module}, and it cannot be loaded")]
    NoDriver {
        /// The module.
        module: String,
        /// What modprobe said.
        source: io::Error,
    },
    /// The kernel refused a write.
    #[error("cannot write `{text}` to {}", .path.display())]
    Write {
        /// The attribute.
        path: PathBuf,
        /// What was to be written.
        text: String,
        /// The errno.
        source: io::Error,
    },
    /// A node's owner could not be changed.
    #[error("cannot change the owner of {}", .path.display())]
    Own {
        /// The node.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// The kernel was asked, and the driver did not take the device.
    #[error("{wanted} did not take PCI device {bdf}, which has {}", driver(.has))]
    NotTaken {
        /// The device.
        bdf: Bdf,
        /// The driver that should have it.
        wanted: String,
        /// The driver that it has.
        has: Option<String>,
    },
    /// sysfs did not answer.
    #[error("cannot read what the kernel says about {what}")]
    Sysfs {
        /// A device or group.
        what: String,
        /// The errno.
        source: io::Error,
    },
    /// The notes of what was bound.
    #[error("cannot keep a record in {}", .path.display())]
    Record {
        /// The directory or file.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// A file that is no record.
    #[error("{} is not a record of mini-vmm's", .0.display())]
    BadRecord(PathBuf),
    /// A file that does not say what a killed command had begun.
    #[error("{} is no note of mini-vmm's, so what a killed command had begun stays as it is", .0.display())]
    BadJournal(PathBuf),
    /// Somebody else binds for too long.
    #[error("another mini-vmm is binding devices and does not come to an end")]
    Busy,
    /// The process that watches over a run's devices.
    #[error("cannot start the process that gives devices back when this one is killed")]
    Guardian(#[source] io::Error),
    /// A step failed, and those before it were taken back.
    #[error("{}; {}", with_causes(.cause), undone(.left))]
    Undone {
        /// Why.
        cause: Box<BindError>,
        /// What could not be taken back.
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

fn undone(left: &[BindError]) -> String {
    if left.is_empty() {
        return "all that had been done is undone".into();
    }
    let left: Vec<_> = left.iter().map(|e| with_causes(e)).collect();
    format!("and not all could be undone: {}", left.join("; "))
}

/// What there is no remedy for.
const LEAVE: &str = "leave it to the host";

impl BindError {
    /// What to type.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Undone { cause, .. } => return cause.hint(),
            Self::BadAddress(_) => {
                "give an address as `mini-vmm host list` prints it, for example 0000:01:00.0".into()
            }
            Self::NoDevice(_) | Self::NotBound(_) => "see what there is with `mini-vmm host list`".into(),
            Self::Bridge(_) => "name the devices behind it; see them with `mini-vmm host list --all`".into(),
            Self::NoGroup(_) => {
                "turn the IOMMU on in the firmware and boot the host with intel_iommu=on (Intel) or amd_iommu=on (AMD)".into()
            }
            Self::Shared { bdf, .. } => {
                format!("bind all of the group, as root: mini-vmm host bind {bdf} --group")
            }
            Self::BridgeInGroup { bdf, .. } => {
                format!("put {bdf} into another slot, where the bridge is not in its group")
            }
            Self::InUse { remedy: None, .. } => LEAVE.into(),
            Self::InUse { bdf, remedy: Some(remedy), run: true, .. } => {
                format!("{remedy}; or take it all the same, as root: mini-vmm host bind {bdf} --force")
            }
            Self::InUse { remedy: Some(remedy), .. } => {
                format!("{remedy}; or take it all the same, as root: the same command with --force")
            }
            Self::Held { bdf, .. } => {
                format!("end that process; or take it all the same, as root: mini-vmm host unbind {bdf} --force")
            }
            Self::Owned { run, .. } => {
                format!("wait for its end; see what it is with `ps -p {run} -f`")
            }
            Self::FunctionInUse { physical, cause } => {
                let end = match &**cause {
                    Self::InUse { remedy: Some(remedy), .. } => remedy,
                    Self::InUse { .. } => return Some(LEAVE.into()),
                    _ => "end that process",
                };
                format!("{end}; or take them all the same, as root: mini-vmm host unbind {physical} --force")
            }
            Self::FunctionsShared { physical, .. } => format!(
                "put {physical} into a slot behind a root port with ACS, where each function has a group of its own; or give a guest all of it: mini-vmm host bind {physical} --group"
            ),
            Self::NoFunctions(_) => "leave --vfs away, or turn SR-IOV on in the firmware".into(),
            Self::TooManyFunctions { most, .. } => format!("give --vfs {most} or less"),
            Self::HasFunctions { bdf, .. } => {
                format!("bind those (`ls -d /sys/bus/pci/devices/{bdf}/virtfn*`), or remove them first")
            }
            Self::WouldLoseFunctions { bdf, .. } => {
                format!("remove them first: mini-vmm host unbind {bdf}, or as root: echo 0 > /sys/bus/pci/devices/{bdf}/sriov_numvfs")
            }
            Self::WouldLoseMediated { uuids, .. } => {
                let remove = uuids.iter().map(|uuid| format!("echo 1 > /sys/bus/mdev/devices/{uuid}/remove"));
                let remove: Vec<_> = remove.collect();
                format!("give those to guests (--vfio UUID), or remove them first, as root: {}", remove.join("; "))
            }
            Self::NoUser(_) => "give a name from /etc/passwd, or a number".into(),
            Self::NoDriver { module, .. } => format!(
                "as root: modprobe {module}; if there is no such module, the kernel needs CONFIG_VFIO_PCI"
            ),
            Self::NotTaken { bdf, .. } => format!("see why with `dmesg | grep {bdf}`"),
            Self::BadRecord(path) => {
                let bdf = path.file_name().unwrap_or_default().to_string_lossy();
                format!(
                    "as root: rm {}; then `mini-vmm host unbind {bdf}` gives the device to the driver that wants it",
                    path.display()
                )
            }
            Self::BadJournal(_) => "see which devices have no driver, or one of VFIO's, with `mini-vmm host list`, and give them back with `mini-vmm host unbind`".into(),
            Self::Busy => "see which with `fuser -v /run/mini-vmm/lock`".into(),
            Self::Write { source, .. } | Self::Own { source, .. } | Self::Record { source, .. }
                if needs_root(source) =>
            {
                "only root may: put sudo before the command".into()
            }
            Self::Write { .. } => "see why with `dmesg | tail`".into(),
            Self::Sysfs { .. } | Self::Own { .. } | Self::Record { .. } | Self::Guardian(_) => return None,
        })
    }
}

fn needs_root(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}
