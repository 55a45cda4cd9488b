//! Devices of the host, opened through VFIO.
//!
//! The order matters (Documentation/driver-api/vfio.rst and virt/kvm/devices/vfio.rst): the group
//! joins the container, the container gets its IOMMU, KVM learns of the group, and only then is the
//! device's descriptor taken. vfio-ioctls keeps that order and undoes it in reverse.

pub mod bar_map;
pub mod config_policy;
pub mod container;
pub mod device;
pub mod function;
mod handle;
pub mod interrupts;
mod placement;
mod trap;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use kvm_bindings::{kvm_create_device, kvm_device_type_KVM_DEV_TYPE_VFIO};
use kvm_ioctls::VmFd;
use vfio_ioctls::{VfioContainer, VfioDevice, VfioDeviceFd, VfioOps};

use crate::host::sysfs::{PciDevice, Sysfs};
use crate::pci::Bdf;
use container::ContainerMapper;
use device::{DeviceError, VfioFile};
use handle::Handle;

/// Slots of the root bus, less the host bridge's.
const MAX_DEVICES: usize = 31;

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
    #[error("VFIO_IOMMU_GET_INFO failed")]
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

/// What to type to bind devices to vfio-pci (driver_override, Documentation/ABI/testing/sysfs-bus-pci).
fn bind_commands(devices: &[(Bdf, bool)]) -> String {
    let each = devices.iter().map(|(bdf, bound)| {
        let dir = format!("/sys/bus/pci/devices/{bdf}");
        let unbind = if *bound {
            format!("echo {bdf} > {dir}/driver/unbind; ")
        } else {
            String::new()
        };
        format!(
            "echo vfio-pci > {dir}/driver_override; {unbind}echo {bdf} > /sys/bus/pci/drivers_probe"
        )
    });
    let each: Vec<_> = each.collect();
    format!("as root: modprobe vfio-pci; {}", each.join("; "))
}

impl VfioError {
    /// What to type.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::BadAddress(_) => {
                "give an address as `lspci -D` prints it, for example --vfio 0000:01:00.0".into()
            }
            Self::NoDevice(_) => "see what there is with `lspci -D`".into(),
            Self::Twice(bdf) => format!("give --vfio {bdf} once"),
            Self::TooMany(_) => "pass fewer devices, or run a second guest".into(),
            Self::NotVfio { bdf, driver } => bind_commands(&[(*bdf, driver.is_some())]),
            Self::NotViable { culprits, .. } => {
                let devices: Vec<_> = culprits.iter().map(|c| (c.bdf, true)).collect();
                bind_commands(&devices)
            }
            Self::NoGroup(_) => {
                "turn the IOMMU on in the firmware and boot the host with intel_iommu=on (Intel) or amd_iommu=on (AMD)".into()
            }
            Self::Node { path, source, .. } => match source.kind() {
                io::ErrorKind::NotFound => "as root: modprobe vfio-pci".into(),
                io::ErrorKind::PermissionDenied => {
                    format!("as root: chown $USER {path} (with your user's name for $USER)")
                }
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

/// A device that has been looked at and may be opened.
#[derive(Clone, Debug)]
pub struct Candidate {
    facts: PciDevice,
    group: u32,
}

impl Candidate {
    /// Its address on the host.
    pub fn bdf(&self) -> Bdf {
        self.facts.bdf
    }
}

/// Finds the devices that the user named and checks what can be checked without touching them.
///
/// `address` is `01:00.0`, `0000:01:00.0`, or the path of a device's directory in sysfs.
///
/// # Errors
/// The first thing that is wrong, with what to type.
pub fn find(sysfs: &Sysfs, addresses: &[String]) -> Result<Vec<Candidate>, VfioError> {
    if addresses.len() > MAX_DEVICES {
        return Err(VfioError::TooMany(addresses.len()));
    }
    let mut bdfs: Vec<Bdf> = Vec::new();
    for address in addresses {
        let bdf = parse_address(address)?;
        if bdfs.contains(&bdf) {
            return Err(VfioError::Twice(bdf));
        }
        bdfs.push(bdf);
    }
    bdfs.into_iter().map(|bdf| check(sysfs, bdf)).collect()
}

fn parse_address(address: &str) -> Result<Bdf, VfioError> {
    let bad = || VfioError::BadAddress(address.into());
    if !address.contains('/') {
        return address.parse().map_err(|_| bad());
    }
    // A place in sysfs where nothing is names a device that is not there.
    let path: PathBuf = match fs::canonicalize(address) {
        Ok(path) => path,
        Err(_) if address.starts_with("/sys/") => address.into(),
        Err(_) => return Err(bad()),
    };
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
    name.and_then(|n| n.parse().ok()).ok_or_else(bad)
}

fn check(sysfs: &Sysfs, bdf: Bdf) -> Result<Candidate, VfioError> {
    let unreadable = |what: String| move |source| VfioError::Sysfs { what, source };
    let facts = sysfs
        .device(bdf)
        .map_err(unreadable(format!("PCI device {bdf}")))?
        .ok_or(VfioError::NoDevice(bdf))?;
    let Some(group) = facts.group else {
        return Err(VfioError::NoGroup(bdf));
    };
    if !facts.is_vfio() {
        return Err(VfioError::NotVfio {
            bdf,
            driver: facts.driver,
        });
    }
    let culprits: Vec<_> = sysfs
        .group_members(group)
        .map_err(unreadable(format!("IOMMU group {group}")))?
        .into_iter()
        .filter(PciDevice::blocks_group)
        .collect();
    if !culprits.is_empty() {
        return Err(VfioError::NotViable {
            bdf,
            group,
            culprits,
        });
    }
    Ok(Candidate { facts, group })
}

/// Devices that have been opened, and the IOMMU that serves them all.
pub struct Opened {
    /// In the order asked for.
    pub devices: Vec<Arc<VfioFile>>,
    /// Maps guest memory for all of them.
    pub mapper: Arc<ContainerMapper>,
}

/// Opens the devices, each on a thread of its own: opening resets the function, which takes a tenth
/// of a second each (and makes another reset at the start needless).
///
/// # Errors
/// The first device that cannot be opened; all of them are closed again then.
pub fn open(vm: &VmFd, candidates: &[Candidate]) -> Result<Option<Opened>, VfioError> {
    if candidates.is_empty() {
        return Ok(None);
    }
    let mut kvm_vfio = kvm_create_device {
        type_: kvm_device_type_KVM_DEV_TYPE_VFIO,
        fd: 0,
        flags: 0,
    };
    let kvm_vfio = vm
        .create_device(&mut kvm_vfio)
        .map_err(VfioError::KvmDevice)?;
    let handle = Arc::new(VfioDeviceFd::new_from_kvm(kvm_vfio));
    let container = VfioContainer::new(Some(handle)).map_err(|e| match e {
        vfio_ioctls::VfioError::OpenContainer(source) => VfioError::Node {
            path: "/dev/vfio/vfio".into(),
            bdf: None,
            source,
        },
        source => VfioError::Open {
            bdf: candidates[0].bdf(),
            source,
        },
    })?;
    let container = Arc::new(container);
    // One token a group: whoever holds the last closes the group.
    let mut groups: HashMap<u32, Arc<()>> = HashMap::new();
    let members: Vec<_> = candidates
        .iter()
        .map(|c| (c, Arc::clone(groups.entry(c.group).or_default())))
        .collect();
    drop(groups);
    let devices = thread::scope(|scope| {
        let openers: Vec<_> = members
            .into_iter()
            .map(|(candidate, group)| {
                let container = Arc::clone(&container);
                thread::Builder::new()
                    .name(format!("open {}", candidate.bdf()))
                    .spawn_scoped(scope, move || open_one(candidate, group, container))
            })
            .collect();
        let opened: Vec<_> = openers
            .into_iter()
            .map(|opener| match opener.map(|o| o.join()) {
                Ok(Ok(outcome)) => outcome,
                _ => Err(VfioError::Thread),
            })
            .collect();
        opened.into_iter().collect::<Result<Vec<_>, _>>()
    })?;
    let mapper = ContainerMapper::new(container).map_err(VfioError::IommuInfo)?;
    Ok(Some(Opened {
        devices,
        mapper: Arc::new(mapper),
    }))
}

fn open_one(
    candidate: &Candidate,
    group: Arc<()>,
    container: Arc<VfioContainer>,
) -> Result<Arc<VfioFile>, VfioError> {
    let bdf = candidate.bdf();
    let ops: Arc<dyn VfioOps> = container;
    let device = VfioDevice::new(&candidate.facts.path, ops, false).map_err(|e| match e {
        vfio_ioctls::VfioError::OpenGroup(source, _) => VfioError::Node {
            path: format!("/dev/vfio/{}", candidate.group),
            bdf: Some(bdf),
            source,
        },
        source => VfioError::Open { bdf, source },
    })?;
    let handle = Handle::new(device, candidate.facts.path.clone(), group);
    Ok(Arc::new(VfioFile::new(bdf.to_string(), handle)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use vmm_sys_util::tempdir::TempDir;

    struct Host(TempDir);

    impl Host {
        fn new() -> Self {
            Self(TempDir::new().unwrap())
        }

        fn add(self, bdf: &str, driver: Option<&str>, group: Option<u32>) -> Self {
            let root = self.0.as_path();
            let dir = root.join("bus/pci/devices").join(bdf);
            fs::create_dir_all(&dir).unwrap();
            if let Some(driver) = driver {
                symlink(format!("drivers/{driver}"), dir.join("driver")).unwrap();
            }
            if let Some(group) = group {
                symlink(format!("groups/{group}"), dir.join("iommu_group")).unwrap();
                let members = root.join(format!("kernel/iommu_groups/{group}/devices"));
                fs::create_dir_all(&members).unwrap();
                symlink(&dir, members.join(bdf)).unwrap();
            }
            self
        }

        fn find(&self, addresses: &[&str]) -> Result<Vec<Candidate>, VfioError> {
            let addresses: Vec<_> = addresses.iter().map(|a| a.to_string()).collect();
            find(&Sysfs::at(self.0.as_path()), &addresses)
        }
    }

    #[test]
    fn addresses_in_every_form() {
        let host = Host::new().add("0000:01:00.0", Some("vfio-pci"), Some(3));
        let path = host.0.as_path().join("bus/pci/devices/0000:01:00.0");
        for address in ["01:00.0", "0000:01:00.0", path.to_str().unwrap()] {
            let found = host.find(&[address]).unwrap();
            assert_eq!(found[0].bdf().to_string(), "0000:01:00.0");
            assert_eq!(found[0].group, 3);
        }
    }

    #[test]
    fn each_mistake_is_named() {
        let host = Host::new()
            .add("0000:01:00.0", Some("vfio-pci"), Some(3))
            .add("0000:02:00.0", Some("nvme"), Some(4))
            .add("0000:03:00.0", Some("vfio-pci"), None)
            .add("0000:04:00.0", Some("vfio-pci"), Some(5))
            .add("0000:04:00.1", Some("e1000e"), Some(5))
            .add("0000:04:00.2", None, Some(5))
            .add("0000:05:00.0", None, Some(6));
        let many: Vec<_> = (0..32).map(|i| format!("{i:02x}:00.0")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let cases: [(&[&str], &str); 9] = [
            (&many, "32 devices are more than"),
            (
                &["nonsense"],
                "`nonsense` is not the address of a PCI device",
            ),
            (&["/no/such/dir"], "`/no/such/dir` is not the address"),
            (&["01:00.1"], "no PCI device 0000:01:00.1"),
            (&["01:00.0", "0000:01:00.0"], "0000:01:00.0 is given twice"),
            (&["02:00.0"], "bound to the driver nvme, not to vfio-pci"),
            (&["05:00.0"], "bound to no driver, not to vfio-pci"),
            (&["03:00.0"], "in no IOMMU group"),
            (&["04:00.0"], "0000:04:00.1 (driver e1000e)"),
        ];
        for (addresses, text) in cases {
            let error = host.find(addresses).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
            assert!(error.hint().is_some(), "{error}");
        }
        let hint = host.find(&["04:00.0"]).unwrap_err().hint().unwrap();
        assert!(hint.contains("0000:04:00.1/driver/unbind") && !hint.contains("04:00.2"));
    }
}
