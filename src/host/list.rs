//! `host list`: prints all PCI devices by IOMMU group, with the driver and the state of each, and
//! the devices that share its group.

mod json;
mod settings;
#[cfg(test)]
mod tests;
mod text;

use std::io;

pub use json::to_json;
use pci::Bdf;
pub use settings::Kept;
pub use text::to_text;
use uuid::Uuid;
use vmm::hostinfo::mdev::MediatedDevice;
use vmm::hostinfo::pci_device::PciDevice;
use vmm::hostinfo::sysfs::Sysfs;

use crate::bind::{Entry, Records, UnderWay};
use crate::details::Details;
use crate::in_use::{Use, in_use_at_a_glance};
use crate::names::Names;
use crate::paths::HostPaths;
use crate::persist::Persistent;

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
    /// The uses that the host makes of the device and that it would lose.
    pub uses: Vec<String>,
    /// The call of the kernel that a command of mini-vmm waits for or has left alone.
    pub under_way: Option<UnderWay>,
    /// The user's names of the device.
    pub names: Vec<String>,
    /// The rule that gives the device its VFIO driver at each boot.
    pub kept: Option<Kept>,
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
    /// Rules of persistent devices that are absent.
    pub absent: Vec<Persistent>,
}

/// Reads all devices in order of group. Devices without a group come last. `all` adds bridges and
/// devices without a group.
///
/// # Errors
/// sysfs cannot be read.
pub fn list(sysfs: &Sysfs, records: &Records, names: &Names, all: bool) -> io::Result<List> {
    let busy = records.busy();
    let devices = sysfs.devices()?;
    let mut mediated = sysfs.mediated_devices()?;
    let mut items: Vec<_> = devices
        .iter()
        .filter(|d| all || (d.group.is_some() && !d.is_bridge()))
        .map(|device| item(device, &devices, &busy, names, &mut mediated))
        .collect();
    items.sort_by_key(|i| (i.device.group.is_none(), i.device.group, i.device.bdf));
    Ok(List {
        items,
        mediated,
        absent: Vec::new(),
    })
}

impl List {
    /// Adds what the host does with each device. No disk is opened for it, as `host check` and
    /// `host bind` do.
    ///
    /// # Errors
    /// sysfs or /proc cannot be read.
    pub fn add_uses(&mut self, sysfs: &Sysfs, paths: &HostPaths) -> io::Result<()> {
        // A call that goes on for the device may hold every reader.
        let items = self
            .items
            .iter_mut()
            .filter(|item| item.under_way.is_none());
        let mut items: Vec<_> = items.filter(|item| !item.device.is_bridge()).collect();
        let devices: Vec<_> = items.iter().map(|item| &item.device).collect();
        let uses = in_use_at_a_glance(sysfs, paths, &devices)?;
        for (item, uses) in items.iter_mut().zip(uses) {
            let uses = uses.iter().filter(|u| u.is_serious());
            item.uses = uses.map(Use::to_string).collect();
        }
        Ok(())
    }

    /// Adds the calls of the kernel that are under way, from the journal of host commands. A
    /// journal that cannot be read adds nothing: the commands that change devices report it.
    pub fn add_calls(&mut self, records: &Records) {
        let entries = records.begun().unwrap_or_default();
        for entry in entries.into_iter().filter(Entry::blocks) {
            let item = self
                .items
                .iter_mut()
                .find(|item| item.device.bdf == entry.bdf);
            if let Some(item) = item {
                item.under_way = entry.under_way;
            }
        }
    }
}

/// Makes a device's item, and moves its mediated devices from `mediated` into it.
fn item(
    device: &PciDevice,
    all: &[PciDevice],
    busy: &[Bdf],
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
    let details = Details::read(device, busy.contains(&device.bdf));
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
        uses: Vec::new(),
        under_way: None,
        names: Vec::new(),
        kept: None,
    }
}
