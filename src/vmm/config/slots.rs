//! Where each device is in the guest: on bus 0, or behind a root port that is on bus 0.
//!
//! Functions of one host device that are behind ports share a port, because a guest's driver
//! expects them on one device. Each port has a device number of its own while there are enough;
//! otherwise eight ports are the functions of one device.

use std::fmt;

use pci::Bdf;
use pci::host_path::HostPath;

use crate::config::device::{DeviceConfig, PortChoice, Slot};
use crate::hostinfo::name::{HostName, parse_address};

/// The functions that a device has at most.
const FUNCTIONS: u8 = 8;
/// The device numbers of bus 0; 0 is the host bridge's.
const DEVICES: std::ops::RangeInclusive<u8> = 1..=0x1f;

/// Where a device is in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestAddress {
    /// The address on bus 0, of the device or of the root port above the device.
    pub slot: Slot,
    /// The function number behind the root port; `None` for a device on bus 0.
    pub behind: Option<u8>,
}

impl GuestAddress {
    /// The addresses of the device and of the root port above it. The bus behind a port has no
    /// number yet.
    pub fn in_tree(&self) -> (Bdf, Option<Bdf>) {
        let at = |device, function| Bdf {
            segment: 0,
            bus: 0,
            device,
            function,
        };
        let on_root = at(self.slot.device, self.slot.function);
        match self.behind {
            None => (on_root, None),
            Some(function) => (at(0, function), Some(on_root)),
        }
    }

    /// Says why a function has another number behind its port than on the host; `None` if it has
    /// the same.
    pub fn why_renumbered(&self, host: Bdf) -> Option<String> {
        renumbered(host, self.behind?)
    }
}

/// Says why the function `host` has the number `number` behind its port; `None` if it has the same
/// number on the host.
pub fn renumbered(host: Bdf, number: u8) -> Option<String> {
    (number != host.function).then(|| {
        format!(
            "{host} is function {number:x} behind its root port, because function 0 of its device \
             is not passed through"
        )
    })
}

impl fmt::Display for GuestAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.behind {
            None => self.slot.fmt(f),
            Some(0) => write!(f, "behind the root port at {}", self.slot),
            Some(function) => write!(
                f,
                "function {function:x} behind the root port at {}",
                self.slot
            ),
        }
    }
}

/// Why there is no address for each device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotError {
    /// Two devices, or two root ports, at one address.
    Twice(Slot),
    /// A function without a function 0 in its slot: no guest would find it.
    NoFunctionZero(Slot),
    /// So many device numbers are needed, more than there are.
    TooMany(usize),
}

/// Gives each device an address. Devices with a `slot=` have it, and the others the first free
/// ones, in their order.
///
/// # Errors
/// [`SlotError`].
pub fn assign(configs: &[DeviceConfig]) -> Result<Vec<GuestAddress>, SlotError> {
    assign_with_empty(configs, 0).map(|(addresses, _)| addresses)
}

/// As [`assign`]; then gives so many empty root ports an address each.
///
/// # Errors
/// [`SlotError`].
pub fn assign_with_empty(
    configs: &[DeviceConfig],
    empty: u8,
) -> Result<(Vec<GuestAddress>, Vec<Slot>), SlotError> {
    let mut groups = group(configs);
    check_functions(&groups)?;
    groups.extend((0..empty).map(|_| Group {
        slot: None,
        port: true,
        host: None,
        members: Vec::new(),
    }));
    assign_groups(groups, configs.len())
}

/// Gives a device an address beside the devices that `taken` describes, which have their slots. The
/// slot's function 0 may come later.
///
/// # Errors
/// [`SlotError`].
pub fn assign_one(taken: &[DeviceConfig], new: &DeviceConfig) -> Result<GuestAddress, SlotError> {
    let mut configs = taken.to_vec();
    configs.push(new.clone());
    let (addresses, _) = assign_groups(group(&configs), configs.len())?;
    let last = addresses.last().copied();
    last.ok_or(SlotError::TooMany(configs.len()))
}

/// Gives each of the devices an address, and each group without a device a slot.
fn assign_groups(
    mut groups: Vec<Group>,
    devices: usize,
) -> Result<(Vec<GuestAddress>, Vec<Slot>), SlotError> {
    check_twice(&groups)?;
    give_slots(&mut groups)?;
    let mut addresses = vec![None; devices];
    for group in &groups {
        for (member, function) in group.members.iter().zip(group.numbers()) {
            if let (Some(address), Some(slot)) = (addresses.get_mut(member.index), group.slot) {
                *address = Some(GuestAddress {
                    slot,
                    behind: group.port.then_some(function),
                });
            }
        }
    }
    let addresses: Option<Vec<_>> = addresses.into_iter().collect();
    let empty = groups.iter().filter(|group| group.members.is_empty());
    let empty: Option<Vec<_>> = empty.map(|group| group.slot).collect();
    addresses.zip(empty).ok_or(SlotError::TooMany(groups.len()))
}

/// What the root port above each device shows: functions behind one port have one way to the host's
/// root complex. `own` is the way of each device.
pub fn paths(own: &[HostPath], addresses: &[GuestAddress]) -> Vec<HostPath> {
    let shared = addresses.iter().map(|address| {
        let all = own.iter().zip(addresses);
        let same = all.filter(|(_, other)| other.slot == address.slot);
        HostPath::shared(&same.map(|(path, _)| *path).collect::<Vec<_>>())
    });
    shared.collect()
}

/// The number of root ports that these devices are behind.
pub fn ports(configs: &[DeviceConfig]) -> usize {
    group(configs).iter().filter(|group| group.port).count()
}

/// Whether a device is behind a root port.
fn is_behind_port(config: &DeviceConfig) -> bool {
    config.port == PortChoice::On
}

/// A device, by its index in the configuration and its function number on the host.
struct Member {
    index: usize,
    function: u8,
}

/// A device on bus 0, or a root port and the functions behind it.
struct Group {
    slot: Option<Slot>,
    port: bool,
    /// The host's device whose functions are behind the port; `None` for a mediated device.
    host: Option<Bdf>,
    members: Vec<Member>,
}

impl Group {
    /// The function number of each member behind the port. They are the host's; where function 0 is
    /// not among them the lowest becomes 0, because a guest looks for the others only if there is a
    /// function 0 (PCI Local Bus 3.0, 3.2.2.3.4).
    fn numbers(&self) -> impl Iterator<Item = u8> + '_ {
        let lowest = self.members.iter().map(|member| member.function).min();
        self.members.iter().map(move |member| {
            let is_lowest = Some(member.function) == lowest;
            if is_lowest { 0 } else { member.function }
        })
    }
}

/// The devices in groups, in the order of their first members.
fn group(configs: &[DeviceConfig]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (index, config) in configs.iter().enumerate() {
        let bdf = match parse_address(&config.address) {
            Ok(HostName::Pci(bdf)) => Some(bdf),
            _ => None,
        };
        let function = bdf.map_or(0, |bdf| bdf.function);
        let host = bdf.map(|bdf| Bdf { function: 0, ..bdf });
        let port = is_behind_port(config);
        let joins = |group: &&mut Group| {
            let same_slot = match (group.slot, config.slot) {
                (Some(a), Some(b)) => a == b,
                _ => true,
            };
            port && group.port && host.is_some() && group.host == host && same_slot
        };
        let member = Member { index, function };
        match groups.iter_mut().find(joins) {
            Some(group) => {
                group.slot = group.slot.or(config.slot);
                group.members.push(member);
            }
            None => groups.push(Group {
                slot: config.slot,
                port,
                host,
                members: vec![member],
            }),
        }
    }
    groups
}

/// Checks that the user chose no slot twice.
fn check_twice(groups: &[Group]) -> Result<(), SlotError> {
    let mut taken: Vec<Slot> = Vec::new();
    for slot in groups.iter().filter_map(|group| group.slot) {
        if taken.contains(&slot) {
            return Err(SlotError::Twice(slot));
        }
        taken.push(slot);
    }
    Ok(())
}

/// Checks that each slot that the user chose has a function 0: a guest that finds none does not
/// look for the others (PCI Local Bus 3.0, 3.2.2.3.4).
fn check_functions(groups: &[Group]) -> Result<(), SlotError> {
    let taken: Vec<_> = groups.iter().filter_map(|group| group.slot).collect();
    let has_first = |slot: &Slot| {
        let mut at_device = taken.iter().filter(|t| t.device == slot.device);
        at_device.any(|t| t.function == 0)
    };
    match taken.iter().find(|slot| !has_first(slot)) {
        Some(slot) => Err(SlotError::NoFunctionZero(*slot)),
        None => Ok(()),
    }
}

/// Gives each group without a slot a free one.
fn give_slots(groups: &mut [Group]) -> Result<(), SlotError> {
    let used = |device: &u8| {
        let mut slots = groups.iter().filter_map(|group| group.slot);
        slots.any(|slot| slot.device == *device)
    };
    let free: Vec<u8> = DEVICES.filter(|device| !used(device)).collect();
    let without = |port| {
        let groups = groups.iter();
        groups
            .filter(|g| g.slot.is_none() && g.port == port)
            .count()
    };
    let (devices, ports) = (without(false), without(true));
    let shared = devices + ports > free.len();
    let needed = match shared {
        true => devices + ports.div_ceil(FUNCTIONS.into()),
        false => devices + ports,
    };
    if needed > free.len() {
        let taken = DEVICES.count() - free.len();
        return Err(SlotError::TooMany(taken + needed));
    }
    let mut free = free.into_iter();
    // The device whose functions are ports, and its next function.
    let mut open: Option<Slot> = None;
    for group in groups.iter_mut().filter(|group| group.slot.is_none()) {
        let first = |device| Slot {
            device,
            function: 0,
        };
        let next = if group.port { open.take() } else { None };
        group.slot = next.or_else(|| free.next().map(first));
        if shared && group.port {
            open = group.slot.and_then(|slot| {
                let function = slot.function + 1;
                (function < FUNCTIONS).then_some(Slot { function, ..slot })
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Result<Vec<String>, SlotError> {
        let configs: Vec<_> = texts.iter().map(|text| text.parse().unwrap()).collect();
        let addresses = assign(&configs)?;
        Ok(addresses.iter().map(GuestAddress::to_string).collect())
    }

    fn slot(text: &str) -> Slot {
        text.parse().unwrap()
    }

    #[test]
    fn the_free_slots_are_given_in_order() {
        assert_eq!(
            addresses(&["a:0.0", "b:0.0,slot=1.1", "c:0.0,slot=1", "d:0.0"]).unwrap(),
            ["02.0", "01.1", "01.0", "03.0"]
        );
        let mut many = vec![DeviceConfig::default(); 31];
        assert_eq!(assign(&many).unwrap()[30].slot, slot("1f"));
        many.push(DeviceConfig::default());
        assert_eq!(assign(&many), Err(SlotError::TooMany(32)));
    }

    #[test]
    fn functions_of_one_host_device_share_a_port() {
        // The GPU's number stays, and so does that of its sound.
        let gpu = ["1:0.1,port=on", "2:0.0,port=on", "1:0.0,port=on"];
        assert_eq!(
            addresses(&gpu).unwrap(),
            [
                "function 1 behind the root port at 01.0",
                "behind the root port at 02.0",
                "behind the root port at 01.0",
            ]
        );
        // Without function 0, the lowest becomes function 0.
        let others = ["1:0.3,port=on", "1:0.2,port=on,slot=5", "1:0.1"];
        assert_eq!(
            addresses(&others).unwrap(),
            [
                "function 3 behind the root port at 05.0",
                "behind the root port at 05.0",
                "01.0",
            ]
        );
        // Not where the user wants two ports.
        let apart = ["1:0.0,port=on,slot=5", "1:0.1,port=on,slot=5.1"];
        assert_eq!(
            addresses(&apart).unwrap(),
            [
                "behind the root port at 05.0",
                "behind the root port at 05.1"
            ]
        );
        let configs = others.map(|text| text.parse().unwrap());
        let assigned = assign(&configs).unwrap();
        let why = |index: usize, host: &str| assigned[index].why_renumbered(host.parse().unwrap());
        assert_eq!(why(0, "1:0.3"), None);
        assert!(
            why(1, "1:0.2")
                .unwrap()
                .contains("is function 0 behind its root port")
        );
        assert_eq!(why(2, "1:0.1"), None, "on bus 0");
        let uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001,port=on";
        assert_eq!(
            addresses(&[uuid, "1:0.0,port=off"]).unwrap(),
            ["behind the root port at 01.0", "02.0"]
        );
        let configs = [uuid, "1:0.0,port=on", "1:0.1,port=on"].map(|t| t.parse().unwrap());
        assert_eq!(ports(&configs), 2);
    }

    #[test]
    fn ports_share_a_device_where_there_are_too_few() {
        let mut texts: Vec<_> = (0..40).map(|n| format!("{n:x}:0.0,port=on")).collect();
        texts.insert(1, "77:0.0".into());
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        let found = addresses(&texts).unwrap();
        assert_eq!(found[0], "behind the root port at 01.0");
        assert_eq!(found[1], "02.0");
        assert_eq!(found[2], "behind the root port at 01.1");
        assert_eq!(found[9], "behind the root port at 03.0");
        assert_eq!(found[40], "behind the root port at 06.7");
        let all: std::collections::BTreeSet<_> = found.iter().collect();
        assert_eq!(all.len(), 41);
        // 31 devices of 8 ports, and one more.
        let mut many: Vec<DeviceConfig> = (0..248)
            .map(|n| format!("{n:x}:0.0,port=on").parse().unwrap())
            .collect();
        assert_eq!(assign(&many).unwrap()[247].slot, slot("1f.7"));
        many.push("f8:0.0,port=on".parse().unwrap());
        assert_eq!(assign(&many), Err(SlotError::TooMany(32)));
    }

    #[test]
    fn empty_ports_come_last() {
        let configs = ["1:0.0", "2:0.0,port=on", "3:0.0,slot=4"].map(|t| t.parse().unwrap());
        let (devices, empty) = assign_with_empty(&configs, 2).unwrap();
        assert_eq!(devices, assign(&configs).unwrap());
        assert_eq!(empty, [slot("3"), slot("5")]);
        // Too many for a device number each: eight share one.
        let (_, empty) = assign_with_empty(&configs, 40).unwrap();
        assert_eq!(empty[..2], [slot("2.1"), slot("2.2")]);
        assert_eq!(empty.len(), 40);
        let (_, empty) = assign_with_empty(&[], 248).unwrap();
        assert_eq!(empty[247], slot("1f.7"));
        let one = std::slice::from_ref(&configs[0]);
        assert_eq!(assign_with_empty(one, 248), Err(SlotError::TooMany(32)));
    }

    #[test]
    fn one_more_goes_beside_the_others() {
        let one = |taken: &[&str], new: &str| {
            let taken: Vec<_> = taken.iter().map(|t| t.parse().unwrap()).collect();
            assign_one(&taken, &new.parse().unwrap()).map(|address| address.to_string())
        };
        let taken = ["1:0.0,slot=1", "2:0.0,slot=3,port=on"];
        assert_eq!(one(&taken, "3:0.0"), Ok("02.0".into()));
        assert_eq!(one(&taken, "3:0.0,slot=7.2"), Ok("07.2".into()));
        let shares = "function 1 behind the root port at 03.0";
        assert_eq!(one(&taken, "2:0.1,port=on"), Ok(shares.into()));
        let twice = Err(SlotError::Twice(slot("1")));
        assert_eq!(one(&taken, "3:0.0,slot=1"), twice);
    }

    #[test]
    fn a_slot_is_taken_once_and_has_a_function_0() {
        let twice = ["1:0.0,slot=5", "2:0.0,slot=5,port=on"];
        assert_eq!(addresses(&twice), Err(SlotError::Twice(slot("5"))));
        let alone = ["1:0.0,slot=5.1,port=on", "2:0.0"];
        let missing = Err(SlotError::NoFunctionZero(slot("5.1")));
        assert_eq!(addresses(&alone), missing);
    }
}
