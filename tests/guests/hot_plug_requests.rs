//! Requests to remove a device: the button, the guest's answer, the host's own request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vmm::log::degraded::{self, Code};
use vmm::plug::{Refusal, Removal, RemoveError, RemovedBy};
use vmm::run_events::RunEvent;

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{Call, FakeDevice, ID};
use crate::pci::MEMORY;
use crate::plug_guest::{
    BLINK, BUTTON, LISTEN, MARK, NAME, OFF, ON, SLOT_CONTROL, add, asking, device, events, forced,
    has, is_closed, numbers, remove, removed, taken, wait_for, with_added,
};
use crate::plug_host::PlugHost;
use crate::ports::{BAR1, BEHIND, BRIDGE_CONTROL, PORT, RESET};
use crate::reset_kinds::Outcome;
use crate::vm::{Vm, eventually};

pub const TESTS: &[Test] = tests![
    a_second_request_presses_no_button,
    a_request_after_one_that_was_given_up,
    a_guest_that_does_not_listen,
    a_guest_that_never_answers,
    a_removal_that_is_forced,
    a_reboot_ends_the_request,
    the_hosts_request_presses_the_button,
    the_hosts_request_does_not_wait_where_nobody_listens,
    a_reset_of_a_device_that_the_host_takes_is_not_missed,
];

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
        let at_once = asking(Duration::ZERO);
        assert_eq!(
            live.control.remove(&at_once, &|| false).unwrap(),
            Removal::Requested
        );
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
        let request = asking(Duration::from_millis(50));
        assert_eq!(
            live.control.remove(&request, &|| false).unwrap(),
            Removal::Requested
        );
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
        assert_eq!(
            live.control.remove(&request, &|| false).unwrap(),
            Removal::Requested
        );
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
        let force = forced();
        assert_eq!(
            live.control.remove(&force, &|| false).unwrap(),
            Removal::Removed
        );
        assert!(has(&seen, &removed(RemovedBy::Force)));
        assert!(is_closed(&beside));
        assert!(live.control.functions().is_empty());
        let again = live.control.remove(&force, &|| false).unwrap_err();
        assert_eq!(again.kind(), Refusal::NotFound);
        live.press_key();
    });
    assert_eq!(shown[1] >> 16 & 0x48, 0x08, "{:#x}", shown[1]);
    assert_eq!(shown[2..], [u32::MAX; 2]);
}

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

/// The kernel refuses a reset while an unbind has the device's lock. The device leaves, so the
/// guest lacks nothing that it would keep.
fn a_reset_of_a_device_that_the_host_takes_is_not_missed() {
    let name = "0000:04:00.0";
    let (resets, missed) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (count, told) = (Arc::clone(&resets), Arc::clone(&missed));
    // The losses of a device are forgotten when it has left.
    let mut device = FakeDevice::new().on_call(move |_, call| {
        count.fetch_add(u32::from(*call == Call::Reset), Ordering::Relaxed);
        let mut losses = degraded::list().into_iter();
        let here = |loss: &degraded::Degraded| loss.device.as_deref() == Some(name);
        let failed = losses.any(|loss| here(&loss) && loss.code == Code::ResetFailed);
        told.fetch_add(u32::from(failed), Ordering::Relaxed);
    });
    device.name = name;
    device.resets.own = Outcome::Fails;
    let device = device.into_arc();
    let mut g = Asm::new();
    g.commands(MEMORY, MEMORY).slot_control(ON | LISTEN);
    g.print("used\n").await_events(BUTTON);
    g.write_at(PORT, BRIDGE_CONTROL, Width::Word, RESET);
    g.write_at(PORT, BRIDGE_CONTROL, Width::Word, 0);
    g.slot_control(OFF | LISTEN)
        .print("off\n")
        .wait_key()
        .power_off();
    let beside = Arc::clone(&device);
    let vm = Vm::new(g).function_behind_port(&device, "1", "04:00.0");
    let before = Arc::clone(&resets);
    vm.run_beside(move |live| {
        let seen = events(live);
        live.wait_for("used\n");
        before.store(0, Ordering::Relaxed);
        beside.device_event(1);
        live.wait_for("off\n");
        let (id, by) = (name.into(), RemovedBy::Host);
        wait_for(&seen, &RunEvent::DeviceRemoved { id, by });
        live.press_key();
    })
    .powered_off();
    // The bus, and the power if the device is still there.
    assert_ne!(resets.load(Ordering::Relaxed), 0);
    assert_eq!(missed.load(Ordering::Relaxed), 0);
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
