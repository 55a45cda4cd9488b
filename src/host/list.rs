//! `host list`: prints all PCI devices by IOMMU group, with the driver and the state of each, and
//! the devices that share its group.

mod json;
#[cfg(test)]
mod tests;
mod text;

use std::io;

pub use json::to_json;
use pci::Bdf;
pub use text::to_text;
use uuid::Uuid;
use vmm::hostinfo::mdev::MediatedDevice;
use vmm::hostinfo::pci_device::PciDevice;
use vmm::hostinfo::sysfs::Sysfs;

use crate::details::Details;
use crate::names::Names;

/// Whether a device can be passed through now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The device has a VFIO driver, and no other device of its group has a host driver.
    Ready,
    /// The device has this host driver.
    Bound(String),
    /// The device has no driver.
    Unbound,
    /// The device has a VFIO driver, but host drivers have these other devices of its group.
    Blocked(Vec<PciDevice>),
    /// The host has no IOMMU, or does not use its IOMMU. VFIO's no-IOMMU mode counts as none.
    NoGroup,
    /// The device is a bridge, which the host keeps.
    Bridge,
}

impl State {
    /// The state of a device. `members` are the devices of its group, the device included.
    pub fn of(device: &PciDevice, members: &[PciDevice]) -> Self {
        if device.is_bridge() {
            return Self::Bridge;
        }
        if device.group.is_none() || device.no_iommu {
            return Self::NoGroup;
        }
        match &device.driver {
            None => Self::Unbound,
            Some(driver) if !device.is_vfio() => Self::Bound(driver.clone()),
            Some(_) => {
                let culprits = members.iter().filter(|m| m.blocks_group());
                let culprits: Vec<_> = culprits.cloned().collect();
                if culprits.is_empty() {
                    Self::Ready
                } else {
                    Self::Blocked(culprits)
                }
            }
        }
    }
}

/// A device of the list.
#[derive(Clone, Debug)]
pub struct Item {
    /// Address, driver, group, class.
    pub device: PciDevice,
    /// Further facts from sysfs.
    pub details: Details,
    /// The vendor's name, if the list of names has it.
    pub vendor: Option<String>,
    /// The device's name, if the list of names has it.
    pub name: Option<String>,
    /// Whether the device can be passed through.
    pub state: State,
    /// The other devices of the group, without bridges.
    pub shared_with: Vec<Bdf>,
    /// The mediated devices that the device's driver has made.
    pub mediated: Vec<Mediated>,
}

/// A mediated device of the list, with its UUID.
pub type Mediated = (Uuid, MediatedDevice);

/// All devices of the list.
#[derive(Clone, Debug)]
pub struct List {
    /// PCI devices, each with its mediated devices.
    pub items: Vec<Item>,
    /// Mediated devices whose parent is not in the list.
    pub mediated: Vec<Mediated>,
}

/// Reads all devices in order of group. Devices without a group come last. `all` adds bridges and
/// devices without a group.
///
/// # Errors
/// sysfs cannot be read.
pub fn list(sysfs: &Sysfs, names: &Names, all: bool) -> io::Result<List> {
    let devices = sysfs.devices()?;
    let mut mediated = sysfs.mediated_devices()?;
    let mut items: Vec<_> = devices
        .iter()
        .filter(|d| all || (d.group.is_some() && !d.is_bridge()))
        .map(|device| item(device, &devices, names, &mut mediated))
        .collect();
    items.sort_by_key(|i| (i.device.group.is_none(), i.device.group, i.device.bdf));
    Ok(List { items, mediated })
}

/// Makes a device's item, and moves its mediated devices from `mediated` into it.
fn item(
    device: &PciDevice,
    all: &[PciDevice],
    names: &Names,
    mediated: &mut Vec<Mediated>,
) -> Item {
    let address = device.bdf.to_string();
    let (own, others) = std::mem::take(mediated)
        .into_iter()
        .partition(|(_, m)| m.parent.as_ref() == Some(&address));
    *mediated = others;
    let members: Vec<_> = all
        .iter()
        .filter(|d| d.group.is_some() && d.group == device.group)
        .cloned()
        .collect();
    let details = Details::read(device);
    let (vendor, name) = names.find(details.id.0, details.id.1);
    Item {
        device: device.clone(),
        vendor: vendor.map(String::from),
        name: name.map(String::from),
        state: State::of(device, &members),
        shared_with: members
            .iter()
            .filter(|m| m.bdf != device.bdf && !m.is_bridge())
            .map(|m| m.bdf)
            .collect(),
        mediated: own,
        details,
    }
}
