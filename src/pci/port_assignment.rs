//! Gives addresses to the BARs of a device that came behind a root port while the guest ran, as
//! firmware does at the next reset: the windows of the port stay as they are.

use crate::bar::{BarKind, Bars};
use crate::bridge_windows::{NoRoom, Reserve, Window, extent, lacks, pack};
use crate::port_setup::PortSetup;

/// Writes an address into each BAR of these functions, inside the windows of their port. Expansion
/// ROMs get addresses if all of them fit.
///
/// # Errors
/// The windows that are too small. No register has changed then.
pub fn assign_in_port(functions: &mut [Bars], setup: &PortSetup) -> Result<(), Vec<NoRoom>> {
    let lacks = lacks(&*functions, setup);
    if !lacks.is_empty() {
        return Err(lacks);
    }
    for window in [Window::Memory32, Window::Prefetchable, Window::Io] {
        let Some(here) = window.in_setup(setup) else {
            continue;
        };
        let start = |roms| {
            let need = extent(&*functions, &Reserve::default(), window, roms)?;
            let found = need.at_or_after(here.start)?;
            here.contains(found.start, found.size)
                .then_some(found.start)
        };
        let (start, roms) = match (start(true), start(false)) {
            (Some(start), _) => (start, true),
            (None, Some(start)) => (start, false),
            (None, None) => continue,
        };
        let numbered = functions.iter().enumerate();
        let bars = numbered.flat_map(|(function, bars)| {
            let here = bars.iter().filter(move |(_, bar, _)| {
                Window::of(bar.kind) == window && (roms || bar.kind != BarKind::Rom)
            });
            here.map(move |(index, bar, _)| (bar.size, (function, index)))
        });
        for ((function, index), address) in pack(window, start, bars.collect()) {
            if let Some(bars) = functions.get_mut(function) {
                bars.set_address(index, address);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Range;
    use crate::bar::Bar;

    const MIB: u64 = 1 << 20;

    fn bars(list: &[(BarKind, u64)]) -> Bars {
        let mut all = [None; 6];
        for (at, &(kind, size)) in list.iter().enumerate() {
            all[at * 2] = Some(Bar { kind, size });
        }
        Bars::new(all).unwrap()
    }

    fn addresses(bars: &Bars) -> Vec<u64> {
        bars.iter().map(|(_, _, address)| address).collect()
    }

    fn setup(mem32: u64, pref64: u64) -> PortSetup {
        let range = |start, size| Some(Range { start, size }).filter(|range| range.size > 0);
        PortSetup {
            mem32: range(0xc030_0000, mem32),
            pref64: range(1 << 38, pref64),
            ..PortSetup::default()
        }
    }

    const NEAR: BarKind = BarKind::Memory32 {
        prefetchable: false,
    };
    const FAR: BarKind = BarKind::Memory64 { prefetchable: true };

    #[test]
    fn bars_of_two_functions_lie_in_the_windows() {
        let first = bars(&[(NEAR, 0x4000), (FAR, 32 * MIB)]).with_rom(0x2000);
        let mut both = [first.unwrap(), bars(&[(NEAR, MIB), (FAR, 64 * MIB)])];
        assign_in_port(&mut both, &setup(4 * MIB, 128 * MIB)).unwrap();
        let far = 1 << 38;
        assert_eq!(
            addresses(&both[0]),
            [0xc040_0000, far + 64 * MIB, 0xc040_4000]
        );
        assert_eq!(addresses(&both[1]), [0xc030_0000, far]);
    }

    #[test]
    fn a_rom_without_room_has_no_address() {
        let mut one = [bars(&[(NEAR, MIB)]).with_rom(0x2000).unwrap()];
        assign_in_port(&mut one, &setup(MIB, 0)).unwrap();
        assert_eq!(addresses(&one[0]), [0xc030_0000, 0]);
    }

    #[test]
    fn what_does_not_fit_has_no_addresses() {
        let mut one = [bars(&[(NEAR, MIB), (FAR, 64 * MIB)])];
        let e = assign_in_port(&mut one, &setup(4 * MIB, 32 * MIB)).unwrap_err();
        let e: Vec<_> = e.iter().map(|e| (e.window, e.needs, e.has)).collect();
        assert_eq!(e, [(Window::Prefetchable, 64 * MIB, 32 * MIB)]);
        assert_eq!(addresses(&one[0]), [0, 0]);
    }
}
