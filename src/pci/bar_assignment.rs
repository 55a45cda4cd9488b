//! Gives BARs and the windows of root ports their first addresses, as firmware does before it
//! starts an operating system (PCI Firmware 3.3, 3.5; PCI Express 6.0, 7.5.1.2.1 for natural
//! alignment, 7.5.1.3 for windows).
//!
//! The largest gets its address first. A BAR's size is a power of two and its alignment natural, so
//! BARs alone leave a hole only at the start of a window. A port's window may be larger than its
//! alignment; what is aligned to less fills the hole after it.

use std::cmp::Reverse;

use vm_allocator::{AddressAllocator, AllocPolicy};

use crate::Bdf;
use crate::addr::Range;
use crate::bar::{BarKind, Bars};
use crate::bridge_windows::{
    Extent, PAGE_SIZE, Reserve, Window, extent, occupied, pack, size_text,
};
use crate::port_setup::PortSetup;

/// The address ranges for BARs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Memory addresses below 4 GiB.
    pub mmio32: Range,
    /// Memory addresses for 64-bit BARs.
    pub mmio64: Range,
    /// I/O ports.
    pub io: Range,
}

/// The functions behind a root port, and the port's room for others.
pub struct BehindPort<'a> {
    /// The port, as named in messages.
    pub port: Bdf,
    /// The functions, with their names and BARs.
    pub functions: Vec<(Bdf, &'a mut Bars)>,
    /// The least room in the windows.
    pub reserve: Reserve,
}

/// What does not fit into its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssignError {
    /// A BAR of a function on the root bus.
    #[error("BAR {bar} of {function} ({kind}, {size:#x} bytes) does not fit into its window")]
    Bar {
        /// The function, as named in the call.
        function: Bdf,
        /// Index of the BAR.
        bar: usize,
        /// The kind of the BAR.
        kind: BarKind,
        /// Its size.
        size: u64,
    },
    /// A window of a root port.
    #[error(
        "the root port {port} needs {} of {window}, and {} are left for it",
        size_text(*needs), size_text(*has)
    )]
    Window {
        /// The port, as named in the call.
        port: Bdf,
        /// Which of its windows.
        window: Window,
        /// Bytes that it needs.
        needs: u64,
        /// The most bytes that it can have.
        has: u64,
    },
    /// More ports than there are bus numbers.
    #[error("a root port needs a bus number of its own, and there are 255 beside the root's")]
    Buses,
}

/// Who gets an address.
#[derive(Clone, Copy)]
enum Owner {
    /// A BAR of a function on the root bus.
    Bar {
        /// Index in the list of functions, and its name.
        function: usize,
        name: Bdf,
        bar: usize,
        kind: BarKind,
        size: u64,
    },
    /// A window of a port.
    Window {
        /// Index in the list of ports, and its name.
        port: usize,
        name: Bdf,
        window: Window,
    },
}

/// A BAR or a window that needs an address.
#[derive(Clone, Copy)]
struct Wish {
    owner: Owner,
    extent: Extent,
}

impl Wish {
    /// What has more gets its address first.
    fn rank(&self) -> u64 {
        match self.owner {
            Owner::Bar { size, .. } => size,
            Owner::Window { .. } => self.extent.align,
        }
    }

    fn error(&self, left: &Addresses) -> AssignError {
        match self.owner {
            Owner::Bar {
                name,
                bar,
                kind,
                size,
                ..
            } => AssignError::Bar {
                function: name,
                bar,
                kind,
                size,
            },
            Owner::Window { name, window, .. } => AssignError::Window {
                port: name,
                window,
                needs: self.extent.size,
                has: left.most(window),
            },
        }
    }
}

/// Writes an address into the registers of every BAR of the functions on the root bus. A 64-bit BAR
/// gets an address from the 64-bit window or, when that window is full, from the 32-bit window; a
/// 32-bit BAR from the 32-bit window; a port BAR from the ports. Expansion ROMs come last. A ROM
/// that does not fit stays without an address, and the guest may assign one.
///
/// # Errors
/// A BAR does not fit. No register has changed then.
pub fn assign(functions: &mut [(Bdf, &mut Bars)], windows: &Windows) -> Result<(), AssignError> {
    assign_with_ports(functions, &mut [], windows).map(|_| ())
}

/// As [`assign`], with root ports: gives each port its windows, and the BARs behind it addresses
/// inside. The ports have bus numbers from 1 on, in their order. A prefetchable window lies in the
/// 64-bit window or, when that is full, below 4 GiB. ROMs behind ports get addresses if all of them
/// fit.
///
/// # Errors
/// A BAR or a window does not fit. No register has changed then.
pub fn assign_with_ports(
    functions: &mut [(Bdf, &mut Bars)],
    ports: &mut [BehindPort<'_>],
    windows: &Windows,
) -> Result<Vec<PortSetup>, AssignError> {
    let found = find_addresses(functions, ports, windows, true);
    let (found, roms) = match found {
        Ok(found) => (found, true),
        Err(_) => (find_addresses(functions, ports, windows, false)?, false),
    };
    let mut setups = Vec::with_capacity(ports.len());
    for index in 0..ports.len() {
        let bus = u8::try_from(index + 1).map_err(|_| AssignError::Buses)?;
        setups.push(PortSetup {
            secondary: bus,
            subordinate: bus,
            ..PortSetup::default()
        });
    }
    for (wish, address) in found {
        match wish.owner {
            Owner::Bar { function, bar, .. } => {
                if let Some((_, bars)) = functions.get_mut(function) {
                    bars.set_address(bar, address);
                }
            }
            Owner::Window { port, window, .. } => {
                let range = Range {
                    start: address,
                    size: wish.extent.size,
                };
                if let (Some(port), Some(setup)) = (ports.get_mut(port), setups.get_mut(port)) {
                    match window {
                        Window::Memory32 => setup.mem32 = Some(range),
                        Window::Prefetchable => setup.pref64 = Some(range),
                        Window::Io => setup.io = Some(range),
                    }
                    assign_behind(port, window, address, roms);
                }
            }
        }
    }
    Ok(setups)
}

/// Writes addresses into the BARs behind a port that lie in this window, which begins at `start`.
fn assign_behind(port: &mut BehindPort<'_>, window: Window, start: u64, roms: bool) {
    let functions = port.functions.iter().enumerate();
    let here = functions.flat_map(|(function, (_, bars))| {
        let here = bars.iter().filter(|(_, bar, _)| {
            Window::of(bar.kind) == window && (roms || bar.kind != BarKind::Rom)
        });
        let here = here.map(|(index, bar, _)| (bar.size, (function, index)));
        here.collect::<Vec<_>>()
    });
    for ((function, index), address) in pack(window, start, here.collect()) {
        if let Some((_, bars)) = port.functions.get_mut(function) {
            bars.set_address(index, address);
        }
    }
}

/// Finds an address for everybody. ROMs behind ports take part if `roms_behind` is set.
fn find_addresses(
    functions: &[(Bdf, &mut Bars)],
    ports: &[BehindPort<'_>],
    windows: &Windows,
    roms_behind: bool,
) -> Result<Vec<(Wish, u64)>, AssignError> {
    let mut left = Addresses::new(windows);
    let mut wishes: Vec<_> = on_root(functions)
        .chain(of_ports(ports, roms_behind))
        .collect();
    // The sort is stable: BARs of one size keep the order of their functions, so a guest finds the
    // same addresses at every start.
    wishes.sort_by_key(|wish| Reverse(wish.rank()));

    let (mut all, mut late, mut roms) = (Vec::with_capacity(wishes.len()), vec![], vec![]);
    for wish in wishes {
        let found = match wish.owner {
            Owner::Bar { kind, .. } => match kind {
                BarKind::Io => left.io.take(wish.extent),
                BarKind::Memory32 { .. } => left.mmio32.take(wish.extent),
                BarKind::Rom => {
                    roms.push(wish);
                    continue;
                }
                BarKind::Memory64 { .. } => match left.mmio64.take(wish.extent) {
                    None => {
                        // What needs a 32-bit address comes first.
                        late.push(wish);
                        continue;
                    }
                    found => found,
                },
            },
            Owner::Window { window, .. } => match window {
                Window::Io => left.io.take(wish.extent),
                Window::Memory32 => left.mmio32.take(wish.extent),
                Window::Prefetchable => match left.mmio64.take(wish.extent) {
                    None => {
                        late.push(wish);
                        continue;
                    }
                    found => found,
                },
            },
        };
        all.push((wish, found.ok_or_else(|| wish.error(&left))?));
    }
    for wish in late {
        let found = left.mmio32.take(wish.extent);
        all.push((wish, found.ok_or_else(|| wish.error(&left))?));
    }
    for wish in roms {
        if let Some(address) = left.mmio32.take(wish.extent) {
            all.push((wish, address));
        }
    }
    Ok(all)
}

/// The BARs of the functions on the root bus.
fn on_root(functions: &[(Bdf, &mut Bars)]) -> impl Iterator<Item = Wish> {
    let numbered = functions.iter().enumerate();
    numbered.flat_map(|(function, (name, bars))| {
        bars.iter().map(move |(bar, b, _)| {
            let size = occupied(Window::of(b.kind), b.size);
            Wish {
                owner: Owner::Bar {
                    function,
                    name: *name,
                    bar,
                    kind: b.kind,
                    size: b.size,
                },
                extent: Extent { size, align: size },
            }
        })
    })
}

/// The windows of the ports.
fn of_ports(ports: &[BehindPort<'_>], roms: bool) -> impl Iterator<Item = Wish> {
    let numbered = ports.iter().enumerate();
    numbered.flat_map(move |(port, behind)| {
        [Window::Memory32, Window::Prefetchable, Window::Io]
            .into_iter()
            .filter_map(move |window| {
                let bars = behind.functions.iter().map(|(_, bars)| &**bars);
                Some(Wish {
                    owner: Owner::Window {
                        port,
                        name: behind.port,
                        window,
                    },
                    extent: extent(bars, &behind.reserve, window, roms)?,
                })
            })
    })
}

/// The addresses that are still free.
struct Addresses {
    mmio32: Free,
    mmio64: Free,
    io: Free,
}

impl Addresses {
    fn new(windows: &Windows) -> Self {
        Self {
            mmio32: Free::new(windows.mmio32),
            mmio64: Free::new(windows.mmio64),
            io: Free::new(windows.io),
        }
    }

    /// The bytes that are left for a port's window.
    fn most(&self, window: Window) -> u64 {
        match window {
            Window::Memory32 => self.mmio32.left,
            Window::Prefetchable => self.mmio32.left.max(self.mmio64.left),
            Window::Io => self.io.left,
        }
    }
}

/// The free addresses of a window; no allocator for an empty window.
struct Free {
    allocator: Option<AddressAllocator>,
    left: u64,
}

impl Free {
    fn new(range: Range) -> Self {
        // Address 0 means "not assigned", so no BAR gets it.
        let start = range.start.max(PAGE_SIZE);
        let size = range
            .start
            .checked_add(range.size)
            .and_then(|end| end.checked_sub(start));
        Self {
            allocator: size.and_then(|size| AddressAllocator::new(start, size).ok()),
            left: size.unwrap_or(0),
        }
    }

    fn take(&mut self, extent: Extent) -> Option<u64> {
        let allocator = self.allocator.as_mut()?;
        let range = allocator.allocate(extent.size, extent.align, AllocPolicy::FirstMatch);
        let start = range.ok()?.start();
        self.left = self.left.saturating_sub(extent.size);
        Some(start)
    }
}

#[cfg(test)]
mod tests;
