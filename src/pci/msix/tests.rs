//! Tests of MSI-X: its rules one by one; any accesses are in [`model`].

use proptest::prelude::*;

use super::*;

mod model;

fn msix(vectors: u16) -> Msix {
    Msix::new(MsixCapability {
        offset: 0x70,
        vectors,
        table_bar: 4,
        table_offset: 0x2000,
        pba_bar: 4,
        pba_offset: 0x3000,
    })
}

fn message(address: u64, data: u32) -> Option<Message> {
    Some(Message { address, data })
}

/// The message of each vector; `None` while the vector is not live.
fn live(m: &Msix) -> Vec<Option<Message>> {
    (0..m.capability().vectors).map(|v| m.live(v)).collect()
}

const ON: [u8; 2] = [0, 0x80];
const ON_MASKED: [u8; 2] = [0, 0xc0];
const OFF: [u8; 2] = [0, 0];

#[test]
fn parses_only_bars_that_exist() {
    let mut image = vec![0; 256];
    image[0x06] = 0x10;
    image[0x34] = 0x70;
    image[0x70..0x7c].copy_from_slice(&[0x11, 0, 0x40, 0x80, 4, 0x20, 0, 0, 5, 0x30, 0, 0]);
    let cap = MsixCapability::parse(&image).unwrap();
    assert_eq!((cap.offset, cap.vectors), (0x70, 65));
    assert_eq!((cap.table_bar, cap.table_offset), (4, 0x2000));
    assert_eq!((cap.pba_bar, cap.pba_offset), (5, 0x3000));
    assert_eq!((cap.table_size(), cap.pba_size()), (65 * 16, 16));
    image[0x74] = 6;
    assert_eq!(MsixCapability::parse(&image), None);
    image[0x74] = 0;
    image[0x78] = 7;
    assert_eq!(MsixCapability::parse(&image), None);
    assert_eq!(MsixCapability::parse(&image[..0x72]), None);
    assert_eq!(MsixCapability::parse(&[]), None);
    assert_eq!(msix(0).capability().vectors, 1);
    assert_eq!(msix(!0).capability().vectors, 2048);
}

/// Vector 0 does not count, and no vector is in use while no interrupt can come through.
#[test]
fn an_unused_vector_is_used_by_its_message_or_its_mask() {
    for (offset, data) in [(16, 0x10u32), (20, 1), (24, 5), (28, 0), (44, 0)] {
        let mut m = msix(3);
        m.control_write(2, &ON);
        m.table_write(0, &[0xff; 12]);
        m.table_write(12, &[0; 4]);
        m.table_write(28, &[1, 0, 0, 0]);
        assert!(!m.uses_vectors_from(FIRST_UNUSED_VECTOR), "{offset}");
        m.table_write(offset, &data.to_le_bytes());
        assert!(m.uses_vectors_from(FIRST_UNUSED_VECTOR), "{offset}");
        for off in [ON_MASKED, OFF] {
            m.control_write(2, &off);
            assert!(!m.uses_vectors_from(FIRST_UNUSED_VECTOR), "{offset}");
        }
    }
}

/// Rule: a guest may write Message Control as a word, as one byte, or in a dword with ID and link.
#[test]
fn control_in_any_access() {
    let accesses: [(u16, &[u8]); 4] = [
        (2, &[0xff, 0xbf]),
        (3, &[0x80]),
        (0, &[0xff, 0xff, 0xff, 0x80]),
        (1, &[0, 0, 0x80, 0, 0, 0, 0]),
    ];
    for (offset, data) in accesses {
        let mut m = msix(3);
        m.control_write(offset, data);
        assert!(m.is_enabled());
        let mut cap = [0xaa; 16];
        m.capability_read(0, &mut cap);
        let registers = [0x02, 0x80, 4, 0x20, 0, 0, 4, 0x30, 0, 0];
        assert_eq!(cap[..2], [0xaa; 2]);
        assert_eq!(cap[2..12], registers);
        assert_eq!(cap[12..], [0xaa; 4]);
    }
    let mut m = msix(3);
    for (offset, data) in [
        (2, &[0xff, 0x3f][..]),
        (4, &[0xff; 8]),
        (u16::MAX, &[0xff; 8]),
    ] {
        m.control_write(offset, data);
        assert_eq!(m, msix(3));
    }
    let mut byte = [0];
    m.control_write(2, &ON_MASKED);
    m.capability_read(3, &mut byte);
    assert_eq!(byte, [0xc0]);
}

#[test]
fn life_of_a_vector() {
    let mut m = msix(2);
    m.table_write(12, &[0; 4]);
    m.table_write(0, &[0, 0, 0xe0, 0xfe, 0, 0, 0, 0]);
    m.table_write(8, &[0x41, 0, 0, 0]);
    assert_eq!(live(&m), [None, None]);
    m.control_write(2, &ON);
    assert_eq!(live(&m), [message(0xfee0_0000, 0x41), None]);
    assert_eq!(m.live(9), None);
    m.table_write(0, &[0x03, 0x10, 0xe0, 0xfe]);
    assert_eq!(live(&m), [message(0xfee0_1000, 0x41), None]);
    // Function Mask, and changes while it is set.
    m.control_write(2, &ON_MASKED);
    assert_eq!(live(&m), [None, None]);
    m.table_write(28, &[0]);
    assert_eq!(live(&m), [None, None]);
    m.control_write(2, &ON);
    assert_eq!(live(&m), [message(0xfee0_1000, 0x41), message(0, 0)]);
    m.table_write(12, &[1]);
    assert_eq!(live(&m), [None, message(0, 0)]);
    // A quadword of data and mask.
    m.table_write(8, &[0x42, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(m.live(0), message(0xfee0_1000, 0x42));
    m.control_write(2, &OFF);
    assert_eq!(live(&m), [None, None]);
    m.table_write(8, &[0x43]);
    m.control_write(2, &ON);
    assert_eq!(m.live(0), message(0xfee0_1000, 0x43));
    m.reset();
    assert_eq!(m, msix(2));
}

#[test]
fn enabled_with_the_function_masked() {
    let mut m = msix(1);
    m.table_write(12, &[0]);
    m.control_write(2, &ON_MASKED);
    assert!(m.is_enabled());
    assert_eq!(live(&m), [None]);
    m.control_write(2, &ON);
    assert_eq!(live(&m), [message(0, 0)]);
}

/// Rule: a write returns the entries that it touches, and touches no other.
#[test]
fn touched_entries() {
    for (offset, len, expected) in [
        (0, 4, 0..1),
        (12, 20, 0..2),
        (24, 8, 1..2),
        (31, 2, 1..3),
        (44, 8, 2..3),
        (48, 4, 3..3),
        (0, 1000, 0..3),
        (u64::MAX, 8, 3..3),
    ] {
        let mut m = msix(3);
        m.control_write(2, &ON);
        assert_eq!(
            m.table_write(offset, &vec![0; len]),
            expected,
            "{offset} {len}"
        );
        for vector in 0..3 {
            assert!(expected.contains(&vector) || m.live(vector).is_none());
        }
    }
}

/// Rule: if the host refuses, the registers show the refusal.
#[test]
fn refusals_are_shown() {
    let mut m = msix(3);
    m.table_write(12, &[0]);
    m.table_write(28, &[0]);
    m.control_write(2, &ON);
    assert_eq!(live(&m), [message(0, 0), message(0, 0), None]);
    m.refuse_vector(1);
    m.refuse_vector(99);
    assert_eq!(live(&m), [message(0, 0), None, None]);
    let mut mask = [0; 4];
    m.table_read(28, &mut mask);
    assert_eq!(mask, [1, 0, 0, 0]);
    // The guest may try again.
    m.table_write(28, &[0]);
    assert_eq!(m.live(1), message(0, 0));
    m.refuse_enable();
    assert!(!m.is_enabled());
    assert_eq!(live(&m), [None, None, None]);
    m.control_write(2, &ON);
    assert_eq!(live(&m), [message(0, 0), message(0, 0), None]);
}

#[test]
fn pending_bits() {
    let m = msix(70);
    let mut all = [0; 20];
    m.pba_read(0, &mut all, &|v| v == 1 || v >= 68);
    assert_eq!(all[..10], [2, 0, 0, 0, 0, 0, 0, 0, 0x30, 0]);
    assert_eq!(all[10..16], [0; 6]);
    assert_eq!(all[16..], [0xff; 4]);
    m.pba_read(u64::MAX, &mut all, &|_| true);
    assert_eq!(all, [0xff; 20]);
}

proptest! {
    #[test]
    fn far_offsets(offset: u64, cap_offset: u16, len in 0usize..20) {
        let mut m = msix(2048);
        m.control_write(2, &ON);
        let mut data = vec![0; len];
        prop_assert!(m.table_write(offset, &data).len() <= 3);
        m.table_read(offset, &mut data);
        m.pba_read(offset, &mut data, &|_| true);
        m.capability_read(cap_offset, &mut data);
    }
}
