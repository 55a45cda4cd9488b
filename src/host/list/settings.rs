//! What the host's files in /etc say about devices: names, and devices that VFIO gets at each boot.

use std::collections::BTreeMap;

use vmm::hostinfo::device_names::Named;
use vmm::hostinfo::name::HostName;
use vmm::hostinfo::sysfs::Sysfs;

use crate::list::List;
use crate::persist::{Persistent, Presence};

/// A rule of `host bind --persist` for a device of the list.
#[derive(Clone, Debug)]
pub struct Kept {
    /// What the rule says.
    pub rule: Persistent,
    /// How the device differs from the one that was made persistent; `None` if it is that one.
    pub other: Option<String>,
}

impl Kept {
    /// The rule in words.
    pub(super) fn describe(&self, driver: Option<&str>) -> String {
        let wanted = &self.rule.driver;
        match &self.other {
            Some(difference) => format!(
                "not the device that gets {wanted} at each boot: {difference}; as root: \
                 mini-vmm host unbind {} --persist",
                self.rule.device
            ),
            None if driver != Some(wanted) => {
                format!("gets {wanted} at each boot, but has another driver now")
            }
            None => format!("gets {wanted} at each boot"),
        }
    }
}

impl List {
    /// Adds the rules of persistent devices. A rule whose address has no device is listed apart.
    pub fn add_rules(&mut self, sysfs: &Sysfs, rules: Vec<Persistent>) {
        for rule in rules {
            let other = match rule.presence(sysfs) {
                Presence::Missing => {
                    self.absent.push(rule);
                    continue;
                }
                Presence::Same => None,
                Presence::Other(difference) => Some(difference),
            };
            let mut items = self.items.iter_mut();
            if let Some(item) = items.find(|item| item.device.bdf == rule.device) {
                item.kept = Some(Kept { rule, other });
            }
        }
    }

    /// Adds the user's names of devices.
    pub fn add_names(&mut self, names: &BTreeMap<String, Named>) {
        for (name, named) in names {
            for item in &mut self.items {
                if named.device == HostName::Pci(item.device.bdf) {
                    item.names.push(name.clone());
                }
            }
        }
    }
}
