use proptest::prelude::*;

use super::*;
use crate::bar::Bar;
use crate::bar::tests::any_bars;
use crate::rom::ROM;

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
    assert!(matches!(error, AssignError::Bar { function, bar: 0, .. } if function == bdf(2)));
    assert_eq!(
        error.to_string(),
        "BAR 0 of 0000:00:02.0 (32-bit memory, 0x40000000 bytes) does not fit into its window"
    );
    assert_eq!(fits.address(0), Some(0));
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const FAR: BarKind = BarKind::Memory64 { prefetchable: true };
const NVME: BarKind = BarKind::Memory64 {
    prefetchable: false,
};
const EMPTY: Reserve = Reserve {
    mem32: 4 * MIB,
    pref64: GIB,
    io: 0,
};

fn behind(port: usize, reserve: Reserve, functions: Vec<&mut Bars>) -> BehindPort<'_> {
    let functions = functions.into_iter().enumerate();
    BehindPort {
        port: bdf(port),
        functions: functions.map(|(i, bars)| (bdf(i), bars)).collect(),
        reserve,
    }
}

fn range(start: u64, size: u64) -> Option<Range> {
    Some(Range { start, size })
}

#[test]
fn bars_that_are_not_prefetchable_lie_below() {
    let mut nvme = one(NVME, 0x4000);
    let mut gpu = Bars::new([
        Some(Bar {
            kind: BarKind::Memory32 {
                prefetchable: false,
            },
            size: 16 * MIB,
        }),
        Some(Bar {
            kind: FAR,
            size: 16 * GIB,
        }),
        None,
        Some(Bar {
            kind: FAR,
            size: 32 * MIB,
        }),
        None,
        Some(Bar {
            kind: BarKind::Io,
            size: 0x80,
        }),
    ]);
    let gpu = gpu.as_mut().unwrap();
    let mut on_root = one(FAR, 0x4000);
    let mut ports = [
        behind(1, Reserve::default(), vec![&mut nvme]),
        behind(2, Reserve::default(), vec![gpu]),
        behind(3, EMPTY, vec![]),
    ];
    let setups = assign_with_ports(&mut [(bdf(9), &mut on_root)], &mut ports, &WINDOWS).unwrap();
    let bus = |bus, mem32, pref64, io| PortSetup {
        secondary: bus,
        subordinate: bus,
        mem32,
        pref64,
        io,
    };
    assert_eq!(
        setups,
        [
            bus(1, range(0xc140_0000, MIB), None, None),
            bus(
                2,
                range(0xc000_0000, 16 * MIB),
                range(64 * GIB, 16 * GIB + 32 * MIB),
                range(0x1000, 0x1000)
            ),
            bus(3, range(0xc100_0000, 4 * MIB), range(81 * GIB, GIB), None),
        ]
    );
    drop(ports);
    assert_eq!(nvme.address(0), Some(0xc140_0000));
    let all: Vec<_> = gpu.iter().map(|(i, _, address)| (i, address)).collect();
    assert_eq!(
        all,
        [(0, 0xc000_0000), (1, 64 * GIB), (3, 80 * GIB), (5, 0x1000)]
    );
    // The hole after the window of 16 GiB and 32 MiB is not lost.
    assert_eq!(on_root.address(0), Some(80 * GIB + 32 * MIB));
}

#[test]
fn the_same_device_on_the_root_bus_lies_above() {
    let mut nvme = one(NVME, 512 * MIB);
    assign(&mut [(bdf(1), &mut nvme)], &WINDOWS).unwrap();
    assert_eq!(nvme.address(0), Some(64 * GIB));
}

#[test]
fn a_device_that_does_not_fit_below_is_named_with_both_sizes() {
    let mut large = one(NVME, GIB);
    let mut ports = [behind(4, Reserve::default(), vec![&mut large])];
    let error = assign_with_ports(&mut [], &mut ports, &WINDOWS).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the root port 0000:00:04.0 needs 1 GiB of memory below 4 GiB, and 512 MiB are left for it"
    );
    drop(ports);
    assert_eq!(large.address(0), Some(0));
    // The largest comes first, and the next finds the rest.
    let (mut a, mut b) = (one(NVME, 256 * MIB), one(NVME, 256 * MIB));
    let mut small = one(NVME, 0x1000);
    let mut ports = [
        behind(4, Reserve::default(), vec![&mut small]),
        behind(5, Reserve::default(), vec![&mut a]),
        behind(6, Reserve::default(), vec![&mut b]),
    ];
    let error = assign_with_ports(&mut [], &mut ports, &WINDOWS).unwrap_err();
    let wanted = AssignError::Window {
        port: bdf(4),
        window: Window::Memory32,
        needs: MIB,
        has: 0,
    };
    assert_eq!(error, wanted);
}

#[test]
fn roms_behind_ports_are_left_out_before_a_device() {
    let mut with_rom = one(NVME, 256 * MIB).with_rom(16 * MIB).unwrap();
    let mut other = one(NVME, 256 * MIB);
    let mut ports = [
        behind(1, Reserve::default(), vec![&mut with_rom]),
        behind(2, Reserve::default(), vec![&mut other]),
    ];
    let setups = assign_with_ports(&mut [], &mut ports, &WINDOWS).unwrap();
    assert_eq!(setups[0].mem32, range(0xc000_0000, 256 * MIB));
    drop(ports);
    assert_eq!(with_rom.address(ROM), Some(0));
    let mut ports = [behind(1, Reserve::default(), vec![&mut with_rom])];
    let setups = assign_with_ports(&mut [], &mut ports, &WINDOWS).unwrap();
    assert_eq!(setups[0].mem32, range(0xc000_0000, 272 * MIB));
    drop(ports);
    assert_eq!(with_rom.address(ROM), Some(0xd000_0000));
}

#[test]
fn there_are_fifteen_windows_of_ports() {
    let reserve = Reserve {
        io: 0x1000,
        ..Reserve::default()
    };
    let mut ports: Vec<_> = (1..=15).map(|port| behind(port, reserve, vec![])).collect();
    let setups = assign_with_ports(&mut [], &mut ports, &WINDOWS).unwrap();
    assert_eq!(setups[0].io, range(0x1000, 0x1000));
    assert_eq!(setups[14].io, range(0xf000, 0x1000));
    ports.push(behind(16, reserve, vec![]));
    let error = assign_with_ports(&mut [], &mut ports, &WINDOWS).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the root port 0000:00:10.0 needs 4 KiB of I/O ports, and 0 bytes are left for it"
    );
}

#[test]
fn each_port_has_a_bus_number() {
    let mut ports: Vec<_> = (0..255)
        .map(|i| behind(i / 8 + 1, Reserve::default(), vec![]))
        .collect();
    let setups = assign_with_ports(&mut [], &mut ports, &WINDOWS).unwrap();
    assert!(
        setups
            .iter()
            .zip(1..=255)
            .all(|(s, bus)| s.secondary == bus && s.subordinate == bus)
    );
    ports.push(behind(1, Reserve::default(), vec![]));
    let error = assign_with_ports(&mut [], &mut ports, &WINDOWS);
    assert_eq!(error, Err(AssignError::Buses));
}

/// A port with up to three functions and some reserve.
fn any_port() -> impl Strategy<Value = (Vec<Bars>, Reserve)> {
    let reserve = (0u64..8 * MIB, 0u64..3 * GIB, 0u64..0x1800)
        .prop_map(|(mem32, pref64, io)| Reserve { mem32, pref64, io });
    let reserve = prop_oneof![Just(Reserve::default()), Just(EMPTY), reserve];
    (prop::collection::vec(any_bars(), 0..4), reserve)
}

/// Checks a window: its alignment, its size, and that the root's window contains it.
fn check_window(window: Option<Range>, granule: u64, least: u64, inside: &[Range]) {
    match window {
        None => assert_eq!(least, 0),
        Some(window) => {
            assert!(window.start % granule == 0 && window.size % granule == 0);
            assert!(window.size >= least && window.size > 0);
            assert!(inside.iter().any(|w| w.contains(window.start, window.size)));
        }
    }
}

/// The ranges, each of which is to be apart from the others.
fn apart(mut ranges: Vec<Range>) -> bool {
    ranges.sort_unstable_by_key(|r| r.start);
    ranges.windows(2).all(|w| w[0].end() <= w[1].start)
}

/// Assigns; returns the setups and all BARs.
fn run(
    root: &mut [Bars],
    ports: &mut [(Vec<Bars>, Reserve)],
    windows: &Windows,
) -> Result<Vec<PortSetup>, AssignError> {
    let mut functions: Vec<_> = root
        .iter_mut()
        .enumerate()
        .map(|(i, b)| (bdf(i), b))
        .collect();
    let ports = ports.iter_mut().enumerate();
    let mut ports: Vec<_> = ports
        .map(|(i, (bars, reserve))| behind(i, *reserve, bars.iter_mut().collect()))
        .collect();
    assign_with_ports(&mut functions, &mut ports, windows)
}

proptest! {
    #[test]
    fn windows_are_sound_and_hold_their_bars(
        mut root in prop::collection::vec(any_bars(), 0..6),
        mut ports in prop::collection::vec(any_port(), 0..10),
        pages32 in 0u64..0x80000, size64 in 0u64..1 << 42,
    ) {
        let windows = Windows {
            mmio32: Range { start: 0xc000_0000, size: pages32.min(0x20000) * 0x1000 },
            mmio64: Range { start: 1 << 42, size: size64 },
            ..WINDOWS
        };
        let setups = loop {
            let (root_before, ports_before) = (root.clone(), ports.clone());
            match run(&mut root, &mut ports, &windows) {
                Ok(setups) => break setups,
                Err(_) => {
                    prop_assert!(root == root_before && ports == ports_before);
                    if ports.pop().is_none() {
                        root.pop();
                    }
                }
            }
        };
        prop_assert_eq!(setups.len(), ports.len());
        let (mut memory, mut io) = (Vec::new(), Vec::new());
        for (_, bar, start) in root.iter().flat_map(Bars::iter).filter(|(.., at)| *at != 0) {
            match bar.kind.is_io() {
                true => io.push(Range { start, size: bar.size }),
                false => memory.push(Range { start, size: bar.size.max(PAGE_SIZE) }),
            }
        }
        for (index, (setup, (functions, reserve))) in setups.iter().zip(&ports).enumerate() {
            prop_assert_eq!(usize::from(setup.secondary), index + 1);
            prop_assert_eq!(setup.subordinate, setup.secondary);
            let both = [windows.mmio32, windows.mmio64];
            check_window(setup.mem32, MIB, reserve.mem32, &both[..1]);
            check_window(setup.pref64, MIB, reserve.pref64, &both);
            check_window(setup.io, 0x1000, reserve.io, &[windows.io]);
            memory.extend(setup.mem32.into_iter().chain(setup.pref64));
            io.extend(setup.io);
            let mut inside = Vec::new();
            for (_, bar, start) in functions.iter().flat_map(Bars::iter) {
                if bar.kind == BarKind::Rom && start == 0 {
                    continue;
                }
                let here = Window::of(bar.kind).in_setup(setup).unwrap();
                let size = if bar.kind.is_io() { bar.size } else { bar.size.max(PAGE_SIZE) };
                prop_assert!(here.contains(start, size), "{bar:?} at {start:#x}: {here:x?}");
                prop_assert_eq!(start % size, 0);
                prop_assert!(bar.can_decode_at(start));
                // Ports and memory are different spaces.
                let space = if bar.kind.is_io() { 1 << 50 } else { 0 };
                inside.push(Range { start: start + space, size });
            }
            prop_assert!(apart(inside));
            let bars: Vec<_> = functions.iter().collect();
            prop_assert_eq!(crate::bridge_windows::lacks(bars, setup), []);
        }
        prop_assert!(apart(memory) && apart(io));
        // The same input gives the same addresses.
        let addresses = |all: &[Bars]| -> Vec<u64> {
            all.iter().flat_map(|b| b.iter().map(|(.., at)| at).collect::<Vec<_>>()).collect()
        };
        let before = addresses(&root);
        root.iter_mut().for_each(Bars::clear);
        ports.iter_mut().for_each(|(bars, _)| bars.iter_mut().for_each(Bars::clear));
        prop_assert_eq!(run(&mut root, &mut ports, &windows), Ok(setups));
        prop_assert_eq!(addresses(&root), before);
    }

    /// A window of the bound's size holds all that may lie above 4 GiB.
    #[test]
    fn the_bound_suffices(
        root in prop::collection::vec(any_bars(), 0..6),
        ports in prop::collection::vec(any_port(), 0..10),
    ) {
        let sizes = |bars: &Bars| -> Vec<u64> {
            bars.iter().filter(|(i, ..)| *i != ROM).map(|(_, bar, _)| bar.size).collect()
        };
        let bound = crate::bridge_windows::upper_bound(
            root.iter().flat_map(sizes),
            ports.iter().map(|(bars, reserve)| (bars.iter().flat_map(sizes).collect(), *reserve)),
        );
        prop_assume!(bound < 1 << 61);
        let windows = Windows {
            mmio32: Range { start: 0x1000, size: 1 << 40 },
            mmio64: Range { start: 1 << 62, size: bound },
            io: Range { start: 0x1000, size: 1 << 40 },
        };
        let (mut root, mut ports) = (root, ports);
        let setups = run(&mut root, &mut ports, &windows).unwrap();
        let above = |range: Range| windows.mmio64.contains(range.start, range.size);
        prop_assert!(setups.iter().filter_map(|s| s.pref64).all(above));
    }
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
