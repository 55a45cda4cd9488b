//! Tests of decoding: its rules one by one; any accesses are in [`model`].

use proptest::prelude::*;

use super::*;
use crate::bar::tests::any_bars;
use crate::bar::{Bar, BarKind};
use crate::regs;
use crate::rom::ROM;

mod model;

const MEMORY: BarKind = BarKind::Memory32 {
    prefetchable: false,
};

fn bars() -> Bars {
    let memory = Bar {
        kind: MEMORY,
        size: 0x1000,
    };
    let io = Bar {
        kind: BarKind::Io,
        size: 0x20,
    };
    Bars::new([Some(memory), Some(io), None, None, None, None]).unwrap()
}

fn apply(decoder: &mut Decoder, bars: &Bars, memory: bool, io: bool) -> Vec<BarEffect> {
    let effects = decoder.update(bars, memory, io);
    effects.iter().for_each(|e| decoder.confirm(e));
    effects
}

#[test]
fn sizing_with_decode_off_moves_nothing() {
    let (mut bars, mut decoder) = (bars(), Decoder::new());
    for value in [!0u32, 0xc000_0000] {
        bars.write(0x10, &value.to_le_bytes());
        assert_eq!(apply(&mut decoder, &bars, false, false), []);
    }
    let map = BarEffect::Map {
        bar: 0,
        address: 0xc000_0000,
    };
    assert_eq!(apply(&mut decoder, &bars, true, false), [map]);
    assert_eq!(apply(&mut decoder, &bars, true, false), []);
    let unmap = BarEffect::Unmap { bar: 0 };
    assert_eq!(apply(&mut decoder, &bars, false, false), [unmap]);
}

#[test]
fn a_change_with_decode_on_moves_at_once() {
    let (mut bars, mut decoder) = (bars(), Decoder::new());
    bars.set_address(0, 0xc000_0000);
    apply(&mut decoder, &bars, true, true);
    bars.write(0x11, &[0x10]);
    let moved = BarEffect::Move {
        bar: 0,
        from: 0xc000_0000,
        to: 0xc000_1000,
    };
    assert_eq!(apply(&mut decoder, &bars, true, true), [moved]);
    // Sizing while decoding is on unmaps the BAR until the address is written back.
    bars.write(0x10, &[0xff; 4]);
    assert_eq!(
        apply(&mut decoder, &bars, true, true),
        [BarEffect::Unmap { bar: 0 }]
    );
    bars.write(0x10, &[0; 4]);
    assert_eq!(apply(&mut decoder, &bars, true, true), []);
}

#[test]
fn each_space_has_its_own_enable() {
    let (mut bars, mut decoder) = (bars(), Decoder::new());
    bars.set_address(0, 0xc000_0000);
    bars.set_address(1, 0x2000);
    let port = BarEffect::Map {
        bar: 1,
        address: 0x2000,
    };
    assert_eq!(apply(&mut decoder, &bars, false, true), [port]);
}

#[test]
fn a_rom_has_two_switches() {
    let mut bars = Bars::default().with_rom(0x1000).unwrap();
    let mut decoder = Decoder::new();
    bars.set_address(ROM, 0xc000_0000);
    assert_eq!(apply(&mut decoder, &bars, true, true), []);
    bars.write(regs::ROM, &[1]);
    assert_eq!(apply(&mut decoder, &bars, false, true), []);
    let map = BarEffect::Map {
        bar: ROM,
        address: 0xc000_0000,
    };
    assert_eq!(apply(&mut decoder, &bars, true, false), [map]);
    // A refused address: the BAR goes back to the old address, and still decodes.
    bars.write(regs::ROM, &0xd000_0001u32.to_le_bytes());
    assert_eq!(decoder.update(&bars, true, false).len(), 1);
    decoder.refuse(&mut bars, ROM);
    assert_eq!(apply(&mut decoder, &bars, true, false), []);
    bars.write(regs::ROM, &[0]);
    let unmap = BarEffect::Unmap { bar: ROM };
    assert_eq!(apply(&mut decoder, &bars, true, false), [unmap]);
}

#[test]
fn refused() {
    let (mut bars, mut decoder) = (bars(), Decoder::new());
    bars.set_address(0, 0xc000_0000);
    decoder.refuse(&mut bars, 0);
    assert_eq!(bars.address(0), Some(0xc000_0000));
    apply(&mut decoder, &bars, true, true);
    bars.set_address(0, 0xfee0_0000);
    assert_eq!(decoder.update(&bars, true, true).len(), 1);
    decoder.refuse(&mut bars, 0);
    assert_eq!(bars.address(0), Some(0xc000_0000));
    assert_eq!(decoder.update(&bars, true, true), []);
    decoder.refuse(&mut bars, 99);
    decoder.confirm(&BarEffect::Unmap { bar: 99 });
}

proptest! {
    #[test]
    fn ends_where_the_registers_say(
        bars in any_bars(),
        steps in prop::collection::vec(
            (
                0x0cu16..0x38,
                prop::collection::vec(any::<u8>(), 0..9),
                any::<bool>(),
                any::<bool>(),
                any::<bool>(),
            ),
            0..30,
        ),
    ) {
        let (mut bars, mut decoder) = (bars, Decoder::new());
        for (offset, data, memory, io, accept) in steps {
            bars.write(offset, &data);
            let effects = decoder.update(&bars, memory, io);
            prop_assert!(effects.len() <= REGISTER_COUNT);
            for effect in &effects {
                let bar = effect.bar();
                if accept || matches!(effect, BarEffect::Unmap { .. }) {
                    decoder.confirm(effect);
                    prop_assert_eq!(decoder.mapped(bar), wanted(&bars, bar, memory, io));
                } else {
                    let before = decoder.mapped(bar);
                    decoder.refuse(&mut bars, bar);
                    prop_assert_eq!(decoder.mapped(bar), before);
                }
            }
            for bar in 0..REGISTER_COUNT {
                let now = decoder.mapped(bar);
                if accept || now.is_some() {
                    prop_assert_eq!(now, wanted(&bars, bar, memory, io));
                }
            }
        }
    }
}
