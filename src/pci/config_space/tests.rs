//! Unit tests of the parent module.

use proptest::prelude::*;

use super::*;

#[test]
fn attributes() {
    let mut space = ConfigSpace::new(256);
    space.set_u32(4, 0xf900_0000);
    space.set_writable(4, &[0x07, 0x05, 0, 0x01]);
    space.set_w1c(7, &[0xf9]);
    space.write(4, &[0xff; 4]);
    assert_eq!(space.u32(4), 0x0000_0507);
    space.set_u8(7, 0xf9);
    space.write(6, &[0, 0x80]);
    assert_eq!(space.u16(6), 0x7900);
}

#[test]
fn beyond_the_end() {
    let mut space = ConfigSpace::new(256);
    space.set_writable(254, &[0xff; 8]);
    space.write(254, &[1, 2, 3, 4]);
    let mut data = [0; 4];
    space.read(254, &mut data);
    assert_eq!(data, [1, 2, 0xff, 0xff]);
    space.read(u16::MAX, &mut data);
    assert_eq!(data, [0xff; 4]);
    space.write(u16::MAX, &[1; 4]);
    space.set_u32(u16::MAX, 1);
    space.set_u32(254, 0x1122_3344);
    assert_eq!(space.u16(254), 0x3344);
    assert_eq!(space.u32(254), !0);
    assert_eq!(ConfigSpace::new(0).size(), 256);
    assert_eq!(ConfigSpace::new(usize::MAX).size(), 4096);
}

#[test]
fn parts_alternate() {
    let mut space = ConfigSpace::new(256);
    space.set_emulated(0x10, 2);
    space.set_emulated(0x13, 1);
    let parts = |offset, len| {
        let parts = space.split(offset, len);
        let parts = parts.map(|part| (part.offset, part.len, part.emulated));
        parts.collect::<Vec<_>>()
    };
    assert_eq!(
        parts(0x0e, 6),
        [
            (0x0e, 2, false),
            (0x10, 2, true),
            (0x12, 1, false),
            (0x13, 1, true)
        ]
    );
    assert_eq!(parts(0xfe, 4), [(0xfe, 2, false), (0x100, 2, true)]);
    assert_eq!(parts(0xffff, usize::MAX).len(), 1);
    assert_eq!(parts(0x10, 0), []);
}

#[test]
fn side_effects_are_told_of_a_whole_part() {
    let mut space = ConfigSpace::new(256);
    space.set_side_effects(0x04, 2);
    space.set_emulated(0x10, 4);
    space.set_side_effects(0x13, 1);
    let effects = |offset, len| {
        let parts = space.split(offset, len).map(|part| part.side_effects);
        parts.collect::<Vec<_>>()
    };
    assert_eq!(effects(0x04, 4), [true]);
    assert_eq!(effects(0x06, 2), [false]);
    assert_eq!(effects(0x0e, 6), [false, true]);
    assert_eq!(effects(0x10, 2), [false]);
    let part = space.split(0x04, 4).next().unwrap();
    assert!(part.touches(0x05, 1) && part.touches(0x07, 4) && part.touches(0x00, 5));
    assert!(!part.touches(0x08, 1) && !part.touches(0x00, 4));
    let end = space.split(u16::MAX, 4).next().unwrap();
    assert!(end.touches(u16::MAX, 1) && !end.touches(0, 4));
}

#[test]
fn the_device_gets_the_guests_bits() {
    let mut space = ConfigSpace::new(256);
    let bits = Bits {
        guest: 0x00f0_ff0f,
        cleared: 0x0f00_0080,
        concealed: 0x8000_0010,
    };
    space.set_passed(0x40, 4, bits);
    space.set_passed(0x44, 2, Bits::READ_ONLY);
    space.set_emulated(0x46, 2);
    let parts = space.split_write(0x3f, 10);
    let parts: Vec<_> = parts.map(|p| (p.offset, p.len, p.write)).collect();
    use DeviceWrite::{Dropped, Masked, Whole};
    assert_eq!(
        parts,
        [
            (0x3f, 1, Whole),
            (0x40, 1, Masked),
            (0x41, 1, Whole),
            (0x42, 1, Masked),
            (0x43, 3, Dropped),
            (0x46, 2, Dropped),
            (0x48, 1, Whole),
        ]
    );
    // A read does not tell masks apart.
    assert_eq!(space.split(0x3f, 10).count(), 3);
    let new = space.for_device(0x40, &[0xff; 4], &[0x90, 0, 0x05, 0xff]);
    assert_eq!(new, [0x1f, 0xff, 0xf5, 0xf0]);
    let mut data = [0xff; 4];
    space.conceal(0x40, &mut data);
    assert_eq!(data, [0xef, 0xff, 0xff, 0x7f]);
    assert_eq!(space.for_device(0xff, &[1, 2], &[0; 2]), [1]);
    space.conceal(u16::MAX, &mut data);
    assert_eq!(space.device_write(0x44), Dropped);
    assert_eq!(space.device_write(0x100), Dropped);
}

#[derive(Clone, Debug)]
enum Step {
    Writable(u16, Vec<u8>),
    W1c(u16, Vec<u8>),
    Emulated(u16, usize),
    Set(u16, u32),
    Write(u16, Vec<u8>),
}

fn offset() -> impl Strategy<Value = u16> {
    prop_oneof![0u16..16, 240u16..270, any::<u16>()]
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..9);
    prop_oneof![
        (offset(), bytes()).prop_map(|(o, b)| Step::Writable(o, b)),
        (offset(), bytes()).prop_map(|(o, b)| Step::W1c(o, b)),
        (offset(), 0usize..9).prop_map(|(o, n)| Step::Emulated(o, n)),
        (offset(), any::<u32>()).prop_map(|(o, v)| Step::Set(o, v)),
        (offset(), bytes()).prop_map(|(o, b)| Step::Write(o, b)),
    ]
}

proptest! {
    #[test]
    fn as_bit_by_bit(
        steps in prop::collection::vec(step(), 0..40),
        probe in offset(),
        len in 0usize..9,
    ) {
        let mut space = ConfigSpace::new(256);
        let bits = 256 * 8;
        let (mut value, mut writable) = (vec![false; bits], vec![false; bits]);
        let mut w1c = vec![false; bits];
        let mut emulated = vec![false; 256];
        let each = |offset: u16, bytes: &[u8], f: &mut dyn FnMut(usize, bool)| {
            for (i, byte) in bytes.iter().enumerate() {
                for bit in 0..8 {
                    let at = (usize::from(offset) + i) * 8 + bit;
                    if at < bits {
                        f(at, byte >> bit & 1 == 1);
                    }
                }
            }
        };
        for step in &steps {
            match step {
                Step::Writable(o, b) => {
                    space.set_writable(*o, b);
                    each(*o, b, &mut |i, v| writable[i] = v);
                }
                Step::W1c(o, b) => {
                    space.set_w1c(*o, b);
                    each(*o, b, &mut |i, v| w1c[i] = v);
                }
                Step::Set(o, v) => {
                    space.set_u32(*o, *v);
                    each(*o, &v.to_le_bytes(), &mut |i, v| value[i] = v);
                }
                Step::Emulated(o, n) => {
                    space.set_emulated(*o, *n);
                    let bytes = (0..*n).map(|i| usize::from(*o) + i);
                    bytes.filter(|i| *i < 256).for_each(|i| emulated[i] = true);
                }
                Step::Write(o, b) => {
                    space.write(*o, b);
                    each(*o, b, &mut |i, v| {
                        if w1c[i] { value[i] &= !v } else if writable[i] { value[i] = v }
                    });
                }
            }
        }
        let mut data = vec![0; len];
        space.read(probe, &mut data);
        for (i, byte) in data.iter().enumerate() {
            for bit in 0..8 {
                let at = (usize::from(probe) + i) * 8 + bit;
                prop_assert_eq!(byte >> bit & 1 == 1, value.get(at).copied().unwrap_or(true));
            }
        }
        let mut at = usize::from(probe);
        let mut last = None;
        for part in space.split(probe, len) {
            prop_assert_eq!(usize::from(part.offset), at);
            prop_assert!(part.len > 0 && last != Some(part.emulated));
            for i in at..at + part.len {
                prop_assert_eq!(emulated.get(i).copied().unwrap_or(true), part.emulated);
            }
            at += part.len;
            last = Some(part.emulated);
        }
        prop_assert_eq!(at, usize::from(probe) + len);
    }
}
