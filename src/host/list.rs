//! `host list`: every PCI device by IOMMU group: what it is, who has it, and with what together it
//! can be passed through.

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
use vmm::hostinfo::sysfs::{PciDevice, Sysfs};

use crate::details::Details;
use crate::names::Names;

/// Whether a device can be passed through as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// A VFIO driver has it, and no host driver has anything of its group.
    Ready,
    /// A driver of the host's has it.
    Bound(String),
    /// No driver has it.
    Unbound,
    /// A VFIO driver has it, but these of its group are in the host's hands.
    Blocked(Vec<PciDevice>),
    /// The host has no IOMMU, or does not use it.
    NoGroup,
    /// Bridges stay with the host.
    Bridge,
}

impl State {
    /// The state of a device in a group with these members, itself among them.
    pub fn of(device: &PciDevice, members: &[PciDevice]) -> Self {
        if device.is_bridge() {
            return Self::Bridge;
        }
        if device.group.is_none() {
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
    /// All else.
    pub details: Details,
    /// The vendor's name, if the list of names has it.
    pub vendor: Option<String>,
    /// The device's name, likewise.
    pub name: Option<String>,
    /// Whether it can be passed through.
    pub state: State,
    /// The other devices of its group that are no bridges.
    pub shared_with: Vec<Bdf>,
    /// What its driver has made of it.
    pub mediated: Vec<Mediated>,
}

/// A mediated device of the list, with its UUID.
pub type Mediated = (Uuid, MediatedDevice);

/// What there is to pass through.
#[derive(Clone, Debug)]
pub struct List {
    /// PCI devices, each with the mediated devices that are made of it.
    pub items: Vec<Item>,
    /// The mediated devices that are made of no device of this list.
    pub mediated: Vec<Mediated>,
}

/// Reads all devices in order of group, those without a group last; `all` with bridges, and with
/// those that are in no group.
///
/// # Errors
/// When sysfs cannot be read.
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

/// Takes its own from the mediated devices.
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
