//! Tests of MSI: its rules one by one; any accesses are in [`model`].

use proptest::prelude::*;

use super::*;

mod model;

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

/// The set-up of a host for MSI: the messages and the mask; `None` while MSI is off.
fn set_up(msi: &Msi) -> Option<(Vec<Message>, u32)> {
    msi.is_enabled().then(|| (msi.messages(), msi.masked()))
}

#[test]
fn as_linux_does_it() {
    let mut msi = Msi::new(cap(true, false, 8));
    msi.capability_write(4, &[0, 0x10, 0xe0, 0xfe]);
    msi.capability_write(8, &[1, 0, 0, 0]);
    msi.capability_write(12, &[0x33, 0x40]);
    assert_eq!(set_up(&msi), None);
    let address = 0x1_fee0_1000;
    msi.capability_write(2, &[0x21, 0]);
    let enabled = (messages(address, 0x4030..0x4034), 0);
    assert_eq!(set_up(&msi), Some(enabled.clone()));
    assert_eq!(msi.vectors(), 4);
    // The data register has two bytes.
    msi.capability_write(12, &[0x33, 0x40, 0xff, 0xff]);
    assert_eq!(set_up(&msi), Some(enabled));
    msi.capability_write(12, &[0x50]);
    assert_eq!(set_up(&msi), Some((messages(address, 0x4050..0x4054), 0)));
    let mut all = [0xaa; 16];
    msi.capability_read(0, &mut all, &|_| true);
    let expected = [
        0xaa, 0xaa, 0xa7, 0, 0, 0x10, 0xe0, 0xfe, 1, 0, 0, 0, 0x50, 0x40, 0xaa, 0xaa,
    ];
    assert_eq!(all, expected);
    msi.reset();
    assert_eq!(msi, Msi::new(cap(true, false, 8)));
}

/// Rule: the guest's number of vectors is never trusted.
#[test]
fn multiple_enable_is_clamped() {
    for (max, written, expected) in [(1, 7, 1), (8, 7, 8), (8, 2, 4), (32, 6, 32), (5, 5, 4)] {
        let mut msi = Msi::new(cap(false, false, max));
        msi.capability_write(0, &[0xff, 0xff, written << 4 | 1, 0xff]);
        assert!(msi.is_enabled());
        assert_eq!(msi.vectors(), expected);
        assert_eq!(msi.messages().len(), usize::from(expected));
        let mut control = [0];
        msi.capability_read(2, &mut control, &|_| false);
        assert_eq!(1 << (control[0] >> 4 & 7), expected);
    }
    assert_eq!(Msi::new(cap(true, true, 0)).capability().max_vectors, 1);
}

/// Rule: the registers show a guest how many vectors it can have.
#[test]
fn fewer_vectors_are_told() {
    let mut msi = Msi::new(cap(true, true, 16));
    msi.capability_write(12, &[0xff, 0x40, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    msi.capability_write(2, &[0x41]);
    for (limit, control, masked) in [
        (16, 0xc9, 0xffff),
        (11, 0xb7, 0xff),
        (12, 0xb7, 0xff),
        (1, 0x81, 1),
    ] {
        msi.limit_vectors(limit);
        let mut registers = [0; 20];
        msi.capability_read(2, &mut registers, &|_| true);
        assert_eq!(registers[0], control);
        assert_eq!(registers[14..16], [masked as u8, (masked >> 8) as u8]);
        assert_eq!(msi.masked(), masked);
    }
    assert_eq!(msi.messages(), messages(0, [0x40ff]));
    // The guest cannot have more than that.
    msi.capability_write(2, &[0x31]);
    assert_eq!(msi.vectors(), 1);
    msi.refuse_enable();
    assert_eq!(set_up(&msi), None);
    msi.capability_write(2, &[0x01]);
    assert!(msi.is_enabled());
    msi.reset();
    assert_eq!(msi, Msi::new(cap(true, true, 16)));
}

#[test]
fn masks_and_pending() {
    let mut msi = Msi::new(cap(false, true, 2));
    msi.capability_write(12, &[0xff; 4]);
    msi.capability_write(2, &[0x11]);
    assert_eq!(set_up(&msi), Some((messages(0, [0, 1]), 3)));
    msi.capability_write(12, &[1]);
    assert_eq!(set_up(&msi), Some((messages(0, [0, 1]), 1)));
    let mut registers = [0; 8];
    msi.capability_read(12, &mut registers, &|vector| vector == 1);
    assert_eq!(registers, [1, 0, 0, 0, 2, 0, 0, 0]);
    msi.capability_write(12, &[3]);
    assert_eq!(set_up(&msi), Some((messages(0, [0, 1]), 3)));
    // With fewer vectors in use, only the vectors in use count.
    msi.capability_write(2, &[0x01]);
    assert_eq!(set_up(&msi), Some((messages(0, [0]), 1)));
}

proptest! {
    #[test]
    fn far_offsets(offset: u16, len in 0usize..20) {
        let mut msi = Msi::new(cap(true, true, 32));
        let mut data = vec![0xff; len];
        msi.capability_write(offset, &data);
        msi.capability_read(offset, &mut data, &|_| true);
    }
}
