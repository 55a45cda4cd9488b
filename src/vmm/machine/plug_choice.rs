//! The root port for a device that is added: the one that the user names, or the first free one
//! whose windows are large enough.

use std::cmp::Reverse;

use pci::Bdf;
use pci::bar::Bars;
use pci::bridge_windows::{NoRoom, lacks};
use pci::port_setup::PortSetup;

use crate::config::device::{DeviceConfig, PortChoice, Slot};
use crate::config::ports::PortsConfig;
use crate::hostinfo::name::{HostName, parse_address};
use crate::plug::AddError;
use crate::plug::host_side::Found;

/// A root port, as a choice.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub bdf: Bdf,
    pub setup: PortSetup,
    /// The device that is there.
    pub device: Option<String>,
}

impl Choice {
    fn is_at(&self, slot: Slot) -> bool {
        (self.bdf.device, self.bdf.function) == (slot.device, slot.function)
    }
}

/// Checks what a request says of itself: functions of one device, for one port.
///
/// # Errors
/// The request cannot be carried out in any guest.
pub(super) fn check_request(devices: &[DeviceConfig]) -> Result<Option<Slot>, AddError> {
    let first = devices.first().ok_or(AddError::Nothing)?;
    let host = |config: &DeviceConfig| match parse_address(&config.address) {
        Ok(HostName::Pci(bdf)) => Some(Bdf { function: 0, ..bdf }),
        _ => None,
    };
    for other in devices.iter().skip(1) {
        if host(first).is_none() || host(other) != host(first) {
            return Err(AddError::Several {
                first: first.address.clone(),
                second: other.address.clone(),
            });
        }
    }
    if devices.iter().any(|config| config.port == PortChoice::Off) {
        return Err(AddError::OnBus0);
    }
    let mut slots = devices.iter().filter_map(|config| config.slot);
    let slot = slots.next();
    match slots.any(|other| Some(other) != slot) {
        true => Err(AddError::TwoSlots),
        false => Ok(slot),
    }
}

/// The function numbers behind the port: the host's, and the lowest becomes 0, because a guest
/// looks for the others only if there is a function 0 (PCI Local Bus 3.0, 3.2.2.3.4).
pub(super) fn numbers(found: &[Found]) -> Vec<u8> {
    let lowest = found.iter().map(|f| f.number).min();
    let number = |f: &Found| match Some(f.number) == lowest {
        true => 0,
        false => f.number,
    };
    found.iter().map(number).collect()
}

/// Chooses a port. The guest began with `began` as empty ones.
///
/// # Errors
/// No port is free, or none is large enough.
pub(super) fn choose(
    found: &[Found],
    slot: Option<Slot>,
    ports: &[Choice],
    began: &PortsConfig,
) -> Result<Choice, AddError> {
    if ports.is_empty() {
        return Err(AddError::NoPort);
    }
    let here: Vec<&Choice> = match slot {
        None => ports.iter().collect(),
        Some(slot) => {
            let port = ports.iter().find(|port| port.is_at(slot));
            let port = port.ok_or(AddError::NoSuchPort(slot))?;
            if let Some(device) = port.device.clone() {
                return Err(AddError::Taken { slot, device });
            }
            vec![port]
        }
    };
    let free: Vec<_> = here.into_iter().filter(|p| p.device.is_none()).collect();
    // The port that lacks least: few windows, and the first of them as large as can be.
    let mut best: Option<Vec<NoRoom>> = None;
    let rank = |lacks: &[NoRoom]| (lacks.len(), lacks.first().map(|lack| Reverse(lack.has)));
    for port in free {
        // As far as the BARs are known.
        let bars: Vec<&Bars> = found.iter().filter_map(|f| f.bars.as_ref()).collect();
        let lacks = lacks(bars, &port.setup);
        if lacks.is_empty() {
            return Ok(port.clone());
        }
        if best.as_ref().is_none_or(|best| rank(&lacks) < rank(best)) {
            best = Some(lacks);
        }
    }
    let device = found.first().map_or_else(String::new, |f| f.name.clone());
    Err(match best {
        Some(lacks) => no_room(device, &lacks, began),
        None => AddError::Full {
            count: ports.len(),
            more: began.one_more(),
        },
    })
}

/// The windows of the ports are too small for `device`.
pub(super) fn no_room(device: String, lacks: &[NoRoom], began: &PortsConfig) -> AddError {
    match lacks.first() {
        None => AddError::NoPort,
        Some(&lack) => AddError::NoRoom {
            device,
            lack,
            larger: began.with_room(lacks),
        },
    }
}

#[cfg(test)]
mod tests {
    use pci::addr::Range;
    use pci::bar::{Bar, BarKind};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn found(size: u64) -> Found {
        let kind = BarKind::Memory32 {
            prefetchable: false,
        };
        let bars = [Some(Bar { kind, size }), None, None, None, None, None];
        Found {
            name: "0000:01:00.0".into(),
            number: 0,
            bars: Some(Bars::new(bars).unwrap()),
        }
    }

    fn port(device: u8, mib: u64, has: Option<&str>) -> Choice {
        Choice {
            bdf: Bdf {
                segment: 0,
                bus: 0,
                device,
                function: 0,
            },
            setup: PortSetup {
                mem32: Some(Range {
                    start: 0xc000_0000,
                    size: mib * MIB,
                }),
                ..PortSetup::default()
            },
            device: has.map(Into::into),
        }
    }

    fn ports_of(text: &str) -> PortsConfig {
        crate::config::ports::parse(text).unwrap()
    }

    fn chosen(size: u64, slot: Option<&str>, ports: &[Choice]) -> Result<u8, AddError> {
        let slot = slot.map(|slot| slot.parse().unwrap());
        let began = ports_of("2,mem64=4G");
        choose(&[found(size)], slot, ports, &began).map(|port| port.bdf.device)
    }

    #[test]
    fn the_first_free_port_that_is_large_enough() {
        let ports = [
            port(1, 64, Some("0000:02:00.0")),
            port(2, 1, None),
            port(3, 16, None),
            port(4, 16, None),
        ];
        assert_eq!(chosen(MIB, None, &ports).unwrap(), 2);
        assert_eq!(chosen(2 * MIB, None, &ports).unwrap(), 3);
        assert_eq!(chosen(MIB, Some("4"), &ports).unwrap(), 4);
    }

    #[test]
    fn what_fits_nowhere_is_refused_with_what_helps() {
        let ports = [port(1, 1, None), port(2, 4, None)];
        let e = chosen(64 * MIB, None, &ports).unwrap_err();
        assert_eq!(
            e.to_string(),
            "0000:01:00.0 needs 64 MiB of memory below 4 GiB, and the largest free root port of \
             the guest has 4 MiB"
        );
        let hint = e.hint().unwrap();
        assert!(hint.ends_with("--ports 2,mem32=64M,mem64=4G"), "{hint}");
        // With one of them taken, and at a slot, the guest needs as many ports as before.
        let ports = [port(1, 1, Some("a")), port(2, 4, None)];
        for slot in [None, Some("2")] {
            let e = chosen(64 * MIB, slot, &ports).unwrap_err();
            assert_eq!(e.hint().unwrap(), hint);
        }
        let e = chosen(1 << 30, None, &ports).unwrap_err();
        assert!(e.hint().unwrap().ends_with("--vfio 0000:01:00.0"), "{e}");
        let e = chosen(MIB, None, &[]).unwrap_err();
        assert!(e.hint().unwrap().contains("--ports 1"), "{e}");
        let full = [port(1, 4, Some("a")), port(2, 4, Some("b"))];
        let e = chosen(MIB, None, &full).unwrap_err();
        assert_eq!(e.to_string(), "all 2 root ports of the guest have a device");
        assert!(e.hint().unwrap().contains("--ports 3,mem64=4G"));
        let e = chosen(MIB, Some("2"), &full).unwrap_err();
        assert_eq!(e.to_string(), "the root port at 02.0 already has b");
        assert!(matches!(
            chosen(MIB, Some("9"), &full),
            Err(AddError::NoSuchPort(_))
        ));
    }

    #[test]
    fn functions_of_one_device_alone() {
        let configs = |texts: &[&str]| {
            let configs = texts.iter().map(|text| text.parse().unwrap());
            check_request(&configs.collect::<Vec<_>>())
        };
        assert_eq!(configs(&["01:00.0", "01:00.1"]).unwrap(), None);
        let slot = configs(&["01:00.0", "01:00.1,slot=3"]).unwrap();
        assert_eq!(slot.unwrap().device, 3);
        assert!(matches!(configs(&[]), Err(AddError::Nothing)));
        let several = configs(&["01:00.0", "01:01.0"]);
        assert!(matches!(several, Err(AddError::Several { .. })));
        assert!(matches!(
            configs(&["01:00.0,port=off"]),
            Err(AddError::OnBus0)
        ));
        let two = configs(&["01:00.0,slot=2", "01:00.1,slot=3"]);
        assert!(matches!(two, Err(AddError::TwoSlots)));
        let numbered = |number| Found {
            number,
            ..found(MIB)
        };
        assert_eq!(numbers(&[numbered(3), numbered(1), numbered(7)]), [3, 0, 7]);
    }
}
