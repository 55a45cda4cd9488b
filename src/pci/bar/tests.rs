//! Tests of the base address registers, and any legal set of them for other tests.

use proptest::prelude::*;

use super::*;

const M32: BarKind = BarKind::Memory32 {
    prefetchable: false,
};
const M64: BarKind = BarKind::Memory64 {
    prefetchable: false,
};
const M64P: BarKind = BarKind::Memory64 { prefetchable: true };

fn bar(kind: BarKind, size: u64) -> Option<Bar> {
    Some(Bar { kind, size })
}

fn dword(bars: &Bars, index: usize) -> u32 {
    let mut data = [0; 4];
    bars.read(OFFSETS[index], &mut data);
    u32::from_le_bytes(data)
}

/// Any legal set of BARs, with a ROM or without.
pub(crate) fn any_bars() -> impl Strategy<Value = Bars> {
    let memory = (any::<bool>(), 4u32..32);
    let one = prop_oneof![
        2 => Just(None),
        2 => (2u32..9).prop_map(|s| bar(BarKind::Io, 1 << s)),
        3 => memory.clone().prop_map(|(prefetchable, s)| {
            bar(BarKind::Memory32 { prefetchable }, 1 << s)
        }),
        3 => (any::<bool>(), 4u32..36).prop_map(|(prefetchable, s)| {
            bar(BarKind::Memory64 { prefetchable }, 1 << s)
        }),
    ];
    let rom = prop::option::of(11u32..25);
    (prop::array::uniform6(one), rom).prop_map(|(mut bars, rom)| {
        for i in 0..6 {
            if bars[i].is_some_and(|b: Bar| b.kind.is_64bit()) {
                match bars.get_mut(i + 1) {
                    Some(upper) => *upper = None,
                    None => bars[i] = None,
                }
            }
        }
        let bars = Bars::new(bars).unwrap();
        match rom {
            Some(shift) => bars.with_rom(1 << shift).unwrap(),
            None => bars,
        }
    })
}

#[test]
fn kinds_from_registers() {
    for (raw, expected) in [
        (0x0, M32),
        (0x2, M32),
        (0x6, M32),
        (0x8, BarKind::Memory32 { prefetchable: true }),
        (0x4, M64),
        (0xc, M64P),
        (0x1, BarKind::Io),
        (0x5, BarKind::Io),
        (0xd, BarKind::Io),
    ] {
        let raw = [0xfe00_0000 | raw, 0, 0, 0, 0, 0];
        let bars = Bars::decode(raw, [0x80, 0, 0, 0, 0, 0]).unwrap();
        assert_eq!(bars.get(0).unwrap().kind, expected, "{raw:x?}");
        assert_eq!(bars.address(0), Some(0));
    }
}

#[test]
fn upper_halves() {
    let sizes = [0x4000, 0x1234, 0x10, 0, 0, 0];
    let bars = Bars::decode([0x4, 0x1, 0x1, 0, 0, 0], sizes).unwrap();
    assert_eq!(bars.iter().map(|b| b.0).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(
        Bars::decode([0, 0, 0, 0, 0, 4], [0, 0, 0, 0, 0, 16]),
        Err(BarError::NoUpperHalf { bar: 5 })
    );
    let none = [None; 4];
    let [a, b, c, d] = none;
    assert_eq!(
        Bars::new([bar(M64, 16), bar(M32, 16), a, b, c, d]),
        Err(BarError::UpperHalfTaken { bar: 1 })
    );
}

#[test]
fn sizes_are_made_possible() {
    let one = |kind, size| Bars::new([bar(kind, size), None, None, None, None, None]);
    for (kind, size, expected) in [
        (M32, 0x3000, 0x4000),
        (M32, 1, 16),
        (BarKind::Io, 1, 4),
        (BarKind::Io, 0x10000, 0x10000),
        (M64P, (1 << 62) + 1, 1 << 63),
    ] {
        assert_eq!(one(kind, size).unwrap().get(0).unwrap().size, expected);
    }
    for (kind, size) in [
        (M32, 0),
        (M32, 1 << 32),
        (BarKind::Io, 0x10001),
        (M64, u64::MAX),
    ] {
        assert_eq!(one(kind, size), Err(BarError::Size { bar: 0, size }));
    }
}

#[test]
fn bytes_of_a_register() {
    let mut bars = Bars::new([bar(M64P, 1 << 14), None, None, None, None, None]).unwrap();
    assert!(bars.write(0x10, &[0xff; 4]));
    assert_eq!(dword(&bars, 0), 0xffff_c00c);
    assert!(bars.write(0x13, &[0x12, 0x34]));
    assert_eq!(dword(&bars, 0), 0x12ff_c00c);
    assert_eq!(bars.address(0), Some(0x34_12ff_c000));
    assert!(!bars.write(u16::MAX, &[0; 8]));
    assert!(!bars.write(0x0c, &[0; 4]) && !bars.write(0x28, &[0; 8]));
    assert!(bars.write(0x24, &[0xff; 8]));
    let mut data = [0x55; 8];
    bars.read(0x24, &mut data);
    assert_eq!(data, [0, 0, 0, 0, 0x55, 0x55, 0x55, 0x55]);
    bars.clear();
    assert_eq!((dword(&bars, 0), dword(&bars, 1)), (0xc, 0));
    bars.set_address(1, !0);
    bars.set_address(9, !0);
    assert_eq!(bars.address(0), Some(0));
}

#[test]
fn the_register_of_a_rom() {
    let mut bars = Bars::default();
    bars.write(0x30, &[0xff; 4]);
    assert_eq!(dword(&bars, ROM), 0, "there is none");
    let mut bars = bars.with_rom(0x3000).unwrap();
    assert_eq!(bars.get(ROM).unwrap().size, 0x4000);
    assert_eq!(bars.iter().map(|b| b.0).collect::<Vec<_>>(), [ROM]);
    // Sizing as Linux does it, and in other ways.
    bars.write(0x30, &0xffff_f800u32.to_le_bytes());
    assert_eq!(dword(&bars, ROM), 0xffff_c000);
    assert!(!bars.is_enabled(ROM));
    bars.write(0x30, &[0xff; 4]);
    assert_eq!(dword(&bars, ROM), 0xffff_c001);
    bars.set_address(ROM, 0xc000_0000);
    assert_eq!(dword(&bars, ROM), 0xc000_0001, "the enable bit stays");
    assert_eq!(bars.address(ROM), Some(0xc000_0000));
    bars.clear();
    assert_eq!(dword(&bars, ROM), 0);
    for size in [0, (16 << 20) + 1, u64::MAX] {
        let refused = Bars::default().with_rom(size);
        assert_eq!(refused, Err(BarError::Size { bar: ROM, size }));
    }
    let least = Bars::default().with_rom(1).unwrap();
    assert_eq!(least.get(ROM).unwrap().size, 2048);
}

#[test]
fn addresses_that_can_be_decoded() {
    let b = |kind, size| Bar { kind, size };
    for (bar, address, expected) in [
        (b(M32, 0x1000), 0, false),
        (b(M32, 0x1000), 0xffff_f000, false),
        (b(M32, 0x1000), 0xffff_e000, true),
        (b(M64, 0x1000), 0xffff_f000, true),
        (b(M64, 0x1000), !0xfff, false),
        (b(BarKind::Io, 0x10), 0xfff0, true),
        (b(BarKind::Io, 0x10), 0x10000, false),
        (b(BarKind::Io, 0x10), 0xffff_fff0, false),
    ] {
        assert_eq!(bar.can_decode_at(address), expected, "{bar:?} {address:#x}");
    }
}

proptest! {
    #[test]
    fn sizing_tells_the_size(bars in any_bars()) {
        let mut guest = bars.clone();
        let raw = std::array::from_fn(|i| dword(&guest, i));
        for offset in OFFSETS.into_iter().take(BAR_COUNT) {
            guest.write(offset, &[0xff; 4]);
        }
        let answers = std::array::from_fn(|i| dword(&guest, i));
        let sizes = Bars::sizes(raw, answers);
        for (i, size) in sizes.into_iter().enumerate() {
            prop_assert_eq!(size, bars.get(i).map_or(0, |b| b.size));
        }
        let mut again = Bars::decode(raw, sizes).unwrap();
        if let Some(rom) = bars.get(ROM) {
            again = again.with_rom(rom.size).unwrap();
        }
        prop_assert_eq!(again, bars);
    }

    #[test]
    fn accesses_are_as_masked_memory(
        bars in any_bars(),
        accesses in prop::collection::vec(
            (0x0cusize..0x38, prop::collection::vec(any::<u8>(), 0..9)),
            0..20,
        ),
    ) {
        let mut guest = bars.clone();
        let mut ones = bars.clone();
        ones.write(0x10, &[0xff; 0x24]);
        // From BAR 0 to the ROM's register, including the registers between them.
        let (mut model, mut mask) = ([0u8; 0x24], [0u8; 0x24]);
        bars.read(0x10, &mut model);
        ones.read(0x10, &mut mask);
        mask.iter_mut().zip(model).for_each(|(m, flags)| *m &= !flags);
        for (offset, data) in accesses {
            guest.write(offset as u16, &data);
            let touched = data.iter().enumerate().map(|(i, new)| (offset + i, new));
            for (at, new) in touched.filter(|(at, _)| (0x10..0x34).contains(at)) {
                let at = at - 0x10;
                model[at] = (model[at] & !mask[at]) | (new & mask[at]);
            }
            let mut read = [0; 0x24];
            guest.read(0x10, &mut read);
            prop_assert_eq!(read, model);
        }
        for (i, bar, address) in guest.iter() {
            prop_assert_eq!(address % bar.size, 0);
            let mut again = bars.clone();
            again.set_address(i, address);
            prop_assert_eq!(again.address(i), Some(address));
        }
    }
}
