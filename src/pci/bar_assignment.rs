//! Gives BARs their first addresses, as firmware does before it starts an operating system
//! (PCI Firmware 3.3, 3.5; PCI Express 6.0, 7.5.1.2.1 for natural alignment).
//!
//! The largest BAR gets its address first. Sizes are powers of two and alignment is natural, so a
//! hole can arise only at the start of a window.

use std::cmp::Reverse;

use vm_allocator::{AddressAllocator, AllocPolicy};

use crate::Bdf;
use crate::addr::Range;
use crate::bar::{BarKind, Bars};

/// A memory BAR gets pages of its own, so that no mapped page contains registers of another BAR.
const PAGE_SIZE: u64 = 4096;

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

/// A BAR that does not fit into its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("BAR {bar} of {function} ({kind}, {size:#x} bytes) does not fit into its window")]
pub struct AssignError {
    /// The function, as named in the call.
    pub function: Bdf,
    /// Index of the BAR.
    pub bar: usize,
    /// The kind of the BAR.
    pub kind: BarKind,
    /// Its size.
    pub size: u64,
}

/// A BAR that needs an address.
#[derive(Clone, Copy)]
struct Wish {
    /// Index in the list of functions, and its name.
    function: usize,
    name: Bdf,
    bar: usize,
    kind: BarKind,
    size: u64,
}

/// Writes an address into the registers of every BAR. A 64-bit BAR gets an address from the 64-bit
/// window or, when that window is full, from the 32-bit window; a 32-bit BAR from the 32-bit
/// window; a port BAR from the ports. Expansion ROMs come last. A ROM that does not fit stays
/// without an address, and the guest may assign one.
///
/// # Errors
/// A BAR does not fit. No register has changed then.
pub fn assign(functions: &mut [(Bdf, &mut Bars)], windows: &Windows) -> Result<(), AssignError> {
    let mut mmio32 = Window::new(windows.mmio32);
    let mut mmio64 = Window::new(windows.mmio64);
    let mut io = Window::new(windows.io);

    let mut wishes: Vec<_> = functions
        .iter()
        .enumerate()
        .flat_map(|(function, (name, bars))| {
            bars.iter().map(move |(bar, b, _)| Wish {
                function,
                name: *name,
                bar,
                kind: b.kind,
                size: b.size,
            })
        })
        .collect();
    // The sort is stable: BARs of one size keep the order of their functions, so a guest finds the
    // same addresses at every start.
    wishes.sort_by_key(|wish| Reverse(wish.size));

    let mut addresses = Vec::with_capacity(wishes.len());
    let mut late = Vec::new();
    let mut roms = Vec::new();
    for wish in wishes {
        let address = match wish.kind {
            BarKind::Io => io.take(wish.size),
            BarKind::Memory32 { .. } => mmio32.take_pages(wish.size),
            BarKind::Rom => {
                roms.push(wish);
                continue;
            }
            BarKind::Memory64 { .. } => match mmio64.take_pages(wish.size) {
                Some(address) => Some(address),
                None => {
                    // BARs that need a 32-bit address come first.
                    late.push(wish);
                    continue;
                }
            },
        };
        addresses.push((wish, address));
    }
    for wish in late {
        addresses.push((wish, mmio32.take_pages(wish.size)));
    }

    let mut assigned = Vec::with_capacity(addresses.len());
    for (wish, address) in addresses {
        match address {
            Some(address) => assigned.push((wish, address)),
            None => {
                return Err(AssignError {
                    function: wish.name,
                    bar: wish.bar,
                    kind: wish.kind,
                    size: wish.size,
                });
            }
        }
    }
    for wish in roms {
        if let Some(address) = mmio32.take_pages(wish.size) {
            assigned.push((wish, address));
        }
    }
    for (wish, address) in assigned {
        if let Some((_, bars)) = functions.get_mut(wish.function) {
            bars.set_address(wish.bar, address);
        }
    }
    Ok(())
}

/// The allocator of a window; `None` for an empty window.
struct Window(Option<AddressAllocator>);

impl Window {
    fn new(range: Range) -> Self {
        // Address 0 means "not assigned", so no BAR gets it.
        let start = range.start.max(PAGE_SIZE);
        let size = range
            .start
            .checked_add(range.size)
            .and_then(|end| end.checked_sub(start));
        Self(size.and_then(|size| AddressAllocator::new(start, size).ok()))
    }

    fn take(&mut self, size: u64) -> Option<u64> {
        let allocator = self.0.as_mut()?;
        let range = allocator.allocate(size, size, AllocPolicy::FirstMatch);
        range.ok().map(|range| range.start())
    }

    fn take_pages(&mut self, size: u64) -> Option<u64> {
        self.take(size.max(PAGE_SIZE))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::bar::Bar;
    use super::super::bar::tests::any_bars;
    use super::super::rom::ROM;
    use super::*;

    const NOWHERE: Bdf = Bdf {
        segment: 0,
        bus: 0,
        device: 0,
        function: 0,
    };

    const WINDOWS: Windows = Windows {
        mmio32: Range {
            start: 0xc000_0000,
            size: 0x2000_0000,
        },
        mmio64: Range {
            start: 64 << 30,
            size: 64 << 30,
        },
        io: Range {
            start: 0x1000,
            size: 0xf000,
        },
    };

    fn bdf(device: usize) -> Bdf {
        Bdf {
            device: device as u8,
            ..NOWHERE
        }
    }

    fn one(kind: BarKind, size: u64) -> Bars {
        Bars::new([Some(Bar { kind, size }), None, None, None, None, None]).unwrap()
    }

    #[test]
    fn windows_by_kind() {
        let mut small = one(
            BarKind::Memory64 {
                prefetchable: false,
            },
            0x10,
        );
        let mut large = one(BarKind::Memory64 { prefetchable: true }, 1 << 30);
        let mut low = one(BarKind::Memory32 { prefetchable: true }, 0x2000);
        let mut port = one(BarKind::Io, 0x20);
        let mut all = [&mut small, &mut large, &mut low, &mut port].map(|b| (NOWHERE, b));
        assign(&mut all, &WINDOWS).unwrap();
        assert_eq!(large.address(0), Some(64 << 30));
        assert_eq!(small.address(0), Some(65 << 30));
        assert_eq!(low.address(0), Some(0xc000_0000));
        assert_eq!(port.address(0), Some(0x1000));
    }

    #[test]
    fn falls_back_below_4_gib_after_those_that_must_be_there() {
        let windows = Windows {
            mmio64: Range { start: 0, size: 0 },
            ..WINDOWS
        };
        let mut wide = one(BarKind::Memory64 { prefetchable: true }, 256 << 20);
        let mut narrow = one(BarKind::Memory32 { prefetchable: true }, 256 << 20);
        assign(
            &mut [(NOWHERE, &mut wide), (NOWHERE, &mut narrow)],
            &windows,
        )
        .unwrap();
        assert_eq!(narrow.address(0), Some(0xc000_0000));
        assert_eq!(wide.address(0), Some(0xd000_0000));
    }

    #[test]
    fn roms_come_last_and_may_be_left_out() {
        let kind = BarKind::Memory32 {
            prefetchable: false,
        };
        let mut bars = one(kind, 0x1000).with_rom(1 << 24).unwrap();
        assign(&mut [(NOWHERE, &mut bars)], &WINDOWS).unwrap();
        assert_eq!(bars.address(0), Some(0xc000_0000));
        assert_eq!(bars.address(ROM), Some(0xc100_0000));
        assert!(!bars.is_enabled(ROM));
        let mut bars = one(kind, 1 << 28).with_rom(1 << 24).unwrap();
        let mut other = one(kind, 1 << 28);
        assign(&mut [(bdf(1), &mut bars), (bdf(2), &mut other)], &WINDOWS).unwrap();
        assert_eq!(other.address(0), Some(0xd000_0000));
        assert_eq!(bars.address(ROM), Some(0));
    }

    #[test]
    fn names_what_does_not_fit_and_changes_nothing() {
        let mut fits = one(BarKind::Io, 0x20);
        let kind = BarKind::Memory32 {
            prefetchable: false,
        };
        let mut huge = one(kind, 1 << 30);
        let all = &mut [(bdf(1), &mut fits), (bdf(2), &mut huge)];
        let error = assign(all, &WINDOWS).unwrap_err();
        assert_eq!((error.function, error.bar), (bdf(2), 0));
        assert_eq!(
            error.to_string(),
            "BAR 0 of 0000:00:02.0 (32-bit memory, 0x40000000 bytes) does not fit into its window"
        );
        assert_eq!(fits.address(0), Some(0));
    }

    proptest! {
        #[test]
        fn disjoint_aligned_and_inside(
            mut functions in prop::collection::vec(any_bars(), 0..12),
            start32 in 0u64..0x1000, pages32 in 0u64..0x80000,
            start64 in 0u64..1 << 40, size64 in 0u64..1 << 38,
            start_io in 0u64..0x8000, size_io in 0u64..0x8000,
        ) {
            let windows = Windows {
                mmio32: Range { start: start32 * 0x1000, size: pages32 * 0x1000 },
                mmio64: Range { start: start64, size: size64 },
                io: Range { start: start_io, size: size_io },
            };
            // Removes functions until the rest fits; an assignment that fails must change nothing.
            loop {
                let numbered = functions.iter_mut().enumerate();
                let mut all: Vec<_> = numbered.map(|(i, b)| (bdf(i), b)).collect();
                if assign(&mut all, &windows).is_ok() {
                    break;
                }
                let unchanged = |bars: &Bars| bars.iter().all(|(_, _, address)| address == 0);
                prop_assert!(functions.iter().all(unchanged));
                functions.pop();
            }
            let mut ports = Vec::new();
            let mut memory = Vec::new();
            for bars in &functions {
                for (_, bar, address) in bars.iter() {
                    if bar.kind == BarKind::Rom && address == 0 {
                        continue;
                    }
                    prop_assert_eq!(address % bar.size, 0);
                    prop_assert!(bar.can_decode_at(address));
                    if bar.kind.is_io() {
                        prop_assert!(windows.io.contains(address, bar.size));
                        ports.push((address, address + bar.size));
                    } else {
                        let size = bar.size.max(PAGE_SIZE);
                        prop_assert_eq!(address % PAGE_SIZE, 0);
                        let high = bar.kind.is_64bit() && windows.mmio64.contains(address, size);
                        prop_assert!(high || windows.mmio32.contains(address, size));
                        memory.push((address, address + size));
                    }
                }
            }
            // The two memory windows are free to overlap in this test; only ours do not.
            let (low, high) = (windows.mmio32, windows.mmio64);
            if low.end() <= high.start || high.end() <= low.start {
                memory.sort_unstable();
                prop_assert!(memory.windows(2).all(|w| w[0].1 <= w[1].0));
            }
            ports.sort_unstable();
            prop_assert!(ports.windows(2).all(|w| w[0].1 <= w[1].0));
        }
    }
}
