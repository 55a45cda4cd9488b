//! The slot of a root port: the port interrupts the guest by a message or by its pin, and the guest
//! turns the slot's power off and on.

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{Call, FakeDevice, ID};
use crate::irq_code::MESSAGE_ADDRESS;
use crate::pci::{COMMAND, MASTER, MEMORY, bar_register, ecam};
use crate::ports::{BAR1, BEHIND, PORT};
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![
    the_port_sends_messages,
    the_port_has_a_pin,
    the_guest_turns_the_power_off_and_on,
    a_reboot_turns_the_power_on,
];

const SLOT_CONTROL: u16 = 0x58;
const SLOT_STATUS: u16 = 0x5a;
const LINK_CONTROL: u16 = 0x50;
const LINK_DISABLE: u32 = 0x10;
/// Power on and its indicator; off; the interrupt and changes of the link enabled.
const ON: u32 = 0x0100;
const OFF: u32 = 0x0700;
const LISTEN: u32 = 0x1020;
const LINK_CHANGED: u32 = 0x0100;
/// GSI of INTD.
const GSI: u32 = 21;
const V: u8 = 0x41;

impl Asm {
    /// The link goes down and comes up: two events, each of which the guest clears.
    fn link_down_and_up(&mut self) -> &mut Self {
        for value in [LINK_DISABLE, 0] {
            self.write_at(PORT, LINK_CONTROL, Width::Word, value);
            self.write_at(PORT, SLOT_STATUS, Width::Word, LINK_CHANGED);
        }
        self
    }
}

fn numbers(build: impl FnOnce(&mut Asm)) -> Vec<u32> {
    let device = FakeDevice::new().into_arc();
    let mut g = Asm::new();
    build(&mut g);
    g.power_off();
    Vm::new(g).device_behind_port(&device, "1").run().numbers()
}

fn the_port_sends_messages() {
    let counts = numbers(|g| {
        g.interrupts(&[V]);
        g.write_at(PORT, 0x84, Width::Dword, MESSAGE_ADDRESS);
        g.write_at(PORT, 0x8c, Width::Word, V.into());
        g.write_at(PORT, 0x82, Width::Word, 1);
        g.write_at(PORT, SLOT_CONTROL, Width::Word, ON | LISTEN);
        // A message is a memory write, which the port must be allowed to make.
        g.link_down_and_up().show_count(V);
        g.write_at(PORT, COMMAND, Width::Word, MASTER);
        g.link_down_and_up().await_count(V, 2).show_count(V);
        g.write_at(PORT, SLOT_CONTROL, Width::Word, ON);
        g.link_down_and_up().show_count(V);
    });
    assert_eq!(counts, [0, 2, 2]);
}

/// Two ports share a GSI, which is asserted until neither of them asserts it.
fn the_port_has_a_pin() {
    /// A port whose device number is four more has the same GSI.
    const OTHER: (u8, u8, u8) = (0, 5, 0);
    let devices = [(); 2].map(|()| FakeDevice::new().into_arc());
    let mut g = Asm::new();
    // The handler turns the second port's interrupts off, by a dword of zeros.
    g.level_handler(V, ecam(OTHER.1, SLOT_CONTROL))
        .interrupts(&[]);
    g.ioapic_level(GSI, V).cli();
    for port in [PORT, OTHER] {
        g.write_at(port, SLOT_CONTROL, Width::Word, ON | LISTEN);
        g.write_at(port, LINK_CONTROL, Width::Word, LINK_DISABLE);
        g.show_at(port, COMMAND);
    }
    g.write_at(PORT, SLOT_CONTROL, Width::Word, ON);
    g.show_at(PORT, COMMAND).sti().await_count(V, 1);
    g.show_at(OTHER, COMMAND).show_count(V).show_count(V);
    g.power_off();
    let shown = Vm::new(g)
        .device_behind_port(&devices[0], "1")
        .function_behind_port(&devices[1], "5", "02:00.0")
        .run()
        .numbers();
    // Interrupt Status of each port.
    let pending = shown[..4].iter().map(|status| status >> 19 & 1);
    assert_eq!(pending.collect::<Vec<_>>(), [1, 1, 0, 0]);
    // A KVM without hardware support may raise a level once more.
    assert!((1..=3).contains(&shown[4]), "{shown:?}");
    assert_eq!(shown[4], shown[5]);
}

fn the_guest_turns_the_power_off_and_on() {
    let device = FakeDevice::new();
    device.poke(1, 0x20, 0x600d);
    let device = device.into_arc();
    let mut g = Asm::new();
    g.commands(MEMORY, MEMORY).show(BAR1 + 0x20);
    g.write_at(PORT, SLOT_CONTROL, Width::Word, OFF);
    g.show_at(BEHIND, 0)
        .show(BAR1 + 0x20)
        .show_at(PORT, SLOT_CONTROL);
    g.write_at(PORT, SLOT_CONTROL, Width::Word, ON);
    g.show_at(BEHIND, 0).show_at(BEHIND, COMMAND);
    g.show_at(BEHIND, bar_register(1));
    g.write_at(BEHIND, bar_register(1), Width::Dword, BAR1);
    g.write_at(BEHIND, COMMAND, Width::Word, MEMORY);
    g.show(BAR1 + 0x20).power_off();
    let run = Vm::new(g).device_behind_port(&device, "1").run();
    let shown = run.numbers();
    // Presence stays; the link has changed.
    assert_eq!(shown[..4], [0x600d, u32::MAX, u32::MAX, 0x0140_0700]);
    assert_eq!(shown[4..], [ID, 0x0010_0000, 0, 0x600d]);
    assert_eq!(device.count(&Call::Reset), 1);
}

fn a_reboot_turns_the_power_on() {
    /// Where the first boot leaves a mark in RAM.
    const MARK: u32 = 0x7_1000;
    let shown = numbers(|g| {
        let again = g.label();
        g.load32(MARK).cmp_eax(1).je(again);
        g.write_at(PORT, SLOT_CONTROL, Width::Word, OFF | LISTEN);
        g.store32(MARK, 1).reset();
        g.bind(again).show_at(PORT, SLOT_CONTROL).show_at(BEHIND, 0);
    });
    assert_eq!(shown, [0x0040_0100, ID]);
}
