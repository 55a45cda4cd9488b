//! The devices that the user named, found and checked without touching them.

use std::fs;
use std::path::PathBuf;

use uuid::Uuid;

use super::VfioError;
use crate::config::device::{DeviceConfig, Slot};
use crate::host::name::HostName;
use crate::host::sysfs::{PciDevice, Sysfs};
use crate::pci::Bdf;

/// Slots of the root bus, less the host bridge's.
pub(super) const MAX_DEVICES: usize = 31;

/// A device that has been looked at and may be opened.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub(super) name: HostName,
    /// Its directory in sysfs, which ends in its name.
    pub(super) path: PathBuf,
    pub(super) group: u32,
    /// What the user knows of the physical function's holder.
    pub(super) token: Option<Uuid>,
    /// The physical function of a virtual one.
    pub(super) physical: Option<Bdf>,
}

impl Candidate {
    /// What the host calls it.
    pub fn name(&self) -> HostName {
        self.name
    }

    /// Its node for iommufd, as its directory `vfio-dev` names it; `None` where the kernel makes
    /// none (Documentation/driver-api/vfio.rst, "VFIO Device cdev").
    pub fn cdev(&self) -> Option<String> {
        let mut entries = fs::read_dir(self.path.join("vfio-dev")).ok()?;
        let name = entries.next()?.ok()?.file_name();
        Some(format!("/dev/vfio/devices/{}", name.to_str()?))
    }
}

/// Finds the devices that the user named and checks what can be checked without touching them.
///
/// An address is `01:00.0`, `0000:01:00.0`, a mediated device's UUID, or the path of either's
/// directory in sysfs.
///
/// # Errors
/// The first thing that is wrong, with what to type.
pub fn find(sysfs: &Sysfs, configs: &[DeviceConfig]) -> Result<Vec<Candidate>, VfioError> {
    check_slots(configs)?;
    let mut names: Vec<HostName> = Vec::new();
    for config in configs {
        let name = parse_address(&config.address)?;
        if names.contains(&name) {
            return Err(VfioError::Twice(name));
        }
        names.push(name);
    }
    let checked = names
        .into_iter()
        .zip(configs)
        .map(|(name, config)| match name {
            HostName::Pci(bdf) => check_pci(sysfs, bdf, config.vf_token),
            HostName::Mediated(uuid) => check_mediated(sysfs, uuid, config.vf_token),
        });
    checked.collect()
}

/// Whether the guest's bus has a place for each, and finds them all: nobody looks for the other
/// functions of a device without function 0 (PCI Local Bus 3.0, 3.2.2.3.4).
fn check_slots(configs: &[DeviceConfig]) -> Result<(), VfioError> {
    let mut taken: Vec<Slot> = Vec::new();
    for slot in configs.iter().filter_map(|c| c.slot) {
        if taken.contains(&slot) {
            return Err(VfioError::SlotTwice(slot));
        }
        taken.push(slot);
    }
    let has_first = |slot: &Slot| {
        taken
            .iter()
            .any(|t| t.device == slot.device && t.function == 0)
    };
    if let Some(slot) = taken.iter().find(|slot| !has_first(slot)) {
        return Err(VfioError::NoFunctionZero(*slot));
    }
    let first = taken.iter().filter(|slot| slot.function == 0).count();
    let devices = first + configs.len() - taken.len();
    if devices > MAX_DEVICES {
        return Err(VfioError::TooMany(devices));
    }
    Ok(())
}

/// Reads a device's name, or the path of its directory in sysfs.
///
/// # Errors
/// When it is neither.
pub fn parse_address(address: &str) -> Result<HostName, VfioError> {
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

fn unreadable(what: String) -> impl FnOnce(std::io::Error) -> VfioError {
    move |source| VfioError::Sysfs { what, source }
}

fn check_pci(sysfs: &Sysfs, bdf: Bdf, token: Option<Uuid>) -> Result<Candidate, VfioError> {
    let name = HostName::Pci(bdf);
    let facts = sysfs
        .device(bdf)
        .map_err(unreadable(name.in_words()))?
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
    let physical = sysfs
        .physical_function(bdf)
        .map_err(unreadable(name.in_words()))?;
    if token.is_some() && !takes_token(sysfs, bdf, physical)? {
        return Err(VfioError::TokenUnused(name));
    }
    Ok(Candidate {
        name,
        path: facts.path,
        group,
        token,
        physical,
    })
}

/// Whether the kernel compares tokens for a function: a virtual one whose physical function is in
/// VFIO's hands too, or a physical one (drivers/vfio/pci/vfio_pci_core.c, vfio_pci_validate_vf_token).
fn takes_token(sysfs: &Sysfs, bdf: Bdf, physical: Option<Bdf>) -> Result<bool, VfioError> {
    let Some(physical) = physical else {
        return Ok(sysfs.has_virtual_functions(bdf));
    };
    let holder = sysfs
        .device(physical)
        .map_err(unreadable(HostName::Pci(physical).in_words()))?;
    Ok(holder.is_some_and(|h| h.is_vfio()))
}

/// A mediated device is alone in its group, and its driver is its parent's.
fn check_mediated(sysfs: &Sysfs, uuid: Uuid, token: Option<Uuid>) -> Result<Candidate, VfioError> {
    let name = HostName::Mediated(uuid);
    let facts = sysfs
        .mediated(uuid)
        .map_err(unreadable(name.in_words()))?
        .ok_or(VfioError::NoMediated(uuid))?;
    if !facts.is_pci() {
        return Err(VfioError::NotPci {
            uuid,
            api: facts.api,
        });
    }
    let Some(group) = facts.group else {
        return Err(VfioError::Driverless(uuid));
    };
    if token.is_some() {
        return Err(VfioError::TokenUnused(name));
    }
    Ok(Candidate {
        name,
        path: facts.path,
        group,
        token: None,
        physical: None,
    })
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

        /// A mediated device, below a parent and on its bus, as the kernel shows it.
        fn add_mediated(self, uuid: &str, api: &str, group: Option<u32>) -> Self {
            let root = self.0.as_path();
            let parent = root.join("devices/virtual/mtty/mtty");
            let dir = parent.join(uuid);
            let kind = parent.join(format!("mdev_supported_types/{api}"));
            let bus = root.join("bus/mdev/devices");
            for dir in [&dir, &kind, &bus] {
                fs::create_dir_all(dir).unwrap();
            }
            fs::write(kind.join("device_api"), format!("{api}\n")).unwrap();
            symlink(&kind, dir.join("mdev_type")).unwrap();
            symlink(&dir, bus.join(uuid)).unwrap();
            if let Some(group) = group {
                symlink(format!("groups/{group}"), dir.join("iommu_group")).unwrap();
            }
            self
        }

        /// Makes a function a virtual one.
        fn virtual_of(self, bdf: &str, physical: &str) -> Self {
            let devices = self.0.as_path().join("bus/pci/devices");
            symlink(format!("../{physical}"), devices.join(bdf).join("physfn")).unwrap();
            fs::write(devices.join(physical).join("sriov_totalvfs"), "2").unwrap();
            self
        }

        fn find(&self, addresses: &[&str]) -> Result<Vec<Candidate>, VfioError> {
            let configs: Vec<_> = addresses.iter().map(|a| a.parse().unwrap()).collect();
            find(&Sysfs::at(self.0.as_path()), &configs)
        }
    }

    #[test]
    fn addresses_in_every_form() {
        let host = Host::new().add("0000:01:00.0", Some("vfio-pci"), Some(3));
        let path = host.0.as_path().join("bus/pci/devices/0000:01:00.0");
        for address in ["01:00.0", "0000:01:00.0", path.to_str().unwrap()] {
            let found = host.find(&[address]).unwrap();
            assert_eq!(found[0].name().to_string(), "0000:01:00.0");
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
        let cases: [(&[&str], &str); 11] = [
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
            (
                &["01:00.0,slot=4", "02:00.0,slot=4"],
                "the guest's PCI address 04.0 is given twice",
            ),
            (&["01:00.0,slot=4.1"], "04.1 has no function 0 beside it"),
        ];
        for (addresses, text) in cases {
            let error = host.find(addresses).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
            assert!(error.hint().is_some(), "{error}");
        }
        let hint = host.find(&["04:00.0"]).unwrap_err().hint().unwrap();
        assert!(
            hint.contains("mini-vmm host bind 0000:04:00.0 --group"),
            "{hint}"
        );
    }
    const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
    const TOKEN: &str = "bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3";

    #[test]
    fn mediated_devices_in_every_form() {
        let host = Host::new().add_mediated(UUID, "vfio-pci", Some(3));
        let root = host.0.as_path();
        let on_bus = root.join("bus/mdev/devices").join(UUID);
        let below = root.join("devices/virtual/mtty/mtty").join(UUID);
        let loud = UUID.to_uppercase();
        for address in [
            UUID,
            &loud,
            on_bus.to_str().unwrap(),
            below.to_str().unwrap(),
        ] {
            let found = host.find(&[address]).unwrap();
            assert_eq!(found[0].name().to_string(), UUID);
            assert_eq!((found[0].group, &found[0].path), (3, &on_bus));
        }
    }

    #[test]
    fn mistakes_with_mediated_devices_are_named() {
        let other = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002";
        let alone = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1003";
        let host = Host::new()
            .add_mediated(UUID, "vfio-pci", Some(3))
            .add_mediated(other, "vfio-ccw", Some(4))
            .add_mediated(alone, "vfio-pci", None);
        let tokened = format!("{UUID},vf-token={TOKEN}");
        let cases: [(&[&str], &str, &str); 6] = [
            (&[TOKEN], "no mediated device bd8d", "mdev_supported_types"),
            (
                &[UUID, UUID],
                "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 is given twice",
                "once",
            ),
            (
                &[other],
                "is used by `vfio-ccw`, not as a PCI device",
                "device_api",
            ),
            (&[alone], "has no driver", "remove"),
            (&[&tokened], "takes no VF token", "leave vf-token= out"),
            (&["/sys/bus/mdev/devices/x"], "is not the address", "UUID"),
        ];
        for (addresses, text, hint) in cases {
            let error = host.find(addresses).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
            assert!(
                error.hint().unwrap().contains(hint),
                "{error}: {:?}",
                error.hint()
            );
        }
    }

    #[test]
    fn tokens_are_for_functions_that_take_one() {
        let host = Host::new()
            .add("0000:01:00.0", Some("vfio-pci"), Some(1))
            .add("0000:01:00.1", Some("vfio-pci"), Some(2))
            .virtual_of("0000:01:00.1", "0000:01:00.0")
            .add("0000:02:00.0", Some("nvme"), Some(3))
            .add("0000:02:00.1", Some("vfio-pci"), Some(4))
            .virtual_of("0000:02:00.1", "0000:02:00.0")
            .add("0000:03:00.0", Some("vfio-pci"), Some(5));
        for (address, takes, physical) in [
            ("01:00.0", true, None),
            ("01:00.1", true, Some("0000:01:00.0")),
            ("02:00.1", false, Some("0000:02:00.0")),
            ("03:00.0", false, None),
        ] {
            let found = host.find(&[address]).unwrap();
            let named = found[0].physical.map(|bdf| bdf.to_string());
            assert_eq!(
                (found[0].token, named.as_deref()),
                (None, physical),
                "{address}"
            );
            let outcome = host.find(&[&format!("{address},vf-token={TOKEN}")]);
            match outcome {
                Ok(found) => assert!(takes && found[0].token == TOKEN.parse().ok(), "{address}"),
                Err(e) => assert!(!takes && matches!(e, VfioError::TokenUnused(_)), "{e}"),
            }
        }
    }
}
