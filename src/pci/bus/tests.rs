//! The tree of buses, with made-up functions.

use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::access::decode_ecam;
use crate::config_space::ConfigSpace;
use crate::upstream::Forwarding;

struct Plain(Mutex<ConfigSpace>);

impl Plain {
    fn new(header_type: u8) -> Arc<Self> {
        let mut space = ConfigSpace::new(4096);
        space.set_writable(0, &[0xff; 4096]);
        space.set_u8(HEADER_TYPE, header_type);
        Arc::new(Self(Mutex::new(space)))
    }
}

impl PciFunction for Plain {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        assert!([1, 2, 4].contains(&data.len()));
        assert_eq!(usize::from(offset) % data.len(), 0);
        assert!(offset < 4096);
        self.0.lock().unwrap().read(offset, data);
    }
    fn config_write(&self, offset: u16, data: &[u8]) {
        assert!([1, 2, 4].contains(&data.len()));
        assert_eq!(usize::from(offset) % data.len(), 0);
        assert!(offset < 4096);
        self.0.lock().unwrap().write(offset, data);
    }
    fn reset(&self) {
        *self.0.lock().unwrap() = ConfigSpace::new(4096);
    }
}

fn byte(bus: &RootBus, device: u8, function: u8, offset: u16) -> u8 {
    let mut data = [0];
    bus.config_read(0, device, function, offset, &mut data);
    data[0]
}

#[test]
fn slots() {
    let bus = RootBus::new();
    let taken = |device, function| Err(PciError::Taken { device, function });
    let none = |device, function| Err(PciError::NoSuchSlot { device, function });
    assert_eq!(bus.add(0, 1, Plain::new(0)), Err(PciError::Reserved));
    assert_eq!(bus.add(32, 0, Plain::new(0)), none(32, 0));
    assert_eq!(bus.add(1, 8, Plain::new(0)), none(1, 8));
    assert_eq!(bus.add(2, 1, Plain::new(0)), Ok(on_bus(2, 1)));
    assert_eq!(bus.add(2, 1, Plain::new(0)), taken(2, 1));
    let devices: Vec<_> = (0..30)
        .map(|_| bus.add_next(Plain::new(0)).unwrap().device)
        .collect();
    let expected: Vec<_> = (1..32).filter(|d| *d != 2).collect();
    assert_eq!(devices, expected);
    assert_eq!(bus.add_next(Plain::new(0)), Err(PciError::Full));
    assert!(bus.remove(7, 0).is_some());
    assert!(bus.remove(7, 0).is_none());
    assert!(bus.get(7, 0).is_none());
    assert_eq!(bus.add_next(Plain::new(0)).unwrap().device, 7);
    assert!(bus.remove(0, 0).is_none());
    assert!(bus.get(0, 0).is_some());
    assert!(bus.get(200, 200).is_none());
}

#[test]
fn absent_is_all_ones() {
    let bus = RootBus::new();
    bus.add(1, 0, Plain::new(0)).unwrap();
    for (number, device, function) in [(0, 1, 1), (1, 1, 0), (0, 31, 7), (0, 255, 255)] {
        let mut data = [0; 4];
        bus.config_write(number, device, function, 0, &[0; 4]);
        bus.config_read(number, device, function, 0, &mut data);
        assert_eq!(data, [0xff; 4]);
    }
}

#[test]
fn multi_function_bit_follows_the_slot() {
    let bus = RootBus::new();
    bus.add(1, 0, Plain::new(0x80)).unwrap();
    bus.add(2, 0, Plain::new(0x00)).unwrap();
    assert_eq!(byte(&bus, 1, 0, HEADER_TYPE), 0x00);
    bus.add(2, 3, Plain::new(0x00)).unwrap();
    assert_eq!(byte(&bus, 2, 0, HEADER_TYPE), 0x80);
    let mut dword = [0; 4];
    bus.config_read(0, 2, 0, 0x0c, &mut dword);
    assert_eq!(dword, [0, 0, 0x80, 0]);
    bus.remove(2, 3);
    assert_eq!(byte(&bus, 2, 0, HEADER_TYPE), 0x00);
    assert_eq!(byte(&bus, 2, 3, HEADER_TYPE), 0xff);
    // A function that does not answer reads as ones.
    let away = bus.add_next(Plain::new(0xff)).unwrap().device;
    assert_eq!(byte(&bus, away, 0, HEADER_TYPE), 0xff);
    // Its neighbours are not touched.
    bus.config_write(0, 1, 0, 0x0f, &[0x80]);
    assert_eq!(byte(&bus, 1, 0, 0x0f), 0x80);
    assert_eq!(byte(&bus, 0, 0, HEADER_TYPE), 0x00);
}

#[test]
fn reset_reaches_every_function() {
    let bus = RootBus::new();
    bus.add(3, 0, Plain::new(0)).unwrap();
    bus.config_write(0, 3, 0, 0x40, &[1]);
    bus.reset();
    assert_eq!(byte(&bus, 3, 0, 0x40), 0);
}

/// A tree with a port at 04.1, which has bus 5 behind it, and function 2 there.
fn with_port() -> (RootBus, Bdf, Arc<Upstream>) {
    let bus = RootBus::new();
    let upstream = Arc::new(Upstream::new());
    let port = bus.add_port(4, 1, Plain::new(1), upstream.clone()).unwrap();
    bus.add_behind(port, 2, Plain::new(0)).unwrap();
    upstream.set(Forwarding {
        secondary: 5,
        subordinate: 7,
        link_up: true,
        ..Forwarding::default()
    });
    (bus, port, upstream)
}

fn reads(bus: &RootBus, number: u8, device: u8, function: u8) -> bool {
    bus.config_write(number, device, function, 0x40, &[0x5a]);
    let mut data = [0];
    bus.config_read(number, device, function, 0x40, &mut data);
    data == [0x5a]
}

#[test]
fn one_device_answers_behind_a_port() {
    let (bus, port, _) = with_port();
    assert!(reads(&bus, 5, 0, 2) && reads(&bus, 0, 4, 1));
    for (number, device, function) in [(5, 0, 0), (5, 1, 2), (5, 31, 2), (6, 0, 2), (4, 0, 2)] {
        assert!(!reads(&bus, number, device, function));
    }
    assert!(!reads(&bus, 0, 0, 2) && !reads(&bus, 8, 0, 2));
    let mut byte = [0];
    bus.config_read(5, 0, 2, HEADER_TYPE, &mut byte);
    assert_eq!(byte, [0]);
    bus.add_behind(port, 0, Plain::new(0)).unwrap();
    bus.config_read(5, 0, 2, HEADER_TYPE, &mut byte);
    assert_eq!(byte, [0x80]);
    assert!(bus.remove_behind(port, 2).is_some() && bus.remove_behind(port, 2).is_none());
    assert!(!reads(&bus, 5, 0, 2) && reads(&bus, 5, 0, 0));
}

#[test]
fn the_guest_numbers_the_bus_and_the_link_may_be_down() {
    let (bus, _, upstream) = with_port();
    let now = upstream.now();
    upstream.set(Forwarding {
        secondary: 9,
        subordinate: 9,
        ..now
    });
    assert!(reads(&bus, 9, 0, 2) && !reads(&bus, 5, 0, 2));
    upstream.set(Forwarding {
        link_up: false,
        ..now
    });
    assert!(!reads(&bus, 5, 0, 2));
    // Numbers that firmware has not given: bus 0 stays the root bus.
    upstream.set(Forwarding {
        secondary: 0,
        ..now
    });
    assert!(!reads(&bus, 0, 0, 2) && !reads(&bus, 5, 0, 2));
}

#[test]
fn ports_and_what_is_behind_them_have_slots() {
    let (bus, port, upstream) = with_port();
    let nowhere = on_bus(4, 0);
    let f = || Plain::new(0);
    assert_eq!(
        bus.add_port(4, 1, f(), upstream.clone()),
        Err(PciError::Taken {
            device: 4,
            function: 1
        })
    );
    assert_eq!(bus.add_port(0, 1, f(), upstream), Err(PciError::Reserved));
    assert_eq!(
        bus.add_behind(nowhere, 0, f()),
        Err(PciError::NoPort(nowhere))
    );
    let function = 2;
    assert_eq!(
        bus.add_behind(port, function, f()),
        Err(PciError::TakenBehind { port, function })
    );
    assert_eq!(
        bus.add_behind(port, 8, f()),
        Err(PciError::NoSuchSlot {
            device: 0,
            function: 8
        })
    );
    bus.reset();
    let mut byte = [0xff];
    bus.config_read(5, 0, 2, 0x40, &mut byte);
    assert_eq!(byte, [0], "reset reaches what is behind a port");
    bus.remove(4, 1);
    assert!(!reads(&bus, 5, 0, 2));
    assert_eq!(bus.add_behind(port, 0, f()), Err(PciError::NoPort(port)));
}

#[test]
fn parts_are_aligned() {
    let split = |offset, len| aligned_parts(offset, len).collect::<Vec<_>>();
    assert_eq!(split(4, 4), [(4, 0..4)]);
    assert_eq!(split(0, 8), [(0, 0..4), (4, 4..8)]);
    assert_eq!(split(1, 3), [(1, 0..1), (2, 1..3)]);
    assert_eq!(split(2, 4), [(2, 0..2), (4, 2..4)]);
    assert_eq!(split(4095, 4), [(4095, 0..1)]);
    assert_eq!(split(4096, 4), []);
    assert_eq!(split(0, 0), []);
}

proptest! {
    #[test]
    fn parts_cover_the_access(offset: u16, len in 0usize..40) {
        let expected = len.min(CONFIG_SPACE_SIZE.saturating_sub(offset.into()));
        let mut next = 0;
        for (at, range) in aligned_parts(offset, len) {
            prop_assert_eq!(range.start, next);
            prop_assert_eq!(usize::from(at), usize::from(offset) + range.start);
            prop_assert!([1, 2, 4].contains(&range.len()));
            prop_assert_eq!(usize::from(at) % range.len(), 0);
            next = range.end;
        }
        prop_assert_eq!(next, expected);
    }

    #[test]
    fn any_access_is_as_memory(
        accesses in prop::collection::vec(
            (0xff0u64..0x1008, prop::collection::vec(any::<u8>(), 0..9)),
            0..20,
        ),
    ) {
        let bus = RootBus::new();
        bus.add(1, 0, Plain::new(0)).unwrap();
        let base = 1 << 15;
        let mut model = [0u8; 4096];
        for (offset, data) in accesses {
            bus.write(decode_ecam(base + offset, data.len()), &data);
            for (i, byte) in data.iter().enumerate().filter(|_| offset < 4096) {
                if let Some(to) = model.get_mut(offset as usize + i) {
                    *to = *byte;
                }
            }
            let mut read = vec![0; data.len()];
            bus.read(decode_ecam(base + offset, read.len()), &mut read);
            for (i, byte) in read.iter().enumerate() {
                prop_assert_eq!(*byte, *model.get(offset as usize + i).unwrap_or(&0xff));
            }
        }
    }
}
