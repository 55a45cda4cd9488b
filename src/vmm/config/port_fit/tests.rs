use pci::bar::Bar;
use pci::bridge_windows::size_text;
use pci::express::FunctionType;
use proptest::prelude::*;

use super::*;
use crate::config::port::{decide, tell_loss};
use crate::log::degraded::{self, Code};

const MIB: u64 = 1 << 20;
const WINDOWS: Windows = Windows {
    mmio32: Range {
        start: 0xc000_0000,
        size: 512 * MIB,
    },
    mmio64: Range {
        start: 1 << 40,
        size: 1 << 40,
    },
    io: Range {
        start: 0x1000,
        size: 0xf000,
    },
};

fn bars(kind: BarKind, size: u64) -> Bars {
    let bar = Bar { kind, size };
    Bars::new([Some(bar), None, None, None, None, None]).unwrap()
}

/// A 64-bit BAR that is not prefetchable: below 4 GiB behind a port alone.
const NVME: BarKind = BarKind::Memory64 {
    prefetchable: false,
};

const NEAR: BarKind = BarKind::Memory32 {
    prefetchable: false,
};

/// The decisions for endpoints with such a BAR each.
fn fitted(devices: &[(&str, u64)]) -> Vec<String> {
    let with_kind = devices.iter().map(|(text, mib)| (*text, *mib, NVME));
    fitted_kinds(&with_kind.collect::<Vec<_>>())
}

/// The decisions for endpoints with these choices, and a BAR of so many MiB each.
fn fitted_kinds(devices: &[(&str, u64, BarKind)]) -> Vec<String> {
    let configs = devices.iter().map(|(text, ..)| text.parse().unwrap());
    let mut configs: Vec<DeviceConfig> = configs.collect();
    let kinds = configs.iter().map(|config| config.port);
    let decisions = kinds.map(|choice| decide(choice, Some(FunctionType::Endpoint)));
    let mut decisions: Vec<_> = decisions.collect();
    apply(&mut configs, &decisions);
    let bars = devices.iter().map(|(_, mib, kind)| bars(*kind, mib * MIB));
    let bars: Vec<_> = bars.collect();
    fit(
        &mut configs,
        &mut decisions,
        &bars,
        &WINDOWS,
        &PortsConfig::default(),
    );
    for (config, decision) in configs.iter().zip(&decisions) {
        tell_loss(&format!("fitted {devices:?} {}", config.address), decision);
        assert_eq!(config.port == PortChoice::On, decision.behind_port);
    }
    decisions.iter().map(PortDecision::to_string).collect()
}

#[test]
fn what_does_not_fit_is_on_bus_0() {
    let endpoint = "behind a root port: it is a PCI Express endpoint";
    assert_eq!(fitted(&[("1:0.0", 256), ("2:0.0", 16)]), [endpoint; 2]);
    let found = fitted(&[("1:0.0", 1024), ("2:0.0", 16)]);
    assert_eq!(found[1], endpoint);
    for part in [
        "on bus 0: a root port for it needs 1 GiB of",
        "512 MiB are left",
    ] {
        assert!(found[0].contains(part), "{}", found[0]);
    }
    let told = degraded::list().into_iter();
    let told = told.filter(|loss| loss.code == Code::NoPort);
    let told: Vec<_> = told.filter(|loss| loss.why.contains("1 GiB of")).collect();
    assert_eq!(told.len(), 1);
    assert!(
        told[0]
            .device
            .as_deref()
            .is_some_and(|name| name.ends_with("1:0.0"))
    );
    // Two that fit alone: one of them has the port.
    let found = fitted(&[("1:0.0", 512), ("2:0.0", 256)]);
    assert_eq!(found[1], endpoint);
    assert!(found[0].contains("leaves too little room for another device or port"));
    let found = fitted(&[("1:0.0", 256), ("2:0.0", 512)]);
    assert_eq!(found[0], endpoint);
    // Of two that are alike, the last.
    let found = fitted(&[("1:0.0", 512), ("2:0.0", 512)]);
    assert_eq!(found[0], endpoint);
    assert!(
        found[1].contains("needs 512 MiB of memory below 4 GiB, and 0 bytes are left"),
        "{}",
        found[1]
    );
    // What the user wants comes first, and is left to the error if it cannot be.
    let found = fitted(&[("1:0.0", 512), ("2:0.0,port=on", 256)]);
    let makes_room = "on bus 0: a root port for it leaves too little room for another device \
                      or port, which needs 256 MiB of memory below 4 GiB";
    assert_eq!(found, [makes_room, "behind a root port: `port=on`"]);
    let found = fitted(&[("1:0.0,port=on", 1024)]);
    assert_eq!(found, ["behind a root port: `port=on`"]);
}

/// One device with a large BAR makes room for many with small ones, wherever it stands.
#[test]
fn the_largest_makes_room() {
    let endpoint = "behind a root port: it is a PCI Express endpoint";
    for large in 0..31 {
        let names: Vec<_> = (1..32).map(|bus| format!("{bus:x}:0.0")).collect();
        let sizes = (0..31).map(|index| if index == large { 256 } else { 16 });
        let devices: Vec<_> = names.iter().map(String::as_str).zip(sizes).collect();
        let found = fitted(&devices);
        for (index, text) in found.iter().enumerate() {
            assert_eq!(
                text == endpoint,
                index != large,
                "{large}: {index} is {text}"
            );
        }
    }
    // The larger would not suffice: its BAR stays below 4 GiB.
    let off = ("3:0.0,port=off", 128, NEAR);
    let found = fitted_kinds(&[("1:0.0", 256, NEAR), ("2:0.0", 256, NVME), off]);
    assert_eq!(found[0], endpoint);
    assert!(found[1].starts_with("on bus 0"));
}

/// Functions behind one port make room together.
#[test]
fn functions_of_a_port_move_together() {
    let endpoint = "behind a root port: it is a PCI Express endpoint";
    let found = fitted(&[("1:0.0", 128), ("2:0.0", 256), ("1:0.1", 256), ("1:0.2", 1)]);
    assert_eq!(found[1], endpoint);
    for index in [0, 2, 3] {
        assert!(found[index].starts_with("on bus 0"), "{}", found[index]);
    }
}

/// A 32-bit BAR on bus 0 lies only below 4 GiB, where the windows of ports are as well.
#[test]
fn a_port_makes_room_for_a_bar_on_bus_0() {
    let off = "on bus 0: `port=off`";
    let found = fitted_kinds(&[("1:0.0,port=off", 16, NEAR), ("2:0.0", 512, NVME)]);
    assert_eq!(found[0], off);
    assert!(found[1].contains("which needs 16 MiB of memory below 4 GiB"));
    // Nobody makes room for what fits nowhere.
    let found = fitted_kinds(&[("1:0.0,port=off", 1024, NEAR)]);
    assert_eq!(found, [off]);
    let found = fitted_kinds(&[("1:0.0,port=off", 256, NEAR), ("2:0.0", 16, NVME)]);
    assert_eq!(found[1], "behind a root port: it is a PCI Express endpoint");
}

#[derive(Clone, Debug)]
struct Given {
    choice: &'static str,
    bars: Vec<(BarKind, u64)>,
    /// Whether it is a function of the device before it.
    joins: bool,
}

fn given() -> impl Strategy<Value = Given> {
    let choice = prop::sample::select(vec!["auto", "auto", "auto", "auto", "on", "off"]);
    let far = BarKind::Memory64 { prefetchable: true };
    let memory = (
        prop::sample::select(vec![NVME, NVME, NVME, NEAR, far]),
        12..30u32,
    );
    let io = (Just(BarKind::Io), 5..8u32);
    let bar = prop_oneof![4 => memory.boxed(), 1 => io.boxed()];
    let bar = bar.prop_map(|(kind, log)| (kind, 1u64 << log));
    let bars = prop::collection::vec(bar, 0..3);
    let joins = prop::bool::weighted(0.2);
    (choice, bars, joins).prop_map(|(choice, bars, joins)| Given {
        choice,
        bars,
        joins,
    })
}

fn configs_of(all: &[Given]) -> Vec<DeviceConfig> {
    let (mut device, mut function) = (0, 0);
    let configs = all.iter().map(|given| {
        (device, function) = match given.joins && device > 0 && function < 7 {
            true => (device, function + 1),
            false => (device + 1, 0),
        };
        format!("{device:x}:00.{function},port={}", given.choice)
            .parse()
            .unwrap()
    });
    configs.collect()
}

fn bars_of(given: &Given) -> Bars {
    let mut slots = [None; 6];
    // A 64-bit BAR takes two registers.
    for (index, (kind, size)) in given.bars.iter().enumerate() {
        slots[2 * index] = Some(Bar {
            kind: *kind,
            size: *size,
        });
    }
    Bars::new(slots).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn as_few_as_possible_make_room(all in prop::collection::vec(given(), 1..9)) {
        let mut configs = configs_of(&all);
        let choices = configs.iter().map(|config| config.port);
        let decisions = choices.map(|choice| decide(choice, Some(FunctionType::Endpoint)));
        let mut decisions: Vec<_> = decisions.collect();
        apply(&mut configs, &decisions);
        let bars: Vec<_> = all.iter().map(bars_of).collect();
        let (before, first) = (configs.clone(), decisions.clone());
        let empty = PortsConfig { count: 1, ..PortsConfig::default() };
        fit(&mut configs, &mut decisions, &bars, &WINDOWS, &empty);

        let judge = Fit {
            configs: &before,
            decisions: &first,
            bars: &bars,
            windows: Windows { mmio64: Range { start: 1 << 62, size: 1 << 62 }, ..WINDOWS },
            empty: &empty,
        };
        let moved = |index: &usize| decisions[*index] != first[*index];
        let at_bus_0: Set = (0..all.len()).filter(moved).collect();
        for index in 0..all.len() {
            prop_assert_eq!(decisions[index].behind_port, configs[index].port == PortChoice::On);
            prop_assert!(!at_bus_0.contains(&index) || all[index].choice == "auto");
        }
        let candidates = judge.candidates();
        let everybody: Set = candidates.iter().flatten().copied().collect();
        if judge.failure(&everybody).is_some() {
            prop_assert!(at_bus_0.is_empty());
            return Ok(());
        }
        prop_assert!(judge.failure(&at_bus_0).is_none());
        let alone: Vec<_> = candidates.iter().filter(|set| judge.failure(set).is_none()).collect();
        let sets: Vec<_> = candidates.iter().filter(|set| set.is_subset(&at_bus_0)).collect();
        prop_assert_eq!(sets.iter().map(|set| set.len()).sum::<usize>(), at_bus_0.len());
        for set in &sets {
            let without = at_bus_0.difference(set).copied().collect();
            prop_assert!(judge.failure(&without).is_some(), "{set:?} need not move");
        }
        let Some(Failure::Assign(failure)) = judge.failure(&Set::new()) else {
            prop_assert!(sets.is_empty());
            return Ok(());
        };
        let window = window_of(&failure).unwrap();
        if let Some(most) = alone.iter().map(|set| judge.frees(set, window)).max() {
            prop_assert_eq!(sets.len(), 1, "one suffices: {}", size_text(most));
            prop_assert_eq!(judge.frees(sets[0], window), most);
        }
    }
}
