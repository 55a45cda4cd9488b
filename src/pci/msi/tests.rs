//! Tests of MSI: its rules one by one, and any accesses against plain memory.

use super::*;
use proptest::prelude::*;

fn cap(address_64: bool, per_vector_masking: bool, max_vectors: u8) -> MsiCapability {
    MsiCapability {
        offset: 0x50,
        address_64,
        per_vector_masking,
        max_vectors,
    }
}

fn messages(address: u64, data: impl IntoIterator<Item = u32>) -> Vec<Message> {
    let message = |data| Message { address, data };
    data.into_iter().map(message).collect()
}

#[test]
fn parses_each_shape() {
    for (control, expected, size) in [
        (0x0000u16, cap(false, false, 1), 10),
        (0x0087, cap(true, false, 8), 14),
        (0x010a, cap(false, true, 32), 20),
        (0x018e, cap(true, true, 32), 24),
    ] {
        let mut image = vec![0; 256];
        image[0x06] = 0x10;
        image[0x34] = 0x50;
        image[0x50] = 5;
        image[0x52..0x54].copy_from_slice(&control.to_le_bytes());
        let parsed = MsiCapability::parse(&image).unwrap();
        assert_eq!((parsed, parsed.size()), (expected, size));
    }
    assert_eq!(MsiCapability::parse(&[0; 256]), None);
}

#[test]
fn as_linux_does_it() {
    let mut msi = Msi::new(cap(true, false, 8));
    assert_eq!(msi.capability_write(4, &[0, 0x10, 0xe0, 0xfe]), []);
    assert_eq!(msi.capability_write(8, &[1, 0, 0, 0]), []);
    assert_eq!(msi.capability_write(12, &[0x33, 0x40]), []);
    let address = 0x1_fee0_1000;
    let enabled = MsiEffect::Enable {
        messages: messages(address, 0x4030..0x4034),
        masked: 0,
    };
    assert_eq!(msi.capability_write(2, &[0x21, 0]), [enabled]);
    assert_eq!(msi.vectors(), 4);
    assert!(!msi.is_masked(3) && msi.is_masked(4) && msi.is_masked(255));
    assert_eq!(msi.capability_write(12, &[0x33, 0x40, 0xff, 0xff]), []);
    let messages = messages(address, 0x4050..0x4054);
    let update = MsiEffect::Update { messages };
    assert_eq!(msi.capability_write(12, &[0x50]), [update]);
    let mut all = [0xaa; 16];
    msi.capability_read(0, &mut all, &|_| true);
    let expected = [
        0xaa, 0xaa, 0xa7, 0, 0, 0x10, 0xe0, 0xfe, 1, 0, 0, 0, 0x50, 0x40, 0xaa, 0xaa,
    ];
    assert_eq!(all, expected);
    assert_eq!(msi.reset(), [MsiEffect::Disable]);
    assert_eq!(msi.reset(), []);
}

/// Rule: the guest's number of vectors is never trusted.
#[test]
fn multiple_enable_is_clamped() {
    for (max, written, expected) in [(1, 7, 1), (8, 7, 8), (8, 2, 4), (32, 6, 32), (5, 5, 4)] {
        let mut msi = Msi::new(cap(false, false, max));
        let effects = msi.capability_write(0, &[0xff, 0xff, written << 4 | 1, 0xff]);
        assert_eq!(effects.len(), 1);
        assert_eq!(msi.vectors(), expected);
        assert_eq!(msi.messages().len(), usize::from(expected));
        let mut control = [0];
        msi.capability_read(2, &mut control, &|_| false);
        assert_eq!(1 << (control[0] >> 4 & 7), expected);
    }
    assert_eq!(Msi::new(cap(true, true, 0)).capability().max_vectors, 1);
}

#[test]
fn masks_and_pending() {
    let mut msi = Msi::new(cap(false, true, 2));
    assert_eq!(msi.capability_write(12, &[0xff; 4]), []);
    let enabled = MsiEffect::Enable {
        messages: messages(0, [0, 1]),
        masked: 3,
    };
    assert_eq!(msi.capability_write(2, &[0x11]), [enabled]);
    assert_eq!(
        msi.capability_write(12, &[1]),
        [MsiEffect::Unmask { vector: 1 }]
    );
    let mut registers = [0; 8];
    msi.capability_read(12, &mut registers, &|vector| vector == 1);
    assert_eq!(registers, [1, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(
        msi.capability_write(12, &[3]),
        [MsiEffect::Mask { vector: 1 }]
    );
    // Fewer vectors while enabled begin anew.
    let enabled = MsiEffect::Enable {
        messages: messages(0, [0]),
        masked: 1,
    };
    assert_eq!(
        msi.capability_write(2, &[0x01]),
        [MsiEffect::Disable, enabled]
    );
}

/// What the effects have made of the function: messages and mask while enabled.
type Seen = Option<(Vec<Message>, u32)>;

/// Every effect must be one that changes something.
fn apply(seen: &mut Seen, effect: MsiEffect) {
    match (effect, seen.take()) {
        (MsiEffect::Enable { messages, masked }, None) => *seen = Some((messages, masked)),
        (MsiEffect::Disable, Some(_)) => {}
        (MsiEffect::Mask { vector }, Some((m, mask))) if mask >> vector & 1 == 0 => {
            *seen = Some((m, mask | 1 << vector));
        }
        (MsiEffect::Unmask { vector }, Some((m, mask))) if mask >> vector & 1 == 1 => {
            *seen = Some((m, mask & !(1 << vector)));
        }
        (MsiEffect::Update { messages }, Some((old, mask)))
            if messages != old && messages.len() == old.len() =>
        {
            *seen = Some((messages, mask));
        }
        wrong => panic!("{wrong:?}"),
    }
}

proptest! {
    #[test]
    fn as_plain_registers(
        address_64: bool, masking: bool, log in 0u32..6,
        steps in prop::collection::vec(
            (0u16..28, prop::collection::vec(prop_oneof![Just(1u8), any::<u8>()], 0..9), 0u8..10), 0..60),
    ) {
        let c = cap(address_64, masking, 1 << log);
        let mut msi = Msi::new(c);
        let (data_at, mask_at) = if address_64 { (12, 16) } else { (8, 12) };
        let vector_bits = ((1u64 << (1 << log)) - 1) as u32;
        let fixed = log << 17 | u32::from(address_64) << 23 | u32::from(masking) << 24;
        let mut model = [0u8; 40];
        model[..4].copy_from_slice(&fixed.to_le_bytes());
        let mut writable = [0u8; 40];
        writable[2] = 0x71;
        writable[4..8].copy_from_slice(&[0xfc, 0xff, 0xff, 0xff]);
        if address_64 { writable[8..12].fill(0xff); }
        writable[data_at..data_at + 2].fill(0xff);
        if masking { writable[mask_at..mask_at + 4].copy_from_slice(&vector_bits.to_le_bytes()); }
        let power_on = model;
        let mut seen = None;
        for (offset, data, reset) in steps {
            let effects = if reset == 0 {
                model = power_on;
                msi.reset()
            } else {
                for (i, byte) in data.iter().enumerate() {
                    let at = usize::from(offset) + i;
                    model[at] = model[at] & !writable[at] | byte & writable[at];
                }
                let used = u32::from(model[2] >> 4 & 7).min(log);
                model[2] = model[2] & !0x70 | (used as u8) << 4;
                msi.capability_write(offset, &data)
            };
            prop_assert!(effects.len() <= 33);
            effects.into_iter().for_each(|e| apply(&mut seen, e));

            let size = usize::from(c.size());
            let mut read = [0; 40];
            msi.capability_read(0, &mut read, &|_| false);
            prop_assert_eq!(&read[..size], &model[..size]);
            prop_assert_eq!(&read[size..], &[0; 40][size..]);

            let count = 1u32 << (model[2] >> 4 & 7);
            let word = |at: usize| u32::from_le_bytes(model[at..at + 4].try_into().unwrap());
            let high = if address_64 { word(8) } else { 0 };
            let base = word(data_at) & 0xffff & !(count - 1);
            let mask = if masking { word(mask_at) } else { 0 };
            let expected = (model[2] & 1 == 1).then(|| (
                messages(u64::from(high) << 32 | u64::from(word(4)), base..base + count),
                mask & ((1u64 << count) - 1) as u32,
            ));
            prop_assert_eq!(&seen, &expected);
        }
    }

    #[test]
    fn far_offsets(offset: u16, len in 0usize..20) {
        let mut msi = Msi::new(cap(true, true, 32));
        let mut data = vec![0xff; len];
        msi.capability_write(offset, &data);
        msi.capability_read(offset, &mut data, &|_| true);
    }
}
