//! Which endpoints have no root port although `port=auto` gives them one: a bridge has only the
//! 32-bit hole for BARs that are not prefetchable, and on bus 0 a 64-bit BAR lies above it.
//!
//! As few as possible make room, and the largest of those that suffice: many small disks keep their
//! ports beside one device with a large BAR.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use pci::Bdf;
use pci::addr::Range;
use pci::bar::{BarKind, Bars};
use pci::bar_assignment::{AssignError, Windows};
use pci::bridge_windows::{IO_GRANULE, MEMORY_GRANULE, Window};
use pci::tree_assignment::{TreeFunction, assign_tree};

use crate::config::device::{DeviceConfig, PortChoice};
use crate::config::port::{PortDecision, Why, apply};
use crate::config::ports::{OCCUPIED, PortsConfig};
use crate::config::slots::{self, GuestAddress};

/// Puts devices for which `auto` has chosen a port on bus 0, until the windows of all ports fit.
/// `bars` are the devices', and `empty` are the ports without one. The windows above 4 GiB are made
/// as large as they must be; those below, and those of I/O ports, are not. Where the user's own
/// choices do not fit, no device makes room, and the assignment of addresses is an error later.
pub fn fit(
    configs: &mut [DeviceConfig],
    decisions: &mut [PortDecision],
    bars: &[Bars],
    windows: &Windows,
    empty: &PortsConfig,
) {
    let fit = Fit {
        configs,
        decisions,
        bars,
        windows: Windows {
            mmio64: Range {
                start: 1 << 62,
                size: 1 << 62,
            },
            ..*windows
        },
        empty,
    };
    if let Some(moves) = fit.moves() {
        for (device, why) in moves {
            decisions[device] = PortDecision {
                behind_port: false,
                why,
            };
        }
        apply(configs, decisions);
    }
}

/// Devices of `--vfio`, by their indexes.
type Set = BTreeSet<usize>;

/// Why something does not fit.
enum Failure {
    /// A BAR or a window.
    Assign(AssignError),
    /// Bus 0 has no number for a device.
    Slots,
}

struct Fit<'a> {
    configs: &'a [DeviceConfig],
    decisions: &'a [PortDecision],
    bars: &'a [Bars],
    windows: Windows,
    empty: &'a PortsConfig,
}

impl Fit<'_> {
    /// The devices that go to bus 0, and why; `None` if that does not help.
    fn moves(&self) -> Option<Vec<(usize, Why)>> {
        let (mut left, mut moved) = (self.candidates(), Vec::new());
        let mut at_bus_0 = Set::new();
        while let Some(failure) = self.failure(&at_bus_0) {
            let Failure::Assign(failure) = failure else {
                return None;
            };
            let index = self.choose(&left, &at_bus_0, window_of(&failure)?)?;
            let chosen = left.remove(index);
            let why = why(failure, self.port_of(&chosen, &at_bus_0))?;
            at_bus_0.extend(&chosen);
            moved.push((chosen, why));
        }
        // What has moved before the last may fit after all.
        moved.retain(|(devices, _)| {
            let without: Set = at_bus_0.difference(devices).copied().collect();
            let needed = self.failure(&without).is_some();
            if !needed {
                at_bus_0 = without;
            }
            needed
        });
        let each = moved.into_iter();
        Some(
            each.flat_map(|(set, why)| set.into_iter().map(move |device| (device, why)))
                .collect(),
        )
    }

    /// The devices that may make room. Those behind one port do so together.
    fn candidates(&self) -> Vec<Set> {
        let mut found: Vec<(Option<Bdf>, Set)> = Vec::new();
        let addresses = slots::assign(self.configs).unwrap_or_default();
        for (device, (decision, address)) in self.decisions.iter().zip(addresses).enumerate() {
            if decision.why != Why::Endpoint {
                continue;
            }
            let (_, port) = address.in_tree();
            match found.iter_mut().find(|(other, _)| *other == port) {
                Some((_, set)) => drop(set.insert(device)),
                None => found.push((port, Set::from([device]))),
            }
        }
        found.into_iter().map(|(_, set)| set).collect()
    }

    /// Of these sets the largest whose move suffices. Where none does, the largest.
    fn choose(&self, sets: &[Set], at_bus_0: &Set, window: Window) -> Option<usize> {
        let mut order: Vec<_> = (0..sets.len()).collect();
        // Of several that are alike, the last.
        order.sort_by_key(|index| (Reverse(self.frees(&sets[*index], window)), Reverse(*index)));
        let mut tried = BTreeSet::new();
        let suffices = order.iter().find(|index| {
            let set = &sets[**index];
            tried.insert(self.sizes(set))
                && self
                    .failure(&at_bus_0.union(set).copied().collect())
                    .is_none()
        });
        suffices.or(order.first()).copied()
    }

    /// What does not fit with these devices on bus 0.
    fn failure(&self, at_bus_0: &Set) -> Option<Failure> {
        match self.addresses(at_bus_0) {
            Some(addresses) => {
                let failure = too_large(&addresses, self.bars, &self.windows, self.empty);
                failure.map(Failure::Assign)
            }
            None => Some(Failure::Slots),
        }
    }

    /// The addresses with these devices on bus 0.
    fn addresses(&self, at_bus_0: &Set) -> Option<Vec<GuestAddress>> {
        let mut configs = self.configs.to_vec();
        for device in at_bus_0 {
            configs.get_mut(*device)?.port = PortChoice::Off;
        }
        slots::assign(&configs).ok()
    }

    /// The port above a set.
    fn port_of(&self, set: &Set, at_bus_0: &Set) -> Option<Bdf> {
        let addresses = self.addresses(at_bus_0)?;
        addresses.get(*set.first()?)?.in_tree().1
    }

    fn bars_of<'a>(&'a self, set: &'a Set) -> impl Iterator<Item = (BarKind, u64)> + 'a {
        let bars = set.iter().filter_map(|device| self.bars.get(*device));
        let bars = bars.flat_map(|bars| bars.iter().map(|(_, bar, _)| (bar.kind, bar.size)));
        bars.filter(|(kind, _)| *kind != BarKind::Rom)
    }

    /// The sizes of a set's BARs, by window and by whether they stay there on bus 0.
    fn sizes(&self, set: &Set) -> Vec<(u8, bool, u64)> {
        let bars = self.bars_of(set);
        let sizes = bars.map(|(kind, size)| (Window::of(kind) as u8, stays(kind), size));
        let mut sizes: Vec<_> = sizes.collect();
        sizes.sort_unstable();
        sizes
    }

    /// The bytes of a window that are free if a set moves.
    fn frees(&self, set: &Set, window: Window) -> u64 {
        let here = || {
            self.bars_of(set)
                .filter(|(kind, _)| Window::of(*kind) == window)
        };
        let sum = |sizes: &mut dyn Iterator<Item = u64>| sizes.fold(0, u64::saturating_add);
        let all = sum(&mut here().map(|(_, size)| size));
        let stay = sum(&mut here()
            .filter(|(kind, _)| stays(*kind))
            .map(|(_, size)| size));
        let (granule, least) = match window {
            Window::Memory32 => (MEMORY_GRANULE, OCCUPIED.mem32),
            Window::Prefetchable => (MEMORY_GRANULE, OCCUPIED.pref64),
            Window::Io => (IO_GRANULE, OCCUPIED.io),
        };
        let whole = all.checked_next_multiple_of(granule).unwrap_or(u64::MAX);
        whole.max(least).saturating_sub(stay)
    }
}

/// Whether a BAR takes from the same addresses on bus 0 as behind a port.
fn stays(kind: BarKind) -> bool {
    !matches!(kind, BarKind::Memory64 { .. })
}

/// What there is too little of.
fn window_of(failure: &AssignError) -> Option<Window> {
    match failure {
        AssignError::Window { window, .. } => Some(*window),
        AssignError::Bar { kind, .. } => Some(Window::of(*kind)),
        AssignError::Buses => None,
    }
}

/// Why the device behind `own` goes to bus 0.
fn why(failure: AssignError, own: Option<Bdf>) -> Option<Why> {
    match failure {
        AssignError::Window {
            port,
            window,
            needs,
            has,
        } if own == Some(port) => Some(Why::NoRoom { window, needs, has }),
        AssignError::Window { window, needs, .. } => Some(Why::MakesRoom { window, needs }),
        AssignError::Bar { kind, size, .. } => Some(Why::MakesRoom {
            window: Window::of(kind),
            needs: size,
        }),
        AssignError::Buses => None,
    }
}

/// What does not fit; `None` if all BARs and windows fit.
fn too_large(
    addresses: &[GuestAddress],
    bars: &[Bars],
    windows: &Windows,
    empty: &PortsConfig,
) -> Option<AssignError> {
    let mut bars = bars.to_vec();
    let mut ports: Vec<Bdf> = Vec::new();
    for (_, port) in addresses.iter().map(GuestAddress::in_tree) {
        ports.extend(port.filter(|port| !ports.contains(port)));
    }
    ports.sort();
    // Any names that no other port has.
    let without_device = (0..empty.count).map(|number| Bdf {
        segment: 0,
        bus: u8::MAX,
        device: number >> 3,
        function: number & 7,
    });
    let with_device = ports.iter().map(|port| (*port, OCCUPIED));
    let ports: Vec<_> = with_device
        .chain(without_device.map(|port| (port, empty.reserve)))
        .collect();
    let functions = addresses.iter().zip(&mut bars).map(|(address, bars)| {
        let (name, port) = address.in_tree();
        TreeFunction { name, port, bars }
    });
    assign_tree(functions.collect(), &ports, windows).err()
}

#[cfg(test)]
mod tests;
