//! Checks the empty root ports of `--ports`, as a run would make them: whether their windows fit
//! beside the devices, and which of the devices could be added to one of them later.

use pci::Bdf;
use pci::bar::{BAR_COUNT, Bar, BarKind, Bars};
use pci::bridge_windows::{lacks, size_text};
use pci::port_setup::PortSetup;
use pci::tree_assignment::{TreeFunction, assign_tree};
use vmm::config::device::{DeviceConfig, Slot};
use vmm::config::port::{self, PortDecision};
use vmm::config::ports::{OCCUPIED, PortsConfig};
use vmm::config::slots::{self, GuestAddress};
use vmm::config::{port_fit, window};
use vmm::hostinfo::iova;
use vmm::layout::{Layout, Reach};
use vmm::machine::mappable;
use vmm::vfio::open::VfioError;

use crate::check::finding::Finding;
use crate::details::{HostBar, Space};
use crate::facts::{DeviceFacts, HostFacts, Maker};

const NAME: &str = "ports";

/// Why ports do not fit, and the remedy.
type Misfit = (String, String);

/// A finding about all ports; `None` without `--ports`, or if the processor's address width is
/// unknown.
pub(super) fn check(host: &HostFacts, devices: &[DeviceFacts]) -> Option<Finding> {
    let reach = reach(host)?;
    let ports = host.ports.filter(|ports| ports.count > 0)?;
    let each = each(&ports);
    let text = match ports.count {
        1 => format!("an empty root port with {each}"),
        count => format!("{count} empty root ports with {each} each"),
    };
    if let Err((why, fix)) = lay_out(host, &[], &ports, reach) {
        return Some(Finding::fail(NAME, format!("{text}: {why}"), fix));
    }
    let devices: Vec<_> = devices
        .iter()
        .filter(|facts| !facts.device.is_bridge())
        .collect();
    if devices.is_empty() {
        return Some(Finding::pass(NAME, format!("{text} fit")));
    }
    Some(match lay_out(host, &devices, &ports, reach) {
        Err((why, fix)) => Finding::warn(
            NAME,
            format!("{text} fit, but not beside the devices at the start: {why}"),
            fix,
        ),
        Ok((_, moved)) if !moved.is_empty() => Finding::warn(
            NAME,
            format!("{text} fit beside the devices, but {}", moved.join("; ")),
            "give fewer or smaller ports: --ports 1,mem32=2M",
        ),
        Ok(_) => Finding::pass(NAME, format!("{text} fit beside the devices")),
    })
}

/// A finding about a device that is to be added to one of the ports while the guest runs.
pub(super) fn port_for(facts: &DeviceFacts, host: &HostFacts) -> Option<Finding> {
    const NAME: &str = "port-room";
    let reach = reach(host)?;
    let ports = host.ports.filter(|ports| ports.count > 0)?;
    let (setups, _) = lay_out(host, &[], &ports, reach).ok()?;
    let bars = bars(&facts.details.bars)?;
    let outcomes = setups.iter().map(|setup| lacks([&bars], setup));
    let best = outcomes.min_by_key(Vec::len)?;
    Some(match best.first() {
        None => Finding::pass(NAME, "an empty root port has room for it"),
        Some(e) => Finding::warn(
            NAME,
            format!("it cannot be added to an empty root port: {e}"),
            match ports.with_room(&best) {
                Some(larger) => format!("--ports {larger}"),
                None => {
                    let bdf = facts.device.bdf;
                    format!(
                        "no port can have such a window: give it at the start, with --vfio {bdf}"
                    )
                }
            },
        ),
    })
}

/// The windows of a port.
fn each(ports: &PortsConfig) -> String {
    let reserve = &ports.reserve;
    let io = if reserve.io > 0 { ", I/O ports" } else { "" };
    let [near, far] = [reserve.mem32, reserve.pref64].map(size_text);
    format!("{near} below 4 GiB and {far} above{io}")
}

fn reach(host: &HostFacts) -> Option<Reach> {
    Some(Reach {
        bits: host.cpu.phys_bits?,
        amd: host.cpu.maker == Maker::Amd,
    })
}

/// Lays a guest out with these devices and ports, as a run does. Returns the windows of the empty
/// ports, and which devices have lost their own ports, and why.
fn lay_out(
    host: &HostFacts,
    devices: &[&DeviceFacts],
    ports: &PortsConfig,
    reach: Reach,
) -> Result<(Vec<PortSetup>, Vec<String>), Misfit> {
    let fewer = || "give the guest less memory with --memory, or smaller ports".to_owned();
    let layout = Layout::new(host.wanted, 0, reach).map_err(|e| (e.to_string(), fewer()))?;
    let reachable = mappable(&layout, &host.groups);
    let ranges = reachable.map_err(|e| (e.to_string(), e.hint().unwrap_or_else(fewer)))?;
    let own = iova::common(devices.iter().map(|facts| &facts.reach));
    let ranges = iova::intersect(&own, &ranges);

    let configs = devices
        .iter()
        .map(|facts| facts.device.bdf.to_string().parse());
    let configs: Result<Vec<DeviceConfig>, _> = configs.collect();
    let mut configs = configs.unwrap_or_default();
    let mut bars: Vec<_> = devices
        .iter()
        .map(|facts| bars(&facts.details.bars).unwrap_or_default())
        .collect();
    let types = devices.iter().map(|facts| facts.function_type);
    let mut decisions: Vec<_> = configs
        .iter()
        .zip(types)
        .map(|(config, function_type)| port::decide(config.port, function_type))
        .collect();
    port::apply(&mut configs, &decisions);
    let before = decisions.clone();
    port_fit::fit(
        &mut configs,
        &mut decisions,
        &bars,
        &layout.windows(),
        ports,
    );

    let sizes = bars
        .iter()
        .map(|bars| bars.iter().map(|(_, bar, _)| bar.size).collect());
    let bytes = window::bytes_above(&configs, ports, &sizes.collect::<Vec<Vec<u64>>>());
    let layout = layout.with_bars(bytes, reach, &ranges);
    let layout = layout.map_err(|e| (e.to_string(), fewer()))?;
    let (addresses, empty) = slots::assign_with_empty(&configs, ports.count).map_err(|e| {
        let e = VfioError::from(e);
        (e.to_string(), e.hint().unwrap_or_default())
    })?;
    let setups = assign(&addresses, &mut bars, &empty, ports, &layout)?;
    Ok((setups, moved(devices, &before, &decisions)))
}

/// Gives addresses to everything; returns the windows of the empty ports.
fn assign(
    addresses: &[GuestAddress],
    bars: &mut [Bars],
    empty: &[Slot],
    ports: &PortsConfig,
    layout: &Layout,
) -> Result<Vec<PortSetup>, Misfit> {
    let mut occupied: Vec<Bdf> = Vec::new();
    for port in addresses.iter().filter_map(|address| address.in_tree().1) {
        if !occupied.contains(&port) {
            occupied.push(port);
        }
    }
    let empty = empty.iter().map(|slot| Bdf {
        segment: 0,
        bus: 0,
        device: slot.device,
        function: slot.function,
    });
    let mut all: Vec<_> = occupied.into_iter().map(|port| (port, OCCUPIED)).collect();
    let first_empty = all.len();
    all.extend(empty.map(|port| (port, ports.reserve)));
    let functions = addresses.iter().zip(bars).map(|(address, bars)| {
        let (name, port) = address.in_tree();
        TreeFunction { name, port, bars }
    });
    match assign_tree(functions.collect(), &all, &layout.windows()) {
        Ok(mut setups) => Ok(setups.split_off(first_empty)),
        Err(e) => Err((e.to_string(), window::remedy(&e).into())),
    }
}

/// The devices that go to bus 0 because ports leave them no room.
fn moved(devices: &[&DeviceFacts], before: &[PortDecision], now: &[PortDecision]) -> Vec<String> {
    let pairs = devices.iter().zip(before.iter().zip(now));
    let moved = pairs.filter(|(_, (before, now))| before != now);
    moved
        .map(|(facts, (_, now))| format!("{} is {now}", facts.device.bdf))
        .collect()
}

/// The registers of a device's BARs; `None` if sysfs shows what no device has.
fn bars(bars: &[HostBar]) -> Option<Bars> {
    let mut all = [None; BAR_COUNT];
    for bar in bars {
        let kind = match bar.space {
            Space::Io => BarKind::Io,
            Space::Memory32 => BarKind::Memory32 {
                prefetchable: bar.prefetchable,
            },
            Space::Memory64 => BarKind::Memory64 {
                prefetchable: bar.prefetchable,
            },
        };
        *all.get_mut(bar.index)? = Some(Bar {
            kind,
            size: bar.size,
        });
    }
    Bars::new(all).ok()
}
