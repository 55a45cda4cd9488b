//! Names the ports and addresses of the guest's devices, for reports.

use std::sync::{Arc, Weak};

use pci::addr::Range;
use pci::bar::BarKind;
use pci::upstream::Upstream;
use pci::{Bdf, access};

use crate::counters::registers::Space;
use crate::devices::{pm_timer, power, serial};
use crate::layout;
use crate::vfio::function::VfioFunction;

/// A range of ports or addresses, with the name of its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedRange {
    /// Ports or guest-physical addresses.
    pub space: Space,
    /// Half-open.
    pub range: Range,
    /// The name in a report.
    pub name: String,
}

/// A passed-through function, for the names of its registers.
#[derive(Clone)]
pub struct NamedFunction {
    /// The function's address as firmware has numbered the buses.
    pub bdf: Bdf,
    /// The function.
    pub function: Weak<VfioFunction>,
    /// What the root port above lets through, its bus number among that; `None` on bus 0.
    pub upstream: Option<Arc<Upstream>>,
}

impl NamedFunction {
    /// The function's address as the guest has numbered the buses.
    fn address(&self) -> Bdf {
        let bus = match &self.upstream {
            Some(upstream) => upstream.now().secondary,
            None => self.bdf.bus,
        };
        Bdf { bus, ..self.bdf }
    }
}

/// Returns a closure that lists the ranges at the time of its call: for the functions that there
/// are then, and the root ports. `ecam` has the configuration space of all buses.
pub fn lookup(
    functions: impl Fn() -> Vec<NamedFunction> + Send + Sync + 'static,
    ports: impl Fn() -> Vec<Bdf> + Send + Sync + 'static,
    ecam: Range,
) -> impl Fn() -> Vec<NamedRange> + Send + Sync + 'static {
    move || list(&functions(), &ports(), ecam)
}

/// The function that is always there.
const HOST_BRIDGE: Bdf = Bdf {
    segment: 0,
    bus: 0,
    device: 0,
    function: 0,
};

/// Emulated devices, root ports, then the functions' BARs at their current addresses. If ranges
/// overlap, the first one names an address.
fn list(functions: &[NamedFunction], ports: &[Bdf], ecam: Range) -> Vec<NamedRange> {
    let config = |bdf: &Bdf, name: String| {
        let [bus, device, function] = [bdf.bus, bdf.device, bdf.function].map(u64::from);
        let number = bus << 8 | device << 3 | function;
        memory(
            ecam.start + (number << 12),
            1 << 12,
            format!("{name} configuration space"),
        )
    };
    let port = |start: u16, size: u16, name: &str| NamedRange {
        space: Space::Port,
        range: Range {
            start: start.into(),
            size: size.into(),
        },
        name: name.into(),
    };
    let mut ranges = vec![
        port(layout::PORT_SERIAL, serial::PORTS, "serial port"),
        port(layout::PORT_PCI_ADDRESS, 4, "PCI configuration address"),
        port(
            layout::PORT_PCI_DATA,
            access::PORTS - 4,
            "PCI configuration data",
        ),
        port(power::PORT, power::PORTS, "power"),
        port(layout::PORT_PM_TIMER, pm_timer::PORTS, "ACPI PM timer"),
    ];
    ranges.push(config(&HOST_BRIDGE, HOST_BRIDGE.to_string()));
    for bdf in ports {
        let name = format!("port {:02x}:{:02x}.{:x}", bdf.bus, bdf.device, bdf.function);
        ranges.push(config(bdf, name));
    }
    let alive = functions
        .iter()
        .filter_map(|named| Some((named.address(), named.function.upgrade()?)));
    for (bdf, function) in alive {
        ranges.push(config(&bdf, bdf.to_string()));
        // While the guest sizes a BAR, the BAR has no address.
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
            ranges.push(NamedRange { space, range, name });
        }
    }
    ranges.push(memory(
        ecam.start,
        ecam.size,
        "configuration space of an absent function".into(),
    ));
    ranges
}

fn memory(start: u64, size: u64, name: String) -> NamedRange {
    NamedRange {
        space: Space::Memory,
        range: Range { start, size },
        name,
    }
}
