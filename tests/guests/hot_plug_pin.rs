//! Hot-plug without messages: the slot has a pin of its own, which is not the device's.

use std::sync::Arc;

use iced_x86::code_asm::eax;
use vmm::plug::{Removal, RemovedBy};

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::FakeDevice;
use crate::irq_code::counter;
use crate::pci::{MEMORY, bar_register, ecam};
use crate::plug_guest::{
    LISTEN, NAME, OFF, ON, SLOT_CONTROL, add, events, forced, is_closed, numbers, remove, removed,
    wait_for,
};
use crate::plug_host::PlugHost;
use crate::ports::{BAR1, BEHIND, PORT};
use crate::vm::{Vm, eventually};

pub const TESTS: &[Test] = tests![
    a_device_comes_and_goes_by_the_pin,
    a_pin_that_is_asserted_while_its_device_leaves,
];

/// The pins of the IOAPIC that INTA behind the port in slot 1, and INTD of the slot, lead to.
const PIN: u32 = 17;
const SLOT_PIN: u32 = 21;
const V: u8 = 0x41;
/// The slot's vector.
const S: u8 = 0x52;
/// BAR 1 of the device, behind the port.
const ACKNOWLEDGE: u32 = BAR1 + 4;
const ASK: u32 = BAR1 + 8;

impl Asm {
    /// Handlers of both pins, which clear the slot's events, and those of the device if it
    /// `acknowledges`; and a slot that is off and listens.
    fn listen_by_the_pins(&mut self, acknowledges: bool) -> &mut Self {
        let slot_status = ecam(1, SLOT_CONTROL + 2);
        self.handler_of(S, |g| {
            g.inc32(counter(S)).store(Width::Word, slot_status, 0xffff);
        });
        self.handler_of(V, |g| {
            g.inc32(counter(V));
            if acknowledges {
                g.store32(ACKNOWLEDGE, 0);
            }
        });
        self.interrupts(&[]).ioapic_level(PIN, V);
        self.ioapic_level(SLOT_PIN, S).slot_control(OFF | LISTEN)
    }

    /// Waits until Slot Status says so of presence, without a look at the events.
    fn await_presence(&mut self, present: bool) -> &mut Self {
        let again = self.here();
        self.pause().load32(ecam(1, SLOT_CONTROL));
        self.code(|a| a.and(eax, 0x40 << 16));
        match present {
            true => self.cmp_eax(0).je(again),
            false => self.cmp_eax(0).jne(again),
        }
    }

    /// Turns the power on, and lets the device decode BAR 1.
    fn power_up(&mut self) -> &mut Self {
        self.slot_control(ON | LISTEN);
        self.write_at(BEHIND, bar_register(1), Width::Dword, BAR1);
        self.commands(MEMORY, MEMORY)
    }
}

fn device(name: &'static str) -> Arc<FakeDevice> {
    let mut device = FakeDevice::new().with_resampled_pin();
    device.name = name;
    device.into_arc()
}

/// Linux hears the slot and the device by one pin with `pci=nomsi`.
fn a_device_comes_and_goes_by_the_pin() {
    const TIMES: usize = 3;
    let device = device(NAME);
    let host = Arc::new(PlugHost::new(&[&device]));
    let mut g = Asm::new();
    g.listen_by_the_pins(true);
    g.repeat(TIMES as u32, |g| {
        // The slot is heard: a device has come, and then the link is up.
        g.store32(counter(S), 0).print("ready\n").await_count(S, 1);
        g.await_presence(true).store32(counter(S), 0).power_up();
        g.await_count(S, 1)
            .show_at(PORT, 0x3c)
            .show_at(BEHIND, 0x3c);
        // The device is heard, and not the slot.
        g.store32(counter(S), 0)
            .store32(counter(V), 0)
            .store32(ASK, 5);
        let again = g.here();
        g.pause().load32(ASK).cmp_eax(0).jne(again);
        g.await_count(V, 5).show_count(S);
        // The button is heard, and no interrupt comes after the device.
        g.print("used\n").await_count(S, 1).store32(counter(V), 0);
        g.slot_control(OFF | LISTEN).await_presence(false);
        g.show_count(V).print("gone\n").wait_key();
    });
    g.power_off();
    let beside = Arc::clone(&device);
    let run = Vm::new(g).ports("1,io=on").host(&host).run_beside(|live| {
        for time in 1..=TIMES {
            let seen = events(live);
            eventually("ready", || live.count_of("ready\n") == time);
            assert!(add(live).unwrap().heard);
            eventually("used", || live.count_of("used\n") == time);
            assert_eq!(remove(live).unwrap(), Removal::Requested);
            wait_for(&seen, &removed(RemovedBy::Request));
            assert!(is_closed(&beside));
            eventually("gone", || live.count_of("gone\n") == time);
            live.press_key();
        }
    });
    let shown = numbers(&run.powered_off());
    let each = [0x400, 0x100, 0, 0];
    assert_eq!(shown, each.repeat(TIMES));
}

/// Nobody acknowledges the device, so the level comes again and again, until the device has left.
fn a_pin_that_is_asserted_while_its_device_leaves() {
    let device = device(NAME);
    let host = Arc::new(PlugHost::new(&[&device]));
    let mut g = Asm::new();
    g.listen_by_the_pins(false).print("ready\n");
    g.await_presence(true).power_up();
    g.store32(counter(V), 0).store32(ASK, 1).await_count(V, 100);
    g.print("storm\n").await_presence(false).print("gone\n");
    // The removal ends a little later than presence.
    g.wait_key().show_count(V).show_count(V).power_off();
    let run = Vm::new(g).ports("1,io=on").host(&host).run_beside(|live| {
        live.wait_for("ready\n");
        add(live).unwrap();
        live.wait_for("storm\n");
        assert_eq!(
            live.control.remove(&forced(), &|| false).unwrap(),
            Removal::Removed
        );
        live.wait_for("gone\n");
        live.press_key();
    });
    let shown = numbers(&run.powered_off());
    assert_eq!(shown[0], shown[1]);
    assert!(is_closed(&device));
}
