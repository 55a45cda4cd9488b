//! The facts that binding needs about a device, from sysfs
//! (Documentation/ABI/testing/sysfs-bus-pci).

use std::path::Path;
use std::{fs, io};

use pci::Bdf;
use vmm::hostinfo::sysfs::{PciDevice, Sysfs};

use crate::bind::error::BindError;
use crate::limited;

/// A device, and the attributes that binding changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Address, driver, group, class.
    pub device: PciDevice,
    /// Vendor, device, subsystem and class, in the form that modules' aliases match.
    pub modalias: String,
    /// The only driver that may bind the device, if one is set.
    pub driver_override: Option<String>,
    /// The module of its driver; `None` if the driver is built in.
    pub module: Option<String>,
    /// The device's virtual functions, if it is a physical function (PCI Express 6.0, 9.3.3).
    pub functions: Option<Functions>,
}

/// A physical function's virtual functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Functions {
    /// How many exist.
    pub made: u32,
    /// How many can exist.
    pub most: u32,
    /// Whether host drivers bind new virtual functions.
    pub autoprobe: bool,
}

impl Facts {
    /// Reads a device's facts; `None` if there is no such device.
    ///
    /// # Errors
    /// sysfs cannot be read.
    pub fn read(sysfs: &Sysfs, bdf: Bdf) -> Result<Option<Self>, BindError> {
        let device = sysfs
            .device(bdf)
            .map_err(unreadable(format!("PCI device {bdf}")))?;
        device.map(Self::of).transpose()
    }

    /// Reads the other facts of a device.
    ///
    /// # Errors
    /// The kernel does not answer, because a process that changes the device sleeps.
    pub fn of(device: PciDevice) -> Result<Self, BindError> {
        let attribute = |name: &str| text(&device.path.join(name));
        let number = |name: &str| attribute(name).parse().ok();
        // These two are read under the device's lock (drivers/pci/pci-sysfs.c, drivers/pci/iov.c).
        let locked = |name: &str| {
            let bdf = device.bdf;
            limited::attribute(&device.path.join(name))
                .map_err(unreadable(format!("PCI device {bdf}")))
        };
        let driver_override = locked("driver_override")?;
        let made = locked("sriov_numvfs")?.parse().ok();
        let functions = || {
            Some(Functions {
                made: made?,
                most: number("sriov_totalvfs").filter(|most| *most > 0)?,
                // Linux before 4.14 lacks the attribute, and drivers bind new functions.
                autoprobe: attribute("sriov_drivers_autoprobe") != "0",
            })
        };
        let module = fs::read_link(device.path.join("driver/module")).ok();
        Ok(Self {
            modalias: attribute("modalias"),
            // The kernel prints `(null)` for a missing string.
            driver_override: Some(driver_override).filter(|o| !o.is_empty() && o != "(null)"),
            module: module.and_then(|m| Some(m.file_name()?.to_string_lossy().into_owned())),
            functions: functions(),
            device,
        })
    }

    /// Its address.
    pub fn bdf(&self) -> Bdf {
        self.device.bdf
    }

    /// The expected `modalias` of the virtual functions before they exist: they have another device
    /// ID (VF Device ID, PCI Express 6.0, 9.3.3.11).
    pub fn functions_modalias(&self) -> String {
        let number = text(&self.device.path.join("sriov_vf_device"));
        let (Ok(number), Some((vendor, rest))) = (
            u16::from_str_radix(&number, 16),
            self.modalias.split_once('d'),
        ) else {
            return self.modalias.clone();
        };
        let rest = rest.get(8..).unwrap_or_default();
        format!("{vendor}d{number:08X}{rest}")
    }
}

/// The virtual functions of a physical one, in order.
pub fn virtual_functions(sysfs: &Sysfs, physical: Bdf) -> Vec<Bdf> {
    let dir = sysfs.device_path(physical);
    let numbered = fs::read_dir(dir).into_iter().flatten().filter_map(|entry| {
        let entry = entry.ok()?;
        let name = entry.file_name();
        let number: u32 = name.to_str()?.strip_prefix("virtfn")?.parse().ok()?;
        let target = fs::read_link(entry.path()).ok()?;
        let bdf = target.file_name()?.to_str()?.parse().ok()?;
        Some((number, bdf))
    });
    let mut numbered: Vec<(u32, Bdf)> = numbered.collect();
    numbered.sort();
    numbered.into_iter().map(|(_, bdf)| bdf).collect()
}

/// The first line of an attribute; empty if the attribute is missing.
fn text(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// Makes an error that names the device or group whose facts could not be read.
pub(super) fn unreadable(what: String) -> impl FnOnce(io::Error) -> BindError {
    move |source| BindError::Sysfs { what, source }
}
