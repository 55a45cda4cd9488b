//! The slot's registers: what a driver of hot-plug sees and does.

use super::*;
use crate::Message;

const CAPABILITIES: u16 = 0x54;
const CONTROL: u16 = 0x58;
const STATUS: u16 = 0x5a;

/// Enables in Slot Control: button, presence, interrupt, link.
const BUTTON: u16 = 1;
const PRESENCE: u16 = 8;
const INTERRUPT: u16 = 0x20;
const LINK: u16 = 0x1000;
/// Power on with its indicator, and off.
const ON: u16 = 0x0100;
const OFF: u16 = 0x0700;

fn slot(occupied: bool) -> RootPort {
    let mut port = RootPort::new(PortShape {
        number: 7,
        hot_plug: true,
        ..PortShape::default()
    });
    port.set_power_on(&setup());
    port.set_occupied(occupied);
    port
}

fn word(port: &RootPort, offset: u16) -> u16 {
    let mut data = [0; 2];
    port.read(offset, &mut data);
    u16::from_le_bytes(data)
}

fn write(port: &mut RootPort, offset: u16, value: u16) -> Vec<PortEffect> {
    port.write(offset, &value.to_le_bytes())
}

/// Enables MSI with a message, and Bus Master Enable.
fn with_msi(port: &mut RootPort) -> PortEffect {
    port.write(0x84, &0xfee0_1000u32.to_le_bytes());
    port.write(0x8c, &0x41u16.to_le_bytes());
    write(port, 0x82, 1);
    write(port, 4, 4);
    PortEffect::Message(Message {
        address: 0xfee0_1000,
        data: 0x41,
    })
}

/// Speed, width and activity of the link.
fn link(port: &RootPort) -> u16 {
    word(port, 0x52) & !0x1000
}

#[test]
fn a_slot_at_power_on() {
    let port = slot(true);
    assert_eq!(word(&port, 0x42), 0x0142);
    assert_eq!(dword(&port, CAPABILITIES), 7 << 19 | 0x4_0073);
    assert_eq!((word(&port, CONTROL), word(&port, STATUS)), (ON, 0x40));
    assert_eq!(link(&port), 0x2011);
    let port = slot(false);
    assert_eq!((word(&port, CONTROL), word(&port, STATUS)), (OFF, 0));
    assert_eq!(link(&port), 0);
    assert!(!port.has_power() && !port.forwarding().link_up);
    // A port without a slot has none of this.
    let mut port = super::port(false);
    write(&mut port, CONTROL, 0xffff);
    assert_eq!((dword(&port, CAPABILITIES), dword(&port, CONTROL)), (0, 0));
    assert!(port.press_button().is_empty() && port.has_power());
    assert_eq!(word(&port, STATUS), 0);
}

#[test]
fn a_device_comes_into_an_empty_slot() {
    let mut port = slot(false);
    let message = with_msi(&mut port);
    assert!(!port.hears_changes());
    // As Linux does where there is a button.
    write(&mut port, CONTROL, OFF | BUTTON | INTERRUPT | LINK);
    assert!(port.hears_changes() && port.hears_button());
    assert_eq!(port.insert(), [message]);
    assert_eq!(word(&port, STATUS), 0x148);
    assert_eq!(link(&port), 0, "without power there is no link");
    write(&mut port, STATUS, 0x108);
    assert_eq!(word(&port, STATUS), 0x40);
    let effects = write(&mut port, CONTROL, ON | BUTTON | INTERRUPT | LINK);
    assert_eq!(effects, [PortEffect::Forward(port.forwarding()), message]);
    assert!(port.forwarding().link_up);
    assert_eq!((link(&port), word(&port, STATUS)), (0x2011, 0x140));
}

#[test]
fn the_guest_takes_the_power_away_and_gives_it_back() {
    let mut port = slot(true);
    let effects = write(&mut port, CONTROL, OFF);
    let down = port.forwarding();
    assert_eq!(effects, [PortEffect::Forward(down), PortEffect::Reset]);
    assert!(!down.link_up && !port.has_power());
    assert_eq!((link(&port), word(&port, STATUS)), (0, 0x140));
    // Neither a reset nor the power alone brings the link back.
    assert_eq!(port.write(0x3e, &[0x40, 0]), []);
    assert_eq!(write(&mut port, CONTROL, ON), []);
    let effects = port.write(0x3e, &[0, 0]);
    assert_eq!(effects, [PortEffect::Forward(port.forwarding())]);
    assert!(port.forwarding().link_up);
    // The device goes: there is nothing left to reset.
    let effects = port.remove();
    assert_eq!(effects, [PortEffect::Forward(port.forwarding())]);
    assert_eq!(word(&port, STATUS) & 0x48, 8);
    // At a reboot the empty slot is off, and nothing has happened.
    port.reset();
    assert_eq!((word(&port, CONTROL), word(&port, STATUS)), (OFF, 0));
}

#[test]
fn a_press_is_one_message_until_it_is_cleared() {
    let mut port = slot(true);
    let message = with_msi(&mut port);
    assert!(port.press_button().is_empty(), "not enabled");
    // Enabling a pending event sends.
    let effects = write(&mut port, CONTROL, ON | BUTTON | INTERRUPT);
    assert_eq!(effects, [message]);
    assert_eq!(word(&port, 6) & 8, 8, "Interrupt Status");
    assert!(port.press_button().is_empty());
    write(&mut port, STATUS, 0x08);
    assert_eq!(word(&port, STATUS), 0x41, "another event's bit");
    write(&mut port, STATUS, 0x01);
    assert_eq!((word(&port, STATUS), word(&port, 6) & 8), (0x40, 0));
    assert_eq!(port.press_button(), [message]);
    write(&mut port, STATUS, 0x01);
    assert!(!port.indicator_blinks());
    write(&mut port, CONTROL, 0x0200 | BUTTON | INTERRUPT);
    assert!(port.indicator_blinks());
    // Without Bus Master Enable there is no message, and it comes later.
    write(&mut port, 4, 0);
    assert!(port.press_button().is_empty());
    let effects = write(&mut port, 4, 4);
    assert_eq!(effects.last(), Some(&message));
}

#[test]
fn without_messages_the_pin_is_a_level() {
    let mut port = slot(true);
    write(&mut port, CONTROL, ON | BUTTON | PRESENCE | INTERRUPT);
    assert_eq!(port.press_button(), [PortEffect::Pin(true)]);
    assert!(port.press_button().is_empty() && port.pin());
    assert_eq!(write(&mut port, 4, 0x400), [PortEffect::Pin(false)]);
    assert_eq!(word(&port, 6) & 8, 8, "pending, and not asserted");
    assert_eq!(write(&mut port, 4, 0), [PortEffect::Pin(true)]);
    assert_eq!(write(&mut port, STATUS, 1), [PortEffect::Pin(false)]);
    // Messages replace the pin.
    port.press_button();
    assert!(port.pin());
    let effects = write(&mut port, 0x82, 1);
    assert_eq!(effects, [PortEffect::Pin(false)]);
    port.reset();
    assert!(!port.pin());
}

#[derive(Clone, Debug)]
enum Event {
    Write(u16, Vec<u8>),
    Insert,
    Remove,
    Press,
    Reset,
}

fn any_event() -> impl Strategy<Value = Event> {
    let data = prop::collection::vec(any::<u8>(), 0..5);
    let register = prop_oneof![
        0u16..0x100,
        Just(4),
        Just(0x3e),
        Just(0x50),
        Just(CONTROL),
        Just(STATUS),
        Just(0x82)
    ];
    prop_oneof![
        8 => (register, data).prop_map(|(at, data)| Event::Write(at, data)),
        1 => Just(Event::Insert),
        1 => Just(Event::Remove),
        2 => Just(Event::Press),
        1 => Just(Event::Reset),
    ]
}

proptest! {
    /// Presence, the link and the pin follow what happens, and each event that the guest listens to
    /// is told.
    #[test]
    fn the_registers_follow_what_happens(events in prop::collection::vec(any_event(), 0..40)) {
        let mut port = slot(true);
        let (mut occupied, mut pin, mut up) = (true, false, true);
        for event in events {
            let before = word(&port, STATUS);
            let effects = match &event {
                Event::Write(at, data) => port.write(*at, data),
                Event::Insert => port.insert(),
                Event::Remove => port.remove(),
                Event::Press => port.press_button(),
                Event::Reset => {
                    port.reset();
                    (pin, up) = (port.pin(), port.forwarding().link_up);
                    Vec::new()
                }
            };
            occupied = match event {
                Event::Insert => true,
                Event::Remove => false,
                _ => occupied,
            };
            for effect in &effects {
                match effect {
                    PortEffect::Pin(now) => pin = *now,
                    PortEffect::Forward(now) => up = now.link_up,
                    PortEffect::Reset => prop_assert!(!up && occupied),
                    PortEffect::Message(_) => prop_assert!(word(&port, 0x82) & 1 == 1),
                }
            }
            prop_assert_eq!(pin, port.pin());
            prop_assert_eq!(up, port.forwarding().link_up);
            prop_assert_eq!(up, link(&port) != 0);
            prop_assert!(!up || (occupied && port.has_power()));
            let status = word(&port, STATUS);
            prop_assert_eq!(status & 0x40 != 0, occupied);
            prop_assert_eq!(status & !0x149, 0, "reserved, and events that never happen");
            let (control, pending) = (word(&port, CONTROL), word(&port, 6) & 8 != 0);
            let heard = control & status & 9 != 0 || (control & LINK != 0 && status & 0x100 != 0);
            prop_assert_eq!(pending, heard && control & INTERRUPT != 0);
            let msi = word(&port, 0x82) & 1 != 0;
            prop_assert_eq!(pin, pending && !msi && word(&port, 4) & 0x400 == 0);
            if matches!(event, Event::Press) {
                prop_assert!(status & 1 == 1 && status & before & 1 == before & 1);
            }
        }
    }
}
