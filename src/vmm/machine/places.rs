//! What the guest has at its ports and addresses, by name.

use std::sync::{Arc, Weak};

use pci::addr::Range;
use pci::bar::BarKind;
use pci::{Bdf, access};

use crate::counters::registers::Space;
use crate::devices::{power, serial};
use crate::layout;
use crate::stats::Place;
use crate::vfio::function::VfioFunction;

/// Tells what is where at the time of the call. It keeps no function alive.
pub(super) fn lookup(
    functions: &[(Bdf, Arc<VfioFunction>)],
) -> impl Fn() -> Vec<Place> + Send + Sync + 'static {
    let functions = functions.iter().map(|(bdf, f)| (*bdf, Arc::downgrade(f)));
    let functions: Vec<_> = functions.collect();
    move || places(&functions)
}

/// The devices of ours, and the functions where they are now. The first that has an address is it.
fn places(functions: &[(Bdf, Weak<VfioFunction>)]) -> Vec<Place> {
    let port = |start: u16, size: u16, name: &str| Place {
        space: Space::Port,
        range: Range {
            start: start.into(),
            size: size.into(),
        },
        name: name.into(),
    };
    let mut places = vec![
        port(layout::PORT_SERIAL, serial::PORTS, "serial port"),
        port(layout::PORT_PCI_ADDRESS, 4, "PCI configuration address"),
        port(
            layout::PORT_PCI_DATA,
            access::PORTS - 4,
            "PCI configuration data",
        ),
        port(power::PORT, power::PORTS, "power"),
    ];
    let alive = functions
        .iter()
        .filter_map(|(bdf, f)| Some((bdf, f.upgrade()?)));
    for (bdf, function) in alive {
        let number = u64::from(bdf.device) << 3 | u64::from(bdf.function);
        places.push(memory(
            layout::ECAM_START + (number << 12),
            1 << 12,
            format!("{bdf} configuration space"),
        ));
        // One that the guest is sizing is nowhere.
        let bars = function.bars();
        for (index, bar, address) in bars.iter().filter(|(_, bar, at)| bar.can_decode_at(*at)) {
            let name = match bar.kind {
                BarKind::Rom => format!("{bdf} ROM"),
                _ => format!("{bdf} BAR {index}"),
            };
            let range = Range {
                start: address,
                size: bar.size,
            };
            let space = if bar.kind.is_io() {
                Space::Port
            } else {
                Space::Memory
            };
            places.push(Place { space, range, name });
        }
    }
    places.push(memory(
        layout::ECAM_START,
        layout::ECAM_SIZE,
        "configuration space of nobody".into(),
    ));
    places
}

fn memory(start: u64, size: u64, name: String) -> Place {
    Place {
        space: Space::Memory,
        range: Range { start, size },
        name,
    }
}
