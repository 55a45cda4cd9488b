//! The device that is measured, and its disk or network port.

use std::path::{Path, PathBuf};

use host::check::{Finding, Level, check_host};
use host::in_use::in_use;
use host::paths::HostPaths;
use vmm::config::memory;
use vmm::hostinfo::name::{HostName, parse_address};
use vmm::hostinfo::sysfs::Sysfs;
use vmm::log::error_chain::with_causes;

use crate::disks;
use crate::disks::Disk;
use crate::error::{Context, Error, Result};
use crate::network::port::{self, Port};

/// The device.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its address.
    pub address: String,
    /// Its directory in sysfs.
    pub path: PathBuf,
    /// The host's driver, if there is one.
    pub driver: Option<String>,
    /// What the kernel's modules know the device by.
    pub modalias: String,
    /// What is measured of it.
    pub unit: Unit,
}

/// What is measured of a device.
#[derive(Clone, Debug)]
pub enum Unit {
    /// Its disk.
    Disk(Disk),
    /// Its network port.
    Port(Port),
    /// Nothing but its life: the function has neither.
    Function,
}

impl Device {
    /// Finds the device and its disk or network port.
    ///
    /// # Errors
    /// There is no such device, or it is a disk's or a port's and the host shows no such disk or
    /// port.
    pub fn find(address: &str) -> Result<Self> {
        let bdf = match parse_address(address) {
            Ok(HostName::Pci(bdf)) => bdf,
            _ => {
                return Err(
                    Error::new(format!("`{address}` is no address of a PCI device"))
                        .with_hint("mini-vmm host list shows the devices"),
                );
            }
        };
        let device = Sysfs::default().device(bdf);
        let device = device.context(format!("cannot read PCI device {bdf}"))?;
        let Some(device) = device else {
            return Err(
                Error::new(format!("there is no PCI device {bdf} on this host"))
                    .with_hint("mini-vmm host list shows the devices"),
            );
        };
        let driver = match &device.driver {
            Some(driver) if !device.is_vfio() => Some(driver.clone()),
            // No driver of the host may know it.
            None if !is_disk_or_port(&device.path) => None,
            _ => {
                return Err(Error::new(format!(
                    "the host's own driver does not have PCI device {bdf}, and nothing can be \
                     compared with it"
                ))
                .with_hint(format!("as root: mini-vmm host unbind {bdf}")));
            }
        };
        let all = disks::all(Path::new("/sys"))?;
        let disk = all.into_iter().find(|disk| disk.is_below(&device.path));
        let hidden = || disks::hidden(Path::new("/sys"), &device.path).into_iter();
        let ports = port::all(Path::new("/sys"), Some(&device.path))?;
        let unit = match (disk, ports.as_slice()) {
            (Some(disk), _) => Ok(Unit::Disk(disk)),
            (None, [port]) => Ok(Unit::Port(port.clone())),
            (None, []) => match hidden().next() {
                Some(path) => Err(path),
                None => Ok(function(&bdf.to_string(), driver.as_deref(), &device.path)?),
            },
            (None, ports) => {
                return Err(Error::new(format!(
                    "PCI device {bdf} has {} network ports, which cannot be lent one \
                     by one; only a device with one can be measured",
                    ports.len()
                )));
            }
        };
        let unit = unit.map_err(|path| {
            Error::new(format!(
                "PCI device {bdf} is one of the paths of its disk ({path}, native NVMe \
                 multipath), so the disk is not this device's alone"
            ))
            .with_hint(
                "boot the host with nvme_core.multipath=N: each device has a disk of its own then",
            )
        })?;
        let modalias = std::fs::read_to_string(device.path.join("modalias"));
        Ok(Self {
            address: bdf.to_string(),
            modalias: modalias.unwrap_or_default().trim().to_owned(),
            path: device.path,
            driver,
            unit,
        })
    }

    /// The host's driver in words.
    pub fn driver_in_words(&self) -> &str {
        self.driver.as_deref().unwrap_or("no driver")
    }

    /// Its disk, if it is one.
    pub fn disk(&self) -> Option<&Disk> {
        match &self.unit {
            Unit::Disk(disk) => Some(disk),
            Unit::Port(_) | Unit::Function => None,
        }
    }

    /// Its network port, if it is one.
    pub fn port(&self) -> Option<&Port> {
        match &self.unit {
            Unit::Disk(_) | Unit::Function => None,
            Unit::Port(port) => Some(port),
        }
    }

    /// Checks that the host does not use the device.
    ///
    /// # Errors
    /// It is in use.
    pub fn check_unused(&self) -> Result<()> {
        let Ok(HostName::Pci(bdf)) = parse_address(&self.address) else {
            return Ok(());
        };
        let sysfs = Sysfs::default();
        let device = sysfs.device(bdf).ok().flatten();
        let device = device.ok_or_else(|| Error::new(format!("PCI device {bdf} has gone")))?;
        let uses = in_use(&sysfs, &HostPaths::default(), &device);
        let uses = uses.context(format!("cannot find out who uses PCI device {bdf}"))?;
        let Some(first) = uses.first() else {
            return Ok(());
        };
        let words: Vec<String> = uses.iter().map(ToString::to_string).collect();
        let error = Error::new(format!("PCI device {bdf} is in use: {}", words.join(", ")));
        Err(match first.remedy() {
            Some(remedy) => error.with_hint(remedy),
            None => error,
        })
    }

    /// Checks that this host can pass the device to a guest with this much memory.
    ///
    /// # Errors
    /// A check fails.
    pub fn check_host(&self, memory: &str) -> Result<Vec<Finding>> {
        let memory = memory::parse(memory)
            .map_err(|e| Error::new(with_causes(&e)).with_hint("such as --memory 512M"))?;
        let findings = check_host(std::slice::from_ref(&self.address), memory, None)
            .map_err(|e| Error::new(with_causes(&e)))?;
        let failed = findings.iter().find(|f| f.level == Level::Fail);
        match failed {
            Some(finding) => Err(Error::new(format!(
                "this host cannot pass PCI device {} to a guest: {}",
                self.address, finding.text
            ))
            .with_hint(match &finding.fix {
                Some(fix) => fix.clone(),
                None => format!("mini-vmm host check {}", self.address),
            })),
            None => Ok(findings),
        }
    }
}

/// A function that shows neither a disk nor a network port.
///
/// # Errors
/// Its class is that of a disk or a port: its user, whom nobody sees here, must not lose it.
fn function(bdf: &str, driver: Option<&str>, path: &Path) -> Result<Unit> {
    if !is_disk_or_port(path) {
        return Ok(Unit::Function);
    }
    let driver = driver.unwrap_or("no driver");
    Err(Error::new(format!(
        "PCI device {bdf} ({driver}) is of a disk's or a network port's class, but shows neither \
         a disk nor a network port here"
    ))
    .with_hint(
        "a port may be in the network namespace of a container: lsns -t net; a controller without \
         a disk has nothing to measure",
    ))
}

/// Whether the class is that of a disk or of a network port (PCI Code and ID Assignment
/// Specification, 1.2 and 1.3). Without the host's driver, such a device shows neither.
fn is_disk_or_port(device: &Path) -> bool {
    let class = std::fs::read_to_string(device.join("class")).unwrap_or_default();
    ["0x01", "0x02"].iter().any(|base| class.starts_with(base))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_device_that_shows_no_disk_and_no_port_is_known_by_its_class() {
        let dir = std::env::temp_dir().join(format!("bench-class-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        assert!(!is_disk_or_port(&dir));
        for (class, wanted) in [
            ("0x010802\n", true),
            ("0x020000\n", true),
            ("0x00ff00\n", false),
            ("0x0c0330\n", false),
        ] {
            fs::write(dir.join("class"), class).unwrap();
            assert_eq!(is_disk_or_port(&dir), wanted, "{class}");
            // The same device with a driver, whose disk or port is not seen.
            match function("0000:01:00.0", Some("e1000e"), &dir) {
                Ok(unit) => assert!(!wanted && matches!(unit, Unit::Function), "{class}"),
                Err(error) => assert!(wanted && error.to_string().contains("e1000e"), "{error}"),
            }
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
