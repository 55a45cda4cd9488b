//! The guest's and the user's part of hot-plug tests: one empty root port, whose slot the guest
//! works by its registers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use iced_x86::code_asm::eax;
use vmm::plug::{AddError, Added, Removal, RemoveError, RemoveRequest, RemovedBy};
use vmm::run_events::RunEvent;

use crate::common::asm::{Asm, Width};
use crate::device::FakeDevice;
use crate::pci::{MEMORY, bar_register};
use crate::plug_host::{PlugHost, request};
use crate::ports::{BAR1, BEHIND, PORT};
use crate::reset_kinds::{Outcome, Resets};
use crate::vm::{Live, Vm, eventually};

pub const NAME: &str = "0000:01:00.0";
pub const SLOT_CONTROL: u16 = 0x58;
/// Power on and its indicator; off; on with an indicator that blinks; and the enables of Linux:
/// button, link, interrupt.
pub const ON: u32 = 0x0100;
pub const OFF: u32 = 0x0700;
pub const BLINK: u32 = 0x0200;
pub const LISTEN: u32 = 0x1021;
/// Slot Status: button, link changed.
pub const BUTTON: u32 = 0x0001;
pub const LINK_CHANGED: u32 = 0x0100;
/// Where the first boot leaves a mark in RAM.
pub const MARK: u32 = 0x7_1000;

impl Asm {
    pub fn slot_control(&mut self, value: u32) -> &mut Self {
        self.write_at(PORT, SLOT_CONTROL, Width::Word, value)
    }

    /// Waits until these events have come, and clears them.
    pub fn await_events(&mut self, events: u32) -> &mut Self {
        let port = self.cfg_address(PORT, SLOT_CONTROL);
        let again = self.here();
        self.pause().input(Width::Dword, port);
        self.code(|a| a.and(eax, events << 16));
        self.cmp_eax(0).je(again);
        self.write_at(PORT, SLOT_CONTROL + 2, Width::Word, events)
    }

    /// Takes a device into use: power, BAR 1, COMMAND. An event of the device before may come late,
    /// so presence counts.
    pub fn take_device(&mut self) -> &mut Self {
        let port = self.cfg_address(PORT, SLOT_CONTROL);
        let again = self.here();
        self.pause().input(Width::Dword, port);
        self.code(|a| a.and(eax, 0x40 << 16)).cmp_eax(0).je(again);
        self.await_events(LINK_CHANGED).slot_control(ON | LISTEN);
        self.write_at(PORT, SLOT_CONTROL + 2, Width::Word, LINK_CHANGED);
        self.write_at(BEHIND, bar_register(1), Width::Dword, BAR1);
        self.commands(MEMORY, MEMORY)
    }

    /// Gives the device up when the button is pressed.
    pub fn give_up_device(&mut self) -> &mut Self {
        self.await_events(BUTTON).slot_control(OFF | LISTEN);
        self.write_at(PORT, SLOT_CONTROL + 2, Width::Word, LINK_CHANGED)
    }
}

/// A device with a number in BAR 1.
pub fn device(name: &'static str, number: u32) -> Arc<FakeDevice> {
    let mut device = FakeDevice::new();
    device.name = name;
    device.poke(1, 0x20, number);
    device.into_arc()
}

pub fn only_hot_reset() -> Resets {
    Resets {
        own: Outcome::Absent,
        bus: &[NAME],
        ..Resets::default()
    }
}

pub fn add(live: &Live) -> Result<Added, AddError> {
    live.control.add(&request(&["01:00.0"]), &|| false)
}

pub fn remove(live: &Live) -> Result<Removal, RemoveError> {
    let request = RemoveRequest {
        id: NAME.into(),
        force: false,
        timeout: None,
    };
    live.control.remove(&request, &|| false)
}

/// A request that does not wait for the guest.
pub fn forced() -> RemoveRequest {
    RemoveRequest {
        id: NAME.into(),
        force: true,
        timeout: None,
    }
}

/// A request that waits for the guest for so long.
pub fn asking(patience: Duration) -> RemoveRequest {
    RemoveRequest {
        id: NAME.into(),
        force: false,
        timeout: Some(patience),
    }
}

/// The events of a run.
pub fn events(live: &Live) -> Arc<Mutex<Vec<RunEvent>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    live.control.events().observe(move |event| {
        told.lock().unwrap().push(event);
    });
    seen
}

pub fn wait_for(seen: &Mutex<Vec<RunEvent>>, event: &RunEvent) {
    eventually(&format!("{event:?}"), || has(seen, event));
}

pub fn has(seen: &Mutex<Vec<RunEvent>>, event: &RunEvent) -> bool {
    seen.lock().unwrap().contains(event)
}

pub fn removed(by: RemovedBy) -> RunEvent {
    RunEvent::DeviceRemoved {
        id: NAME.into(),
        by,
    }
}

/// Nothing has the device but the test and its host.
pub fn is_closed(device: &Arc<FakeDevice>) -> bool {
    Arc::strong_count(device) <= 3
}

/// A guest that has taken the device, and waits for the button.
pub fn taken(g: &mut Asm) -> &mut Asm {
    g.slot_control(OFF | LISTEN).print("ready\n").take_device();
    g.show(BAR1 + 0x20).print("used\n")
}

/// Runs a guest with one empty port; the device is added when it is ready.
pub fn with_added(g: Asm, device: &Arc<FakeDevice>, beside: impl FnOnce(&Live) + Send) -> Vec<u32> {
    let host = Arc::new(PlugHost::new(&[device]));
    let run = Vm::new(g).ports("1,io=on").host(&host).run_beside(|live| {
        live.wait_for("ready\n");
        add(live).unwrap();
        live.wait_for("used\n");
        beside(live);
    });
    numbers(&run.powered_off())
}

/// The numbers among what a guest has printed.
pub fn numbers(text: &str) -> Vec<u32> {
    let numbers = text.lines().map(|line| u32::from_str_radix(line, 16));
    numbers.filter_map(Result::ok).collect()
}
