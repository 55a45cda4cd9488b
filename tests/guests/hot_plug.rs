//! A device is added to a running guest, and removed.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use iced_x86::code_asm::eax;
use vmm::control::ControlRequest;
use vmm::log::degraded::{self, Code};
use vmm::plug::{AddError, Added, Refusal, Removal, RemoveError, RemoveRequest, RemovedBy};
use vmm::run_events::RunEvent;

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{Call, FakeDevice, ID};
use crate::pci::{COMMAND, MEMORY, bar_register};
use crate::plug_host::{PlugHost, Step, request};
use crate::ports::{BAR1, BEHIND, PORT};
use crate::reset_kinds::{Outcome, Resets};
use crate::vm::{Live, Vm, eventually};

pub const TESTS: &[Test] = tests![
    a_device_comes_and_goes,
    a_second_request_presses_no_button,
    a_request_after_one_that_was_given_up,
    a_guest_that_does_not_listen,
    a_guest_that_never_answers,
    a_removal_that_is_forced,
    a_paused_guest_takes_and_gives_nothing,
    power_without_a_request_keeps_the_device,
    a_reboot_ends_the_request,
    a_reboot_keeps_an_added_device,
    the_hosts_request_presses_the_button,
    the_hosts_request_does_not_wait_where_nobody_listens,
    each_step_that_fails_is_undone,
    an_end_and_a_client_that_leaves_undo_an_add,
    what_does_not_fit_is_refused_at_once,
    a_device_comes_back_after_it_has_left,
    an_added_device_has_no_addresses,
    functions_come_and_go_together,
    a_storm_of_slot_control,
    an_interrupt_storm_at_a_removal,
];

const NAME: &str = "0000:01:00.0";
const SLOT_CONTROL: u16 = 0x58;
/// Power on and its indicator; off; on with an indicator that blinks; and the enables of Linux:
/// button, link, interrupt.
const ON: u32 = 0x0100;
const OFF: u32 = 0x0700;
const BLINK: u32 = 0x0200;
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
        self.code(|a| a.and(eax, events << 16));
        self.cmp_eax(0).je(again);
        self.write_at(PORT, SLOT_CONTROL + 2, Width::Word, events)
    }

    /// Takes a device into use: power, BAR 1, COMMAND. An event of the device before may come late,
    /// so presence counts.
    fn take_device(&mut self) -> &mut Self {
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
    eventually(&format!("{event:?}"), || has(seen, event));
}

fn has(seen: &Mutex<Vec<RunEvent>>, event: &RunEvent) -> bool {
    seen.lock().unwrap().contains(event)
}

fn removed(by: RemovedBy) -> RunEvent {
    RunEvent::DeviceRemoved {
        id: NAME.into(),
        by,
    }
}

fn add(live: &Live) -> Result<Added, AddError> {
    live.control.add(&request(&["01:00.0"]), &|| false)
}

/// Nothing has the device but the test and its host.
fn is_closed(device: &Arc<FakeDevice>) -> bool {
    Arc::strong_count(device) <= 3
}

/// A guest that has taken the device, and waits for the button.
fn taken(g: &mut Asm) -> &mut Asm {
    g.slot_control(OFF | LISTEN).print("ready\n").take_device();
    g.show(BAR1 + 0x20).print("used\n")
}

/// Runs a guest with one empty port; the device is added when it is ready.
fn with_added(g: Asm, device: &Arc<FakeDevice>, beside: impl FnOnce(&Live) + Send) -> Vec<u32> {
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
fn numbers(text: &str) -> Vec<u32> {
    let numbers = text.lines().map(|line| u32::from_str_radix(line, 16));
    numbers.filter_map(Result::ok).collect()
}

fn a_device_comes_and_goes() {
    const TIMES: usize = 50;
    let device = device(NAME, 0x600d);
    let host = Arc::new(PlugHost::new(&[&device]));
    let mut g = Asm::new();
    g.show_at(BEHIND, 0).slot_control(OFF | LISTEN);
    g.repeat(TIMES as u32, |g| {
        g.print("ready\n").take_device().show_at(BEHIND, 0);
        g.show(BAR1 + 0x20).print("used\n").give_up_device();
        g.show_at(BEHIND, 0).show(BAR1 + 0x20).print("gone\n");
        g.wait_key();
    });
    g.power_off();
    let beside = Arc::clone(&device);
    let run = Vm::new(g).ports("1,io=on").host(&host).run_beside(|live| {
        let seen = events(live);
        let slots = live.slots();
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let mut before = None;
        for time in 1..=TIMES {
            eventually("ready", || live.count_of("ready\n") == time);
            let added = add(live).unwrap();
            assert!(added.heard);
            let function = &added.functions[0];
            assert_eq!(function.bdf.to_string(), "0000:01:00.0");
            assert_eq!(function.port.to_string(), "0000:00:01.0");
            assert_eq!(live.control.functions().len(), 1);
            eventually("used", || live.count_of("used\n") == time);
            assert_eq!(remove(live).unwrap(), Removal::Requested);
            let is_removed = |e: &&RunEvent| **e == removed(RemovedBy::Request);
            eventually("removed", || {
                seen.lock().unwrap().iter().filter(is_removed).count() == time
            });
            // An event comes after what it tells of.
            assert!(live.control.functions().is_empty());
            assert!(is_closed(&beside));
            assert_eq!(live.slots(), slots);
            eventually("gone", || live.count_of("gone\n") == time);
            live.press_key();
            // The first time makes what stays, such as the thread of events.
            let now = *before.get_or_insert_with(descriptors);
            if time == TIMES {
                // Other tests of this process open files too.
                eventually("the descriptors", || descriptors() <= now + 4);
            }
        }
        let told = seen.lock().unwrap();
        let added = |e: &&RunEvent| matches!(e, RunEvent::DeviceAdded { .. });
        assert_eq!(told.iter().filter(added).count(), TIMES);
        let maps = |e: &&RunEvent| matches!(e, RunEvent::DeviceAdding { size: 3, .. });
        assert_eq!(told.iter().filter(maps).count(), 3 * TIMES);
    });
    assert_eq!(run.slots.0, run.slots.1);
    let shown = numbers(&run.powered_off());
    assert_eq!(shown[0], u32::MAX, "nothing is there before");
    let each = [ID, 0x600d, u32::MAX, u32::MAX];
    assert_eq!(shown[1..], each.repeat(TIMES));
    assert_eq!((device.command(), device.with_eventfd()), (0, vec![]));
    let steps = [Step::Look, Step::Limits, Step::Claim, Step::Open, Step::Map];
    let steps = [&steps[..], &[Step::Unmap, Step::GiveBack]].concat();
    assert_eq!(host.steps(), steps.repeat(TIMES));
}

/// A second press would take the first back.
fn a_second_request_presses_no_button() {
    let mut g = Asm::new();
    taken(&mut g)
        .await_events(BUTTON)
        .print("pressed\n")
        .wait_key();
    // Nobody presses again.
    g.show_at(PORT, SLOT_CONTROL).slot_control(OFF | LISTEN);
    g.print("off\n").wait_key().power_off();
    let shown = with_added(g, &device(NAME, 1), |live| {
        let seen = events(live);
        assert_eq!(remove(live).unwrap(), Removal::Requested);
        live.wait_for("pressed\n");
        for _ in 0..3 {
            assert_eq!(remove(live).unwrap(), Removal::Requested);
        }
        live.press_key();
        wait_for(&seen, &removed(RemovedBy::Request));
        let gone = remove(live).unwrap_err();
        assert_eq!(gone.kind(), Refusal::NotFound, "{gone}");
        live.press_key();
    });
    assert_eq!(shown[1] >> 16 & BUTTON, 0, "{:#x}", shown[1]);
}

/// The guest still waits for a second press when the first request is given up at once.
fn a_request_after_one_that_was_given_up() {
    let mut g = Asm::new();
    taken(&mut g)
        .await_events(BUTTON)
        .slot_control(BLINK | LISTEN);
    g.print("blinks\n").wait_key();
    g.show_at(PORT, SLOT_CONTROL).slot_control(OFF | LISTEN);
    g.print("off\n").wait_key().power_off();
    let shown = with_added(g, &device(NAME, 1), |live| {
        let seen = events(live);
        let at_once = RemoveRequest {
            id: NAME.into(),
            force: false,
            timeout: Some(Duration::ZERO),
        };
        assert_eq!(live.control.remove(&at_once).unwrap(), Removal::Requested);
        live.wait_for("blinks\n");
        let failed = |e: &RunEvent| matches!(e, RunEvent::DeviceFailed { what: "remove", .. });
        eventually("it is given up", || seen.lock().unwrap().iter().any(failed));
        assert_eq!(remove(live).unwrap(), Removal::Requested);
        // A thread would press.
        thread::sleep(Duration::from_millis(100));
        live.press_key();
        wait_for(&seen, &removed(RemovedBy::Request));
        live.press_key();
    });
    assert_eq!(shown[1] >> 16 & BUTTON, 0, "{:#x}", shown[1]);
}

fn a_guest_that_does_not_listen() {
    let device = device(NAME, 1);
    let host = Arc::new(PlugHost::new(&[&device]));
    let mut g = Asm::new();
    g.slot_control(OFF).print("ready\n").wait_key();
    // The power alone, and no interrupt.
    g.slot_control(ON)
        .show_at(BEHIND, 0)
        .print("on\n")
        .wait_key();
    g.power_off();
    let run = Vm::new(g).ports("1,io=on").host(&host).run_beside(|live| {
        live.wait_for("ready\n");
        let added = add(live).unwrap();
        assert!(!added.heard);
        live.press_key();
        live.wait_for("on\n");
        let begun = Instant::now();
        let refused = remove(live).unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(1));
        assert!(
            matches!(refused, RemoveError::NotListening { .. }),
            "{refused}"
        );
        assert!(refused.hint().unwrap().contains("--force"));
        assert_eq!(live.control.functions().len(), 1);
        live.press_key();
    });
    assert_eq!(numbers(&run.powered_off()), [ID]);
}

fn a_guest_that_never_answers() {
    let mut g = Asm::new();
    taken(&mut g).wait_key().show(BAR1 + 0x20).power_off();
    let shown = with_added(g, &device(NAME, 0x600d), |live| {
        let seen = events(live);
        let request = RemoveRequest {
            id: NAME.into(),
            force: false,
            timeout: Some(Duration::from_millis(50)),
        };
        assert_eq!(live.control.remove(&request).unwrap(), Removal::Requested);
        wait_for(
            &seen,
            &RunEvent::DeviceFailed {
                id: NAME.into(),
                what: "remove",
                why: "the guest has not given the device up in 0.05 s".into(),
            },
        );
        // The device stays, and can be asked for again.
        assert_eq!(live.control.functions().len(), 1);
        assert_eq!(live.control.remove(&request).unwrap(), Removal::Requested);
        live.press_key();
    });
    assert_eq!(shown, [0x600d, 0x600d]);
}

fn a_removal_that_is_forced() {
    let device = device(NAME, 0x600d);
    let mut g = Asm::new();
    taken(&mut g).wait_key();
    // Presence has gone, and the link.
    g.show_at(PORT, SLOT_CONTROL).show_at(BEHIND, 0);
    g.show(BAR1 + 0x20).power_off();
    let beside = Arc::clone(&device);
    let shown = with_added(g, &device, move |live| {
        let seen = events(live);
        // Also where the guest is asked already.
        assert_eq!(remove(live).unwrap(), Removal::Requested);
        let force = RemoveRequest {
            id: "01:00.0".into(),
            force: true,
            timeout: None,
        };
        assert_eq!(live.control.remove(&force).unwrap(), Removal::Removed);
        assert!(has(&seen, &removed(RemovedBy::Force)));
        assert!(is_closed(&beside));
        assert!(live.control.functions().is_empty());
        let again = live.control.remove(&force).unwrap_err();
        assert_eq!(again.kind(), Refusal::NotFound);
        live.press_key();
    });
    assert_eq!(shown[1] >> 16 & 0x48, 0x08, "{:#x}", shown[1]);
    assert_eq!(shown[2..], [u32::MAX; 2]);
}

fn a_paused_guest_takes_and_gives_nothing() {
    let (first, second) = (device(NAME, 0x600d), device("0000:02:00.0", 2));
    let host = Arc::new(PlugHost::new(&[&first, &second]));
    let mut g = Asm::new();
    taken(&mut g).wait_key().show(BAR1 + 0x20).power_off();
    let run = Vm::new(g).ports("2,io=on").host(&host).run_beside(|live| {
        live.wait_for("ready\n");
        add(live).unwrap();
        live.wait_for("used\n");
        let steps = host.steps();
        live.control.change(ControlRequest::Pause).unwrap();
        let refused = live.control.add(&request(&["02:00.0"]), &|| false);
        let refused = refused.unwrap_err();
        assert!(matches!(refused, AddError::Paused), "{refused}");
        assert_eq!(host.steps(), steps);
        let refused = remove(live).unwrap_err();
        assert!(matches!(refused, RemoveError::Paused), "{refused}");
        let force = RemoveRequest {
            id: NAME.into(),
            force: true,
            timeout: None,
        };
        assert_eq!(live.control.remove(&force).unwrap(), Removal::Removed);
        live.control.change(ControlRequest::Resume).unwrap();
        live.press_key();
    });
    assert_eq!(numbers(&run.powered_off()), [0x600d, u32::MAX]);
}

/// The guest turns the power off by itself: the device is reset and hidden, and comes back.
fn power_without_a_request_keeps_the_device() {
    let device = device(NAME, 0x600d);
    let mut g = Asm::new();
    taken(&mut g).slot_control(OFF | LISTEN).show_at(BEHIND, 0);
    g.slot_control(ON | LISTEN).show_at(BEHIND, 0);
    g.show_at(BEHIND, COMMAND);
    g.write_at(BEHIND, bar_register(1), Width::Dword, BAR1);
    g.commands(MEMORY, MEMORY).show(BAR1 + 0x20);
    g.slot_control(OFF | LISTEN)
        .print("off\n")
        .wait_key()
        .power_off();
    let beside = Arc::clone(&device);
    let shown = with_added(g, &device, move |live| {
        let seen = events(live);
        live.wait_for("off\n");
        assert_eq!(live.control.functions().len(), 1);
        assert!(!has(&seen, &removed(RemovedBy::Request)));
        // Without power there is nobody to ask.
        assert_eq!(remove(live).unwrap(), Removal::Removed);
        assert!(has(&seen, &removed(RemovedBy::Request)) && is_closed(&beside));
        live.press_key();
    });
    assert_eq!(shown, [0x600d, u32::MAX, ID, 0x0010_0000, 0x600d]);
    assert_eq!(device.count(&Call::Reset), 2);
}

/// Where the first boot leaves a mark in RAM.
const MARK: u32 = 0x7_1000;

fn a_reboot_ends_the_request() {
    let mut g = Asm::new();
    let again = g.label();
    g.load32(MARK).cmp_eax(1).je(again);
    taken(&mut g)
        .await_events(BUTTON)
        .print("pressed\n")
        .wait_key();
    g.store32(MARK, 1).reset();
    // Power, presence and no event; and the guest may turn the power off without losing the device.
    g.bind(again).show_at(PORT, SLOT_CONTROL).show_at(BEHIND, 0);
    g.slot_control(OFF).slot_control(ON).show_at(BEHIND, 0);
    g.print("again\n").wait_key().power_off();
    let shown = with_added(g, &device(NAME, 1), |live| {
        let seen = events(live);
        assert_eq!(remove(live).unwrap(), Removal::Requested);
        live.wait_for("pressed\n");
        live.press_key();
        live.wait_for("again\n");
        let failed = |e: &RunEvent| {
            matches!(e, RunEvent::DeviceFailed { what: "remove", why, .. }
                if why.contains("was reset"))
        };
        eventually("it is told", || seen.lock().unwrap().iter().any(failed));
        assert_eq!(live.control.functions().len(), 1);
        live.press_key();
    });
    assert_eq!(shown[1..], [0x0040_0100, ID, ID]);
}

/// At a reboot an added device is as one that was there from the start: with power and addresses.
fn a_reboot_keeps_an_added_device() {
    let mut g = Asm::new();
    let again = g.label();
    g.load32(MARK).cmp_eax(1).je(again);
    taken(&mut g).store32(MARK, 1).wait_key().reset();
    g.bind(again).show_at(BEHIND, 0);
    for bar in [0, 1, 2, 4] {
        g.show_at(BEHIND, bar_register(bar));
    }
    g.commands(MEMORY, MEMORY).show(BAR1 + 0x20).power_off();
    let shown = with_added(g, &device(NAME, 0x600d), |live| live.press_key());
    // In the windows of the port: BAR 0 is the largest, and the ROM is between it and BAR 1.
    assert_eq!(shown[1], ID);
    assert_eq!(shown[2..5], [0xc000_0000, BAR1, 0x1001]);
    assert_eq!(shown[5] & 0xf, 0xc, "64 bits, prefetchable");
    assert_eq!(shown[6], 0x600d);
}

fn the_hosts_request_presses_the_button() {
    let device = device(NAME, 0x600d);
    let mut g = Asm::new();
    taken(&mut g)
        .give_up_device()
        .show_at(BEHIND, 0)
        .print("off\n");
    g.wait_key().take_device().show(BAR1 + 0x20).power_off();
    let beside = Arc::clone(&device);
    let shown = with_added(g, &device, move |live| {
        let seen = events(live);
        beside.device_event(1);
        // The host repeats its request.
        beside.device_event(1);
        wait_for(&seen, &removed(RemovedBy::Host));
        live.wait_for("off\n");
        // It comes back in the same run.
        add(live).unwrap();
        live.press_key();
    });
    assert_eq!(shown, [0x600d, u32::MAX, 0x600d]);
}

fn the_hosts_request_does_not_wait_where_nobody_listens() {
    let name = "0000:03:00.0";
    let device = device(name, 0x600d);
    let mut g = Asm::new();
    g.commands(MEMORY, MEMORY).show(BAR1 + 0x20).print("used\n");
    g.wait_key()
        .show(BAR1 + 0x20)
        .show_at(BEHIND, 0)
        .power_off();
    let beside = Arc::clone(&device);
    let vm = Vm::new(g).function_behind_port(&device, "1", "03:00.0");
    let run = vm.run_beside(move |live| {
        let seen = events(live);
        live.wait_for("used\n");
        beside.device_event(1);
        let (id, by) = (name.into(), RemovedBy::Host);
        wait_for(&seen, &RunEvent::DeviceRemoved { id, by });
        let told = degraded::list().into_iter();
        let mut told = told.filter(|loss| loss.device.as_deref() == Some(name));
        assert!(told.any(|loss| loss.code == Code::DeviceReturned));
        live.press_key();
    });
    assert_eq!(numbers(&run.powered_off()), [0x600d, u32::MAX, u32::MAX]);
}

fn each_step_that_fails_is_undone() {
    use Step::{Claim, GiveBack, Limits, Look, Map, Open, Unmap};
    let all = [Look, Limits, Claim, Open, Map];
    for (failing, undone) in [
        (Look, &[][..]),
        (Limits, &[]),
        (Claim, &[]),
        (Open, &[GiveBack]),
        (Map, &[Unmap, GiveBack]),
    ] {
        let device = device(NAME, 1);
        let host = Arc::new(PlugHost::new(&[&device]).failing(failing));
        let e = refused(&host);
        assert_eq!(e.to_string(), format!("{failing:?} fails"));
        assert_eq!(e.hint().as_deref(), Some("a remedy"));
        let at = all.iter().position(|step| *step == failing).unwrap();
        assert_eq!(host.steps(), [&all[..=at], undone].concat(), "{failing:?}");
        assert!(is_closed(&device), "{failing:?}");
    }
    // The host asks for the device meanwhile.
    let wanted = with_event(1);
    let host = Arc::new(PlugHost::new(&[&wanted]));
    let e = refused(&host);
    assert!(matches!(e, AddError::Wanted(_)), "{e}");
    assert!(is_closed(&wanted));
    // The device reports an error meanwhile.
    let failed = with_event(0);
    let host = Arc::new(PlugHost::new(&[&failed]));
    let e = refused(&host);
    assert!(matches!(e, AddError::Failed(_)), "{e}");
    assert!(is_closed(&failed));
    // A device that does not answer, and one that refuses an event, are seen as functions.
    let dead = device(NAME, 1);
    dead.die();
    let host = Arc::new(PlugHost::new(&[&dead]));
    assert!(refused(&host).to_string().contains("does not answer"));
    assert_eq!(host.steps(), [&all[..], &[Unmap, GiveBack]].concat());
    assert!(is_closed(&dead));
}

/// A device with only a hot reset, at which an event comes.
fn with_event(which: usize) -> Arc<FakeDevice> {
    let mut device = FakeDevice::new().on_call(move |device, call| {
        if *call == Call::HotReset {
            device.device_event(which);
            // The thread of events hears of it.
            thread::sleep(Duration::from_millis(200));
        }
    });
    device.resets = only_hot_reset();
    device.into_arc()
}

fn only_hot_reset() -> Resets {
    Resets {
        own: Outcome::Absent,
        bus: &[NAME],
        ..Resets::default()
    }
}

/// Why the host's device cannot be added. The guest sees nothing of the attempt.
fn refused(host: &Arc<PlugHost>) -> AddError {
    let mut g = Asm::new();
    g.slot_control(OFF | LISTEN).print("ready\n").wait_key();
    g.show_at(PORT, SLOT_CONTROL).show_at(BEHIND, 0).power_off();
    let mut error = None;
    let run = Vm::new(g).ports("1,io=on").host(host).run_beside(|live| {
        live.wait_for("ready\n");
        let seen = events(live);
        let (slots, maps) = (live.slots(), live.control.dma_maps());
        error = add(live).err();
        assert_eq!((live.slots(), live.control.dma_maps()), (slots, maps));
        assert!(live.control.functions().is_empty());
        let added = |e: &RunEvent| matches!(e, RunEvent::DeviceAdded { .. });
        assert!(!seen.lock().unwrap().iter().any(added));
        live.press_key();
    });
    assert_eq!(numbers(&run.powered_off()), [OFF | LISTEN, u32::MAX]);
    error.expect("the add fails")
}

fn an_end_and_a_client_that_leaves_undo_an_add() {
    // The client leaves at the second step, and in the middle of the maps.
    for last in [Step::Limits, Step::Claim, Step::Open, Step::Map] {
        let device = device(NAME, 1);
        let gone = Arc::new(Mutex::new(false));
        let leaves = Arc::clone(&gone);
        let host = PlugHost::new(&[&device]);
        let host = Arc::new(host.at(move |step| {
            if step == last {
                *leaves.lock().unwrap() = true;
            }
        }));
        let mut g = Asm::new();
        g.wait_key().show_at(BEHIND, 0).power_off();
        let run = Vm::new(g).ports("1,io=on").host(&host).run_beside(|live| {
            let gone = || *gone.lock().unwrap();
            let e = live.control.add(&request(&["01:00.0"]), &gone).unwrap_err();
            assert!(matches!(e, AddError::Gone), "{last:?}: {e}");
            live.press_key();
        });
        assert_eq!(numbers(&run.powered_off()), [u32::MAX]);
        assert!(is_closed(&device), "{last:?}");
        let open = matches!(last, Step::Open | Step::Map);
        assert_eq!(host.steps().contains(&Step::Unmap), open, "{last:?}");
        let claimed = open || last == Step::Claim;
        assert_eq!(host.steps().contains(&Step::GiveBack), claimed, "{last:?}");
    }
    // The run ends while memory is mapped.
    let device = device(NAME, 1);
    let ended = Arc::new(Mutex::new(None));
    let control: Arc<Mutex<Option<vmm::control::Control>>> = Arc::default();
    let ends = Arc::clone(&control);
    let host = Arc::new(PlugHost::new(&[&device]).at(move |step| {
        if step == Step::Map {
            let control = ends.lock().unwrap().clone().unwrap();
            control.shut_down();
            eventually("the end", || control.events().ended().is_some());
        }
    }));
    let mut g = Asm::new();
    g.hang();
    let told = Arc::clone(&ended);
    let run = Vm::new(g)
        .ports("1,io=on")
        .host(&host)
        .run_beside(move |live| {
            *control.lock().unwrap() = Some(live.control.clone());
            *told.lock().unwrap() = add(live).err();
        });
    run.exit.unwrap();
    let e = ended.lock().unwrap().take().unwrap();
    assert!(matches!(e, AddError::Ended), "{e}");
    assert!(host.steps().ends_with(&[Step::Unmap, Step::GiveBack]));
    assert!(is_closed(&device));
}

fn what_does_not_fit_is_refused_at_once() {
    let (first, second) = (device(NAME, 1), device("0000:02:00.0", 2));
    let host = PlugHost::new(&[&first, &second]);
    host.large.store(true, std::sync::atomic::Ordering::Relaxed);
    let host = Arc::new(host);
    let mut g = Asm::new();
    g.wait_key().power_off();
    Vm::new(g).ports("1,io=on").host(&host).run_beside(|live| {
        let e = add(live).unwrap_err();
        assert!(e.hint().unwrap().contains("--ports 1,mem32=1024M"), "{e}");
        assert_eq!(host.steps(), [Step::Look]);
        host.large
            .store(false, std::sync::atomic::Ordering::Relaxed);
        add(live).unwrap();
        let again = add(live).unwrap_err();
        assert!(matches!(again, AddError::Present(_)), "{again}");
        let full = live.control.add(&request(&["02:00.0"]), &|| false);
        assert!(matches!(full, Err(AddError::Full(1))));
        let on_root = live.control.add(&request(&["02:00.0,port=off"]), &|| false);
        assert_eq!(on_root.unwrap_err().kind(), Refusal::Request);
        live.press_key();
    });
}

/// The device's file is closed, and the host does not have the device yet.
fn a_device_comes_back_after_it_has_left() {
    let device = device(NAME, 1);
    let left = Arc::new(Mutex::new(()));
    let leaves = Arc::clone(&left);
    let host = Arc::new(PlugHost::new(&[&device]).at(move |step| {
        if step == Step::GiveBack {
            drop(leaves.lock().unwrap());
        }
    }));
    let mut g = Asm::new();
    g.wait_key().power_off();
    Vm::new(g).ports("1,io=on").host(&host).run_beside(|live| {
        add(live).unwrap();
        let held = left.lock().unwrap();
        thread::scope(|scope| {
            let force = RemoveRequest {
                id: NAME.into(),
                force: true,
                timeout: None,
            };
            let removal = scope.spawn(move || live.control.remove(&force).unwrap());
            eventually("it leaves", || live.control.functions().is_empty());
            let steps = host.steps().len();
            let e = add(live).unwrap_err();
            assert!(matches!(e, AddError::Leaving(_)), "{e}");
            assert_eq!(e.to_string(), "0000:01:00.0 is leaving the guest");
            assert!(e.hint().unwrap().contains("device-removed"));
            let since = host.steps().split_off(steps);
            assert!(!since.contains(&Step::Look), "{since:?}");
            drop(held);
            assert_eq!(removal.join().unwrap(), Removal::Removed);
        });
        add(live).unwrap();
        live.press_key();
    });
}

/// Whichever way the device was reset.
fn an_added_device_has_no_addresses() {
    for only_hot in [false, true] {
        let mut device = FakeDevice::new();
        device.name = NAME;
        if only_hot {
            device.resets = only_hot_reset();
        }
        let device = device.into_arc();
        let mut g = Asm::new();
        g.slot_control(OFF | LISTEN).print("ready\n");
        g.await_events(LINK_CHANGED).slot_control(ON | LISTEN);
        g.show_at(BEHIND, bar_register(0));
        g.show_at(BEHIND, bar_register(1));
        g.print("used\n").wait_key().power_off();
        let shown = with_added(g, &device, |live| live.press_key());
        assert_eq!(shown, [0, 0], "{only_hot}");
        assert_eq!(device.count(&Call::HotReset), usize::from(only_hot));
    }
}

fn functions_come_and_go_together() {
    let (first, second) = (device(NAME, 1), device("0000:01:00.3", 3));
    let host = Arc::new(PlugHost::new(&[&first, &second]));
    let mut g = Asm::new();
    g.slot_control(OFF | LISTEN).print("ready\n");
    g.await_events(LINK_CHANGED).slot_control(ON | LISTEN);
    g.show_at(BEHIND, 0)
        .show_at((1, 0, 3), 0)
        .show_at((1, 0, 1), 0);
    g.print("used\n")
        .give_up_device()
        .show_at((1, 0, 3), 0)
        .print("gone\n");
    g.wait_key().power_off();
    let run = Vm::new(g).ports("1,io=on").host(&host).run_beside(|live| {
        let seen = events(live);
        live.wait_for("ready\n");
        let request = request(&["01:00.3", "01:00.0"]);
        let added = live.control.add(&request, &|| false).unwrap();
        let numbers = added.functions.iter().map(|f| f.bdf.function);
        assert_eq!(numbers.collect::<Vec<_>>(), [3, 0]);
        live.wait_for("used\n");
        assert_eq!(remove(live).unwrap(), Removal::Requested);
        for id in [NAME, "0000:01:00.3"] {
            let (id, by) = (id.into(), RemovedBy::Request);
            wait_for(&seen, &RunEvent::DeviceRemoved { id, by });
        }
        assert!(is_closed(&first) && is_closed(&second));
        live.wait_for("gone\n");
        live.press_key();
    });
    assert_eq!(numbers(&run.powered_off()), [ID, ID, u32::MAX, u32::MAX]);
}

/// A hostile guest writes Slot Control as fast as it can, on two processors, while a device comes
/// and goes, the guest is reset, and the run ends.
fn a_storm_of_slot_control() {
    let device = device(NAME, 1);
    let host = Arc::new(PlugHost::new(&[&device]));
    let mut g = Asm::new();
    let (entry, start) = (g.label(), g.label());
    g.start_others(entry, 0x5_0000);
    g.jmp(start).bind(entry);
    let control = crate::pci::ecam(1, SLOT_CONTROL);
    let other = g.here();
    for value in [OFF | LISTEN, ON, ON | LISTEN, OFF] {
        g.store(Width::Word, control, value);
        g.store(Width::Word, control + 2, 0xffff);
    }
    g.jmp(other).bind(start);
    let again = g.here();
    for value in [ON | LISTEN, 0xffff, OFF | LISTEN, 0] {
        g.store(Width::Word, control, value);
        g.store(Width::Word, control - 8, LINK_DISABLE);
        g.store(Width::Word, control - 8, 0).load32(control);
        g.load32(crate::pci::ECAM + (1 << 20));
    }
    g.jmp(again);
    let beside = Arc::clone(&device);
    let vm = Vm::new(g).cpus(2).ports("1,io=on").host(&host);
    let ended = vm.run_beside(|live| {
        let begun = Instant::now();
        let mut turns = 0;
        while begun.elapsed() < Duration::from_secs(3) {
            add_again(live);
            let asked = RemoveRequest {
                id: NAME.into(),
                force: false,
                timeout: Some(Duration::from_millis(20)),
            };
            // Any answer will do; then by force, unless it has left by then.
            let _ = live.control.remove(&asked);
            if turns % 3 == 0 {
                live.control.change(ControlRequest::Reboot).unwrap();
            }
            let force = RemoveRequest {
                force: true,
                ..asked
            };
            let _ = live.control.remove(&force);
            eventually("it has left", || live.control.functions().is_empty());
            eventually("it is closed", || is_closed(&beside));
            turns += 1;
        }
        add_again(live);
        live.end();
        assert!(turns > 3, "{turns}");
    });
    assert_eq!(ended.slots.0, ended.slots.1);
    ended.powered_off();
}

/// Adds the device, which may not be the host's again yet.
fn add_again(live: &Live) {
    eventually("it has left", || match add(live) {
        Err(AddError::Leaving(_)) => false,
        outcome => {
            outcome.unwrap();
            true
        }
    });
}

const LINK_DISABLE: u32 = 0x10;

/// Interrupts come until the device is gone, and none of their ways into the guest is left.
fn an_interrupt_storm_at_a_removal() {
    let device = device(NAME, 1);
    let host = Arc::new(PlugHost::new(&[&device]));
    const V: u8 = 0x41;
    let mut g = Asm::new();
    g.interrupts(&[V])
        .slot_control(OFF | LISTEN)
        .print("ready\n");
    g.await_events(LINK_CHANGED).slot_control(ON | LISTEN);
    g.write_at(PORT, SLOT_CONTROL + 2, Width::Word, LINK_CHANGED);
    g.write_at(BEHIND, bar_register(0), Width::Dword, 0xc030_0000);
    g.commands(MEMORY | 4, MEMORY | 4);
    g.store32(0xc030_2000, crate::irq_code::MESSAGE_ADDRESS);
    g.store32(0xc030_2004, 0).store32(0xc030_2008, V.into());
    g.store32(0xc030_200c, 0);
    let at = crate::device::MSIX;
    g.write_at(BEHIND, at, Width::Dword, 0x8000_0000);
    g.print("used\n")
        .await_count(V, 1)
        .print("storm\n")
        .give_up_device();
    g.print("gone\n").wait_key().power_off();
    let storm = Arc::clone(&device);
    let run = Vm::new(g).ports("1,io=on").host(&host).run_beside(|live| {
        let seen = events(live);
        live.wait_for("ready\n");
        add(live).unwrap();
        live.wait_for("used\n");
        thread::scope(|scope| {
            let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
            let stopped = Arc::clone(&stop);
            scope.spawn(move || {
                while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                    storm.raise(0);
                }
            });
            live.wait_for("storm\n");
            remove(live).unwrap();
            wait_for(&seen, &removed(RemovedBy::Request));
            live.wait_for("gone\n");
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        live.press_key();
    });
    run.powered_off();
    assert!(device.with_eventfd().is_empty());
}
