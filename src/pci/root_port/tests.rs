//! The registers of a port, without a guest.

mod slot;

use proptest::prelude::*;

use super::*;
use crate::addr::Range;
use crate::atomic_ops::AtomicOps;
use crate::capability;
use crate::host_path::HostPath;
use crate::link::{Link, Speed};

const MIB: u64 = 1 << 20;

fn setup() -> PortSetup {
    PortSetup {
        secondary: 3,
        subordinate: 3,
        mem32: Some(Range {
            start: 0xc010_0000,
            size: 2 * MIB,
        }),
        pref64: Some(Range {
            start: 0x40_0000_0000,
            size: 0x1_0000_0000,
        }),
        io: Some(Range {
            start: 0x2000,
            size: 0x1000,
        }),
    }
}

fn port(io: bool) -> RootPort {
    let mut port = RootPort::new(PortShape {
        number: 7,
        ..PortShape::default()
    });
    port.set_power_on(&PortSetup {
        io: setup().io.filter(|_| io),
        ..setup()
    });
    port.set_occupied(true);
    port
}

fn dword(port: &RootPort, offset: u16) -> u32 {
    let mut data = [0; 4];
    port.read(offset, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn a_root_port_with_two_capabilities() {
    let port = port(false);
    assert_eq!(dword(&port, 0), 0x000c_1b36);
    assert_eq!(dword(&port, 8), 0x0604_0000);
    assert_eq!(dword(&port, 0xc) >> 16 & 0xff, 1);
    let mut space = vec![0; 256];
    port.read(0, &mut space);
    let ids: Vec<_> = capability::standard(&space).iter().map(|c| c.id).collect();
    assert_eq!(ids, [id::PCIE, id::MSI]);
    assert_eq!(dword(&port, 0x40) >> 16, 0x42);
    assert_eq!(dword(&port, 0x4c) >> 24, 7);
    assert_eq!(dword(&port, 0x80) >> 16, 0x80);
    // There is no extended space.
    assert_eq!(dword(&port, 0x100), !0);
}

#[test]
fn firmware_sets_numbers_and_windows() {
    let mut port = port(true);
    assert_eq!(dword(&port, 0x18) & 0x00ff_ffff, 0x0003_0300);
    assert_eq!(dword(&port, 0x1c) & 0xffff, 0x2020);
    assert_eq!(dword(&port, 0x20), 0xc020_c010);
    assert_eq!(dword(&port, 0x24), 0xfff1_0001);
    assert_eq!((dword(&port, 0x28), dword(&port, 0x2c)), (0x40, 0x40));
    // Nothing decodes before COMMAND says so.
    let now = port.forwarding();
    assert_eq!(
        (now.memory, now.io, now.bus_master),
        ([None; 2], None, false)
    );
    assert!(now.link_up);
    let effects = port.write(4, &[7, 0]);
    let now = port.forwarding();
    assert_eq!(effects, [PortEffect::Forward(now)]);
    assert_eq!(now.memory, [setup().mem32, setup().pref64]);
    assert_eq!(now.io, setup().io);
    assert!(now.bus_master);
}

#[test]
fn closed_windows_let_nothing_through() {
    let mut port = RootPort::new(PortShape::default());
    port.set_power_on(&PortSetup {
        io: Some(Range { start: 0, size: 0 }),
        ..PortSetup::default()
    });
    port.set_occupied(true);
    port.write(4, &[7, 0]);
    let now = port.forwarding();
    assert_eq!((now.memory, now.io), ([None; 2], None));
    assert!(!now.has_bus(0));
}

#[test]
fn without_an_io_window_base_and_limit_are_zero() {
    let mut port = port(false);
    port.write(0x1c, &[0xff, 0xff]);
    port.write(0x30, &[0xff; 4]);
    port.write(4, &[0xff; 2]);
    assert_eq!((dword(&port, 0x1c) & 0xffff, dword(&port, 0x30)), (0, 0));
    assert_eq!(dword(&port, 4) & 1, 0);
    assert_eq!(port.forwarding().io, None);
}

#[test]
fn windows_move() {
    let mut port = port(true);
    port.write(4, &[7, 0]);
    port.write(0x20, &[0x2f, 0xd0, 0x3f, 0xd0]);
    assert_eq!(dword(&port, 0x20), 0xd030_d020);
    let moved = Range {
        start: 0xd020_0000,
        size: 2 * MIB,
    };
    assert_eq!(port.forwarding().memory[0], Some(moved));
    // A limit below the base closes the window.
    port.write(0x22, &[0x10, 0xd0]);
    assert_eq!(port.forwarding().memory[0], None);
    // The type of the prefetchable window is read-only, and the last address is a window's end.
    port.write(0x24, &[0xff; 12]);
    assert_eq!(dword(&port, 0x24), 0xfff1_fff1);
    let last = port.forwarding().memory[1].unwrap();
    assert_eq!((last.start, last.end()), (!0 << 20, !0));
    port.write(0x1c, &[0xff, 0xff]);
    assert_eq!(
        port.forwarding().io,
        Some(Range {
            start: 0xf000,
            size: 0x1000
        })
    );
}

#[test]
fn numbers_are_the_guests() {
    let mut port = port(false);
    assert!(port.forwarding().has_bus(3) && !port.forwarding().has_bus(4));
    let effects = port.write(0x18, &[0, 9, 11, 0xff]);
    assert!(matches!(effects[..], [PortEffect::Forward(_)]));
    let now = port.forwarding();
    assert!(now.has_bus(9) && now.has_bus(11) && !now.has_bus(3) && !now.has_bus(12));
    port.write(0x19, &[12]);
    assert!(
        !port.forwarding().has_bus(12),
        "subordinate is below secondary"
    );
    port.reset();
    assert!(port.forwarding().has_bus(3));
}

#[test]
fn a_reset_and_a_disabled_link_hide_what_is_behind() {
    let mut port = port(false);
    let active = |port: &RootPort| dword(port, 0x50) >> 29 & 1;
    assert_eq!(active(&port), 1);
    let effects = port.write(0x3e, &[0x40, 0]);
    assert_eq!(
        effects,
        [PortEffect::Forward(port.forwarding()), PortEffect::Reset]
    );
    assert!(!port.forwarding().link_up);
    assert_eq!(active(&port), 0);
    // A link that is down already is not reset again.
    assert_eq!(port.write(0x50, &[0x10, 0]), []);
    assert_eq!(port.write(0x3e, &[0, 0]), []);
    let effects = port.write(0x50, &[0, 0]);
    assert_eq!(effects, [PortEffect::Forward(port.forwarding())]);
    assert_eq!((port.forwarding().link_up, active(&port)), (true, 1));
    assert_eq!(
        port.write(0x50, &[0x10, 0]).last(),
        Some(&PortEffect::Reset)
    );
    // Nothing is reset where nothing is.
    port.write(0x50, &[0, 0]);
    port.set_occupied(false);
    assert_eq!(port.write(0x3e, &[0x40, 0]), []);
}

#[test]
fn the_link_is_shown() {
    let speed = |code| Speed::from_code(code).unwrap();
    let link = Link::new(speed(3), 8, Some((speed(4), 16))).unwrap();
    let path = HostPath {
        link,
        payload: 1,
        atomic_ops: AtomicOps {
            bits_32: true,
            bits_64: true,
            cas_128: false,
        },
    };
    let mut port = RootPort::new(PortShape {
        path,
        ..PortShape::default()
    });
    assert_eq!(dword(&port, 0x50) >> 16, 0x1000);
    port.set_occupied(true);
    assert_eq!(dword(&port, 0x50) >> 16, 0x3083);
    assert_eq!(dword(&port, 0x4c) & 0x3ff, 0x104);
    assert_eq!((dword(&port, 0x6c), dword(&port, 0x70) & 0xf), (0x1e, 4));
    assert_eq!(
        (dword(&port, 0x44) & 7, dword(&port, 0x48) >> 5 & 7),
        (1, 1)
    );
    assert_eq!(dword(&port, 0x64), 0x180, "AtomicOps of 32 and 64 bits");
    // The next device behind the port is another.
    port.write(0x48, &[0x40, 0]);
    port.set_path(HostPath::default());
    assert_eq!(dword(&port, 0x50) >> 16, 0x3011);
    assert_eq!((dword(&port, 0x4c) & 0x3ff, dword(&port, 0x6c)), (0x11, 2));
    assert_eq!((dword(&port, 0x44) & 7, dword(&port, 0x64)), (0, 0));
    assert_eq!(
        dword(&port, 0x48) & 0xff,
        0x40,
        "Device Control is the guest's"
    );
    port.reset();
    assert_eq!(dword(&port, 0x48) & 0xff, 0);
}

/// Registers that a guest may change, byte by byte, in a port with an I/O window.
fn writable() -> [u8; 256] {
    let mut masks = [0; 256];
    let mut put = |at: usize, bytes: &[u8]| masks[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x04, &[0x47, 0x05]);
    put(0x0c, &[0xff]);
    put(0x18, &[0xff, 0xff, 0xff]);
    put(0x1c, &[0xf0, 0xf0]);
    put(0x20, &[0xf0, 0xff, 0xf0, 0xff, 0xf0, 0xff, 0xf0, 0xff]);
    put(0x28, &[0xff; 8]);
    put(0x3c, &[0xff]);
    put(0x3e, &[0x43]);
    put(0x48, &[0xff, 0x08]);
    put(0x50, &[0xd8]);
    put(0x5c, &[0x0f]);
    put(0x70, &[0x0f]);
    // MSI: enable, address and data. One vector has no Multiple Message Enable.
    put(0x82, &[0x01]);
    put(
        0x84,
        &[0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    );
    masks
}

proptest! {
    /// As a register file with these masks, where only Link Status follows other registers.
    #[test]
    fn any_write_changes_what_is_writable(
        writes in prop::collection::vec(
            (0u16..0x120, prop::collection::vec(any::<u8>(), 0..9)),
            0..20,
        ),
    ) {
        let mut port = port(true);
        let masks = writable();
        let mut model = [0; 256];
        port.read(0, &mut model);
        for (offset, data) in writes {
            let before = port.forwarding();
            let effects = port.write(offset, &data);
            for (at, new) in (usize::from(offset)..).zip(&data) {
                if let (Some(old), Some(mask)) = (model.get_mut(at), masks.get(at)) {
                    *old = (*old & !mask) | (new & mask);
                }
            }
            let up = model[0x3e] & 0x40 == 0 && model[0x50] & 0x10 == 0;
            model[0x52..0x54].copy_from_slice(&(if up { 0x3011u16 } else { 0x1000 }).to_le_bytes());
            let mut space = [0; 256];
            port.read(0, &mut space);
            prop_assert_eq!(&space[..], &model[..]);
            let now = port.forwarding();
            prop_assert_eq!(now.link_up, up);
            prop_assert_eq!(effects.contains(&PortEffect::Forward(now)), now != before);
            prop_assert_eq!(effects.contains(&PortEffect::Reset), before.link_up && !up);
        }
        port.reset();
        let mut space = [0; 256];
        port.read(0, &mut space);
        let mut first = [0; 256];
        self::port(true).read(0, &mut first);
        prop_assert_eq!(space, first);
    }
}
