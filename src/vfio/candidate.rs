//! The devices that the user named, found and checked without touching them.

use std::fs;
use std::path::PathBuf;

use super::VfioError;
use crate::config::device::{DeviceConfig, Slot};
use crate::host::sysfs::{PciDevice, Sysfs};
use crate::pci::Bdf;

/// Slots of the root bus, less the host bridge's.
pub(super) const MAX_DEVICES: usize = 31;

/// A device that has been looked at and may be opened.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub(super) facts: PciDevice,
    pub(super) group: u32,
}

impl Candidate {
    /// Its address on the host.
    pub fn bdf(&self) -> Bdf {
        self.facts.bdf
    }

    /// Its node for iommufd, as its directory `vfio-dev` names it; `None` where the kernel makes
    /// none (Documentation/driver-api/vfio.rst, "VFIO Device cdev").
    pub fn cdev(&self) -> Option<String> {
        let mut entries = fs::read_dir(self.facts.path.join("vfio-dev")).ok()?;
        let name = entries.next()?.ok()?.file_name();
        Some(format!("/dev/vfio/devices/{}", name.to_str()?))
    }
}

/// Finds the devices that the user named and checks what can be checked without touching them.
///
/// An address is `01:00.0`, `0000:01:00.0`, or the path of a device's directory in sysfs.
///
/// # Errors
/// The first thing that is wrong, with what to type.
pub fn find(sysfs: &Sysfs, configs: &[DeviceConfig]) -> Result<Vec<Candidate>, VfioError> {
    check_slots(configs)?;
    let mut bdfs: Vec<Bdf> = Vec::new();
    for config in configs {
        let bdf = parse_address(&config.address)?;
        if bdfs.contains(&bdf) {
            return Err(VfioError::Twice(bdf));
        }
        bdfs.push(bdf);
    }
    bdfs.into_iter().map(|bdf| check(sysfs, bdf)).collect()
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

/// Reads an address, or the path of a device's directory in sysfs.
///
/// # Errors
/// When it is neither.
pub fn parse_address(address: &str) -> Result<Bdf, VfioError> {
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
}
