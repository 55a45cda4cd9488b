//! A device is added to a running guest, and removed.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use vmm::control::ControlRequest;
use vmm::plug::{AddError, Refusal, Removal, RemoveError, RemoveRequest, RemovedBy};
use vmm::run_events::RunEvent;

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{FakeDevice, ID};
use crate::pci::{COMMAND, MEMORY, bar_register};
use crate::plug_host::{PlugHost, Step, is_closed, request};
use crate::ports::{BAR1, BEHIND, PORT};
use crate::vm::{Live, Vm, eventually};

pub const TESTS: &[Test] = tests![a_device_comes_and_goes,];

const NAME: &str = "0000:01:00.0";
const SLOT_CONTROL: u16 = 0x58;
/// Power on and its indicator; off; and the enables of Linux: button, link, interrupt.
const ON: u32 = 0x0100;
const OFF: u32 = 0x0700;
const LISTEN: u32 = 0x1021;
/// Slot Status: button, link changed.
const BUTTON: u32 = 0x0001;
const LINK_CHANGED: u32 = 0x0100;

impl Asm {
    fn slot_control(&mut self, value: u32) -> &mut Self {
        self.write_at(PORT, SLOT_CONTROL, Width::Word, value)
    }

    /// Waits until these events have come, and clears them.
    fn await_events(&mut self, events: u32) -> &mut Self {
        let port = self.cfg_address(PORT, SLOT_CONTROL);
        let again = self.here();
        self.pause().input(Width::Dword, port);
        self.code(|a| a.and(iced_x86::code_asm::eax, events << 16));
        self.cmp_eax(0).je(again);
        self.write_at(PORT, SLOT_CONTROL + 2, Width::Word, events)
    }

    /// Takes a device into use: power, BAR 1, COMMAND.
    fn take_device(&mut self) -> &mut Self {
        self.await_events(LINK_CHANGED).slot_control(ON | LISTEN);
        self.write_at(PORT, SLOT_CONTROL + 2, Width::Word, LINK_CHANGED);
        self.write_at(BEHIND, bar_register(1), Width::Dword, BAR1);
        self.commands(MEMORY, MEMORY)
    }

    /// Gives the device up when the button is pressed.
    fn give_up_device(&mut self) -> &mut Self {
        self.await_events(BUTTON).slot_control(OFF | LISTEN);
        self.write_at(PORT, SLOT_CONTROL + 2, Width::Word, LINK_CHANGED)
    }
}

/// A device with a number in BAR 1.
fn device(name: &'static str, number: u32) -> Arc<FakeDevice> {
    let mut device = FakeDevice::new();
    device.name = name;
    device.poke(1, 0x20, number);
    device.into_arc()
}

fn remove(live: &Live) -> Result<Removal, RemoveError> {
    live.control.remove(&RemoveRequest {
        id: NAME.into(),
        force: false,
        timeout: None,
    })
}

/// The events of a run.
fn events(live: &Live) -> Arc<Mutex<Vec<RunEvent>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    live.control.events().observe(move |event| {
        told.lock().unwrap().push(event);
    });
    seen
}

fn wait_for(seen: &Mutex<Vec<RunEvent>>, event: &RunEvent) {
    let has = || seen.lock().unwrap().contains(event);
    eventually(&format!("{event:?}"), has);
}

fn removed(by: RemovedBy) -> RunEvent {
    RunEvent::DeviceRemoved {
        id: NAME.into(),
        by,
    }
}

fn a_device_comes_and_goes() {
    const TIMES: usize = 3;
    let device = device(NAME, 0x600d);
    let host = Arc::new(PlugHost::new(&[&device]));
    let mut g = Asm::new();
    g.show_at(BEHIND, 0).slot_control(OFF | LISTEN);
    for _ in 0..TIMES {
        g.print("ready\n").take_device().show_at(BEHIND, 0);
        g.show(BAR1 + 0x20).print("used\n").give_up_device();
        g.show_at(BEHIND, 0).show(BAR1 + 0x20).print("gone\n");
        g.wait_key();
    }
    g.power_off();
    let (beside, hot) = (Arc::clone(&device), Arc::clone(&host));
    let run = Vm::new(g).ports("1,io=on").host(&host).run_beside(|live| {
        let seen = events(live);
        let slots = live.slots();
        for time in 1..=TIMES {
            eventually("ready", || live.count_of("ready\n") == time);
            let added = live.control.add(&request(&["01:00.0"]), &|| false).unwrap();
            assert!(added.heard);
            assert_eq!(added.functions[0].bdf.to_string(), "0000:01:00.0");
            assert_eq!(added.functions[0].port.to_string(), "0000:00:01.0");
            assert_eq!(live.control.functions().len(), 1);
            eventually("used", || live.count_of("used\n") == time);
            assert_eq!(remove(live).unwrap(), Removal::Requested);
            let is_removed = |e: &&RunEvent| **e == removed(RemovedBy::Request);
            eventually("removed", || {
                seen.lock().unwrap().iter().filter(is_removed).count() == time
            });
            assert!(live.control.functions().is_empty());
            assert!(is_closed(
                &beside,
                1 + usize::from(time > 0) * 0 + hosts(&hot)
            ));
            assert_eq!(live.slots(), slots);
            eventually("gone", || live.count_of("gone\n") == time);
            live.press_key();
        }
    });
    let text = run.powered_off();
    let _ = text;
}

fn hosts(_: &Arc<PlugHost>) -> usize {
    1
}
