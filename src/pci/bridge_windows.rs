//! How large the windows of a root port must be for what is behind the port (PCI Express 6.0,
//! 7.5.1.3; PCI-to-PCI Bridge Architecture 1.2, 3.2.5).
//!
//! A bridge has three windows. The window of ports and the first memory window have 16 and 32
//! address bits; only the prefetchable window reaches above 4 GiB. A BAR that is not prefetchable
//! must not lie in the prefetchable window, because a bridge may prefetch there. So each such BAR,
//! also a 64-bit one, lies below 4 GiB.
//!
//! A window begins at a multiple of its largest BAR, and the BARs follow each other by size, the
//! largest first. Sizes are powers of two, so there are no gaps between them.

use std::cmp::Reverse;
use std::fmt;

use crate::addr::Range;
use crate::bar::{BarKind, Bars};
use crate::port_setup::PortSetup;

/// A memory BAR gets pages of its own, so that no mapped page contains registers of another BAR.
pub(crate) const PAGE_SIZE: u64 = 4096;
/// Memory windows begin and end at multiples of 1 MiB (7.5.1.3.8, 7.5.1.3.9).
pub const MEMORY_GRANULE: u64 = 1 << 20;
/// Windows of ports begin and end at multiples of 4 KiB (7.5.1.3.6).
pub const IO_GRANULE: u64 = 1 << 12;

/// One of a bridge's windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Memory below 4 GiB.
    Memory32,
    /// Prefetchable memory, anywhere.
    Prefetchable,
    /// I/O ports.
    Io,
}

impl Window {
    /// The window in which a bridge forwards to a BAR of this kind. A 32-bit BAR cannot lie in the
    /// prefetchable window, which is above 4 GiB.
    pub fn of(kind: BarKind) -> Self {
        match kind {
            BarKind::Io => Self::Io,
            BarKind::Memory64 { prefetchable: true } => Self::Prefetchable,
            BarKind::Memory32 { .. } | BarKind::Memory64 { .. } | BarKind::Rom => Self::Memory32,
        }
    }

    fn granule(self) -> u64 {
        match self {
            Self::Memory32 | Self::Prefetchable => MEMORY_GRANULE,
            Self::Io => IO_GRANULE,
        }
    }

    /// The window of a port at power-on.
    pub fn in_setup(self, setup: &PortSetup) -> Option<Range> {
        match self {
            Self::Memory32 => setup.mem32,
            Self::Prefetchable => setup.pref64,
            Self::Io => setup.io,
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory32 => "memory below 4 GiB",
            Self::Prefetchable => "prefetchable memory",
            Self::Io => "I/O ports",
        })
    }
}

/// The least room that a port keeps in its windows, in bytes: for a device that comes later. A
/// window of 0 bytes is closed unless a BAR needs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserve {
    /// Memory below 4 GiB.
    pub mem32: u64,
    /// Prefetchable memory.
    pub pref64: u64,
    /// I/O ports.
    pub io: u64,
}

impl Reserve {
    fn of(&self, window: Window) -> u64 {
        match window {
            Window::Memory32 => self.mem32,
            Window::Prefetchable => self.pref64,
            Window::Io => self.io,
        }
    }
}

/// Size and alignment of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// A multiple of the window's granule.
    pub size: u64,
    /// A power of two.
    pub align: u64,
}

impl Extent {
    /// The extent of a window for BARs of these sizes, which are powers of two, and for `reserve`
    /// bytes at least; `None` if there is nothing to hold. A BAR as large as the room fits into an
    /// empty window, because the window begins at a multiple of that size.
    pub fn new(window: Window, bars: impl IntoIterator<Item = u64>, reserve: u64) -> Option<Self> {
        let granule = window.granule();
        let (mut size, mut largest) = (0u64, 0);
        for bar in bars {
            let bar = occupied(window, bar);
            size = size.saturating_add(bar);
            largest = largest.max(bar);
        }
        let size = size.max(reserve);
        let natural = match reserve {
            0 => 0,
            reserve => 1 << reserve.ilog2(),
        };
        (size > 0).then(|| Self {
            // A window of such a size fits nowhere.
            size: size.checked_next_multiple_of(granule).unwrap_or(u64::MAX),
            align: granule.max(largest).max(natural),
        })
    }

    /// The lowest range of this extent from `start` on; `None` beyond 64 bits.
    pub fn at_or_after(&self, start: u64) -> Option<Range> {
        let start = start.checked_next_multiple_of(self.align)?;
        start.checked_add(self.size)?;
        Some(Range {
            start,
            size: self.size,
        })
    }
}

/// The bytes that a BAR takes from a window.
pub(crate) fn occupied(window: Window, bar: u64) -> u64 {
    match window {
        Window::Io => bar,
        Window::Memory32 | Window::Prefetchable => bar.max(PAGE_SIZE),
    }
}

/// The sizes of the BARs that lie in a window; ROMs count if `roms` is set.
pub(crate) fn sizes<'a>(
    bars: impl IntoIterator<Item = &'a Bars>,
    window: Window,
    roms: bool,
) -> impl Iterator<Item = u64> {
    bars.into_iter().flat_map(move |bars| {
        let here = bars.iter().filter(move |(_, bar, _)| {
            Window::of(bar.kind) == window && (roms || bar.kind != BarKind::Rom)
        });
        here.map(|(_, bar, _)| bar.size)
    })
}

/// The extent of a port's window for these functions; `None` for a closed window.
pub(crate) fn extent<'a>(
    bars: impl IntoIterator<Item = &'a Bars>,
    reserve: &Reserve,
    window: Window,
    roms: bool,
) -> Option<Extent> {
    Extent::new(window, sizes(bars, window, roms), reserve.of(window))
}

/// The addresses of BARs in a window that begins at `start`, which is aligned for the largest: each
/// BAR by its index in the list of `(size, name)`.
pub(crate) fn pack<T>(window: Window, start: u64, mut bars: Vec<(u64, T)>) -> Vec<(T, u64)> {
    // The sort is stable, so a guest finds the same addresses at every start.
    bars.sort_by_key(|(size, _)| Reverse(*size));
    let mut at = start;
    let address_of = |(size, name)| {
        let address = at;
        at = at.saturating_add(occupied(window, size));
        (name, address)
    };
    bars.into_iter().map(address_of).collect()
}

/// What is behind a port, or is to be, does not fit a window of the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the device needs {} of {window}, and the port has {}",
    size_text(*needs), size_text(*has)
)]
pub struct NoRoom {
    /// The window.
    pub window: Window,
    /// Bytes that the device needs.
    pub needs: u64,
    /// Bytes that the window has.
    pub has: u64,
}

/// The windows that are too small for functions with these BARs behind a port whose windows are as
/// at power-on. ROMs do not count: a device works without an address for its ROM.
pub fn lacks<'a>(
    bars: impl IntoIterator<Item = &'a Bars> + Clone,
    setup: &PortSetup,
) -> Vec<NoRoom> {
    let windows = [Window::Memory32, Window::Prefetchable, Window::Io].into_iter();
    let lack = |window: Window| {
        let need = extent(bars.clone(), &Reserve::default(), window, false)?;
        let here = window.in_setup(setup);
        let fits = here.is_some_and(|here| {
            let found = need.at_or_after(here.start);
            found.is_some_and(|found| here.contains(found.start, found.size))
        });
        (!fits).then(|| NoRoom {
            window,
            needs: need.size,
            has: here.map_or(0, |here| here.size),
        })
    };
    windows.filter_map(lack).collect()
}

/// The bytes of a 64-bit window that surely hold BARs of the root bus with these sizes, and the
/// prefetchable windows of ports: for each port the sizes of its BARs, all of which may be
/// prefetchable, and its reserve. The window must be aligned for the largest of them.
pub fn upper_bound<P>(root: impl IntoIterator<Item = u64>, ports: P) -> u64
where
    P: IntoIterator<Item = (Vec<u64>, Reserve)>,
{
    let window = Window::Prefetchable;
    let root = root.into_iter().filter(|size| *size > 0).map(|size| {
        let size = occupied(window, size.checked_next_power_of_two().unwrap_or(u64::MAX));
        Extent { size, align: size }
    });
    let behind = ports.into_iter().filter_map(|(sizes, reserve)| {
        let sizes = sizes.into_iter().filter(|size| *size > 0);
        let sizes = sizes.map(|size| size.checked_next_power_of_two().unwrap_or(u64::MAX));
        Extent::new(window, sizes, reserve.pref64)
    });
    let mut all: Vec<_> = root.chain(behind).collect();
    all.sort_by_key(|extent| Reverse(extent.align));
    let end = all.iter().try_fold(0, |end: u64, extent| {
        let range = extent.at_or_after(end)?;
        Some(range.end())
    });
    end.unwrap_or(u64::MAX)
}

/// A size with its unit, for messages: `16 MiB`, `4 KiB`.
pub fn size_text(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = units
        .into_iter()
        .find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    match whole {
        Some((shift, unit)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bar::Bar;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn bars(list: &[(BarKind, u64)]) -> Bars {
        let mut all = [None; 6];
        let mut at = 0;
        for &(kind, size) in list {
            all[at] = Some(Bar { kind, size });
            at += if kind.is_64bit() { 2 } else { 1 };
        }
        Bars::new(all).unwrap()
    }

    const FAR: BarKind = BarKind::Memory64 { prefetchable: true };
    const NVME: BarKind = BarKind::Memory64 {
        prefetchable: false,
    };
    const NEAR: BarKind = BarKind::Memory32 { prefetchable: true };

    #[test]
    fn only_64_bit_prefetchable_bars_lie_above() {
        assert_eq!(Window::of(FAR), Window::Prefetchable);
        for kind in [NVME, NEAR, BarKind::Rom] {
            assert_eq!(Window::of(kind), Window::Memory32);
        }
        assert_eq!(Window::of(BarKind::Io), Window::Io);
    }

    #[test]
    fn extents() {
        let of = |bars: &Bars, reserve: &Reserve, window| {
            extent([bars], reserve, window, true).map(|e| (e.size, e.align))
        };
        let none = Reserve::default();
        let nvme = bars(&[(NVME, 0x4000)]);
        assert_eq!(of(&nvme, &none, Window::Memory32), Some((MIB, MIB)));
        assert_eq!(of(&nvme, &none, Window::Prefetchable), None);
        assert_eq!(of(&nvme, &none, Window::Io), None);
        // A GPU with ports and a ROM.
        let gpu = bars(&[
            (NEAR, 16 * MIB),
            (FAR, 256 * MIB),
            (FAR, 32 * MIB),
            (BarKind::Io, 0x80),
        ]);
        let gpu = gpu.with_rom(512 << 10).unwrap();
        assert_eq!(
            of(&gpu, &none, Window::Memory32),
            Some((17 * MIB, 16 * MIB))
        );
        let without = extent([&gpu], &none, Window::Memory32, false);
        assert_eq!(without.map(|e| e.size), Some(16 * MIB));
        assert_eq!(
            of(&gpu, &none, Window::Prefetchable),
            Some((288 * MIB, 256 * MIB))
        );
        assert_eq!(of(&gpu, &none, Window::Io), Some((0x1000, 0x1000)));
        // The room of an empty port, and of a port with a device that needs less or more.
        let reserve = Reserve {
            mem32: 4 * MIB,
            pref64: 3 * GIB,
            io: 0x1000,
        };
        let empty = bars(&[]);
        assert_eq!(of(&empty, &none, Window::Memory32), None);
        assert_eq!(
            of(&empty, &reserve, Window::Memory32),
            Some((4 * MIB, 4 * MIB))
        );
        assert_eq!(
            of(&empty, &reserve, Window::Prefetchable),
            Some((3 * GIB, 2 * GIB))
        );
        assert_eq!(of(&empty, &reserve, Window::Io), Some((0x1000, 0x1000)));
        assert_eq!(
            of(&nvme, &reserve, Window::Memory32),
            Some((4 * MIB, 4 * MIB))
        );
        assert_eq!(
            of(&gpu, &reserve, Window::Memory32),
            Some((17 * MIB, 16 * MIB))
        );
    }

    #[test]
    fn what_comes_later_fits_or_not() {
        let setup = PortSetup {
            secondary: 1,
            subordinate: 1,
            mem32: Some(Range {
                start: 0xc000_0000,
                size: 4 * MIB,
            }),
            pref64: Some(Range {
                start: 1 << 40,
                size: GIB,
            }),
            io: None,
        };
        let nvme = bars(&[(NVME, 0x4000)]);
        assert_eq!(lacks([&nvme], &setup), []);
        assert_eq!(lacks([&nvme; 8], &setup), []);
        let large = bars(&[(FAR, GIB), (NEAR, 4 * MIB)]);
        let large = large.with_rom(MIB).unwrap();
        assert_eq!(lacks([&large], &setup), []);
        let e = lacks([&large, &nvme], &setup)[0];
        assert_eq!(
            e.to_string(),
            "the device needs 5 MiB of memory below 4 GiB, and the port has 4 MiB"
        );
        let e = lacks([&bars(&[(FAR, 2 * GIB)])], &setup)[0];
        assert_eq!(
            e.to_string(),
            "the device needs 2 GiB of prefetchable memory, and the port has 1 GiB"
        );
        let e = lacks([&bars(&[(BarKind::Io, 32)])], &setup)[0];
        assert_eq!(
            e.to_string(),
            "the device needs 4 KiB of I/O ports, and the port has 0 bytes"
        );
        // A window of the right size that begins at the wrong multiple.
        let odd = PortSetup {
            mem32: Some(Range {
                start: 0xc010_0000,
                size: 4 * MIB,
            }),
            ..setup
        };
        let four = bars(&[(NEAR, 4 * MIB)]);
        assert!(lacks([&four], &setup).is_empty());
        assert_eq!(lacks([&four], &odd).len(), 1);
        let both = lacks([&bars(&[(FAR, 2 * GIB), (NEAR, 8 * MIB)])], &setup);
        let windows: Vec<_> = both.iter().map(|lack| lack.window).collect();
        assert_eq!(windows, [Window::Memory32, Window::Prefetchable]);
    }

    #[test]
    fn sizes_with_units() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (100, "100 bytes"),
            (0x1000, "4 KiB"),
            (3 * MIB, "3 MiB"),
            (1025 * MIB, "1025 MiB"),
            (64 * GIB, "64 GiB"),
        ] {
            assert_eq!(size_text(bytes), text);
        }
    }
}
