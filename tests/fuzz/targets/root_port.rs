//! A root port: any accesses, devices that come and go, and what the port says must follow.

#![no_main]

mod access;

use access::Access;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use pci::addr::Range;
use pci::port_setup::PortSetup;
use pci::root_port::{PortEffect, PortShape, RootPort};
use pci::upstream::Forwarding;

#[derive(Debug, Arbitrary)]
struct Input {
    hot_plug: bool,
    pin: u8,
    setup: Setup,
    steps: Vec<Step>,
}

/// What firmware sets. Windows in units of their granularity.
#[derive(Debug, Arbitrary)]
struct Setup {
    buses: (u8, u8),
    memory: Option<(u8, u8)>,
    prefetchable: Option<(u16, u8)>,
    io: Option<(u8, u8)>,
}

impl Setup {
    fn get(&self) -> PortSetup {
        let window = |unit: u64, start: u64, units: u8| Range {
            start: start * unit,
            size: (u64::from(units) + 1) * unit,
        };
        let mib = 1 << 20;
        PortSetup {
            secondary: self.buses.0,
            subordinate: self.buses.1,
            mem32: self
                .memory
                .map(|(at, n)| window(mib, 0xc00 + u64::from(at), n)),
            pref64: self
                .prefetchable
                .map(|(at, n)| window(mib, 0x1000 + u64::from(at), n)),
            io: self
                .io
                .map(|(at, n)| window(0x1000, (at % 8).into(), n % 8)),
        }
    }
}

#[derive(Debug, Arbitrary)]
enum Step {
    Access(Access),
    /// A dword of the registers that matter: COMMAND, buses, windows, slot, link, MSI.
    Register(u8, u32, bool),
    Insert,
    Remove,
    Button,
    Occupied(bool),
    Reset,
}

const REGISTERS: [u16; 14] = [
    0x04, 0x18, 0x1c, 0x20, 0x24, 0x28, 0x2c, 0x30, 0x3c, 0x50, 0x58, 0x80, 0x84, 0x8c,
];

/// What follows from the effects, as the VMM keeps it.
struct Followed {
    forwarding: Forwarding,
    pin: bool,
}

impl Followed {
    fn of(port: &RootPort) -> Self {
        Self {
            forwarding: port.forwarding(),
            pin: port.pin(),
        }
    }

    /// Carries out the effects of a change; `was_up` and `occupied` are from before.
    fn follow(&mut self, effects: &[PortEffect], port: &RootPort, occupied: bool, hot_plug: bool) {
        let was_up = self.forwarding.link_up;
        let mut resets = 0;
        for effect in effects {
            match effect {
                PortEffect::Forward(now) => {
                    assert_ne!(*now, self.forwarding, "nothing has changed");
                    self.forwarding = *now;
                }
                PortEffect::Reset => resets += 1,
                PortEffect::Message(message) => {
                    assert!(
                        hot_plug && self.forwarding.bus_master,
                        "a message is a DMA write"
                    );
                    assert_eq!(message.address % 4, 0);
                }
                PortEffect::Pin(level) => {
                    assert!(hot_plug && *level != self.pin);
                    self.pin = *level;
                }
            }
        }
        let goes_down = was_up && !self.forwarding.link_up;
        // A device that has gone needs no reset.
        let wanted = u32::from(goes_down && occupied && port.is_occupied());
        assert_eq!(
            resets, wanted,
            "a link that goes down resets what is behind it"
        );
    }
}

fn check(port: &RootPort, followed: &Followed, hot_plug: bool) {
    let now = port.forwarding();
    assert_eq!(followed.forwarding, now, "the effects tell of each change");
    assert_eq!(followed.pin, port.pin(), "the effects tell of the pin");
    assert!(!now.link_up || port.is_occupied() && port.has_power());
    assert!(!now.has_bus(0), "bus 0 is never behind a port");
    let [memory, prefetchable] = now.memory;
    for window in [memory, prefetchable].into_iter().flatten() {
        assert!(window.size > 0 && window.start % (1 << 20) == 0 && window.size % (1 << 20) == 0);
    }
    assert!(memory.is_none_or(|window| window.end() <= 1 << 32));
    assert!(
        now.io
            .is_none_or(|window| window.size % 0x1000 == 0 && window.end() <= 1 << 16)
    );
    assert!(hot_plug || !port.hears_button() && !port.pin());
    // What is fixed: the IDs, the class, the header's type and the list of capabilities.
    let read = |offset| {
        let mut data = [0; 4];
        port.read(offset, &mut data);
        u32::from_le_bytes(data)
    };
    assert_eq!((read(0x00), read(0x08)), (0x000c_1b36, 0x0604_0000));
    assert_eq!((read(0x0c) >> 16 & 0xff, read(0x34)), (0x01, 0x40));
    assert_eq!((read(0x40) & 0xffff, read(0x80) & 0xffff), (0x8010, 0x0005));
    // Parity and SERR# have no effect, so nothing is pending but the slot's interrupt.
    assert_eq!(read(0x04) >> 16 & !0x08, 0x0010, "STATUS");
    // Link Status says what the link does (7.5.3.8, Data Link Layer Link Active).
    assert_eq!(read(0x50) >> 29 & 1 != 0, now.link_up, "Link Status");
}

/// A wide read has the bytes of narrow ones.
fn read(port: &RootPort, offset: u16, len: usize) {
    let mut wide = vec![0xa5; len];
    port.read(offset, &mut wide);
    for (at, byte) in (offset..).zip(wide) {
        let mut narrow = [0xa5];
        port.read(at, &mut narrow);
        assert_eq!(narrow[0], byte, "register {at:#x}");
    }
}

fuzz_target!(|input: Input| {
    let hot_plug = input.hot_plug;
    let mut port = RootPort::new(PortShape {
        number: 1,
        pin: input.pin % 4,
        hot_plug,
        ..PortShape::default()
    });
    port.set_power_on(&input.setup.get());
    let mut followed = Followed::of(&port);
    for step in &input.steps {
        let occupied = port.is_occupied();
        let effects = match step {
            Step::Access(access) if access.write => {
                port.write(access.offset % 0x110, &access.bytes())
            }
            Step::Access(access) => {
                read(&port, access.offset % 0x110, access.bytes().len());
                Vec::new()
            }
            Step::Register(index, value, true) => {
                let register = REGISTERS[usize::from(*index) % REGISTERS.len()];
                port.write(register, &value.to_le_bytes())
            }
            Step::Register(index, ..) => {
                read(&port, REGISTERS[usize::from(*index) % REGISTERS.len()], 4);
                Vec::new()
            }
            Step::Insert if hot_plug => port.insert(),
            Step::Remove if hot_plug => port.remove(),
            Step::Button => port.press_button(),
            // What is not told by effects: the VMM looks at the port itself.
            Step::Occupied(occupied) => {
                port.set_occupied(*occupied);
                followed = Followed::of(&port);
                Vec::new()
            }
            Step::Reset => {
                port.reset();
                followed = Followed::of(&port);
                Vec::new()
            }
            Step::Insert | Step::Remove => Vec::new(),
        };
        followed.follow(&effects, &port, occupied, hot_plug);
        check(&port, &followed, hot_plug);
    }
});
