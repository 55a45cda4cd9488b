//! `host list`: every PCI device, by IOMMU group: what can be passed through, and with what together.

use std::fmt;
use std::io;

use super::sysfs::{PciDevice, Sysfs};

/// Devices in order of group, those without a group last.
#[derive(Debug)]
pub struct List {
    devices: Vec<PciDevice>,
}

/// Reads all devices; `all` with bridges, and with those that are in no group.
///
/// # Errors
/// When sysfs cannot be read.
pub fn list(sysfs: &Sysfs, all: bool) -> io::Result<List> {
    let mut devices = sysfs.devices()?;
    if !all {
        devices.retain(|d| d.group.is_some() && !d.is_bridge());
    }
    devices.sort_by_key(|d| (d.group.is_none(), d.group, d.bdf));
    Ok(List { devices })
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>5}  {:12}  DRIVER", "GROUP", "ADDRESS")?;
        for device in &self.devices {
            let group = device.group.map_or("-".into(), |g| g.to_string());
            let driver = device.driver.as_deref().unwrap_or("-");
            writeln!(f, "{group:>5}  {}  {driver}", device.bdf)?;
        }
        Ok(())
    }
}
