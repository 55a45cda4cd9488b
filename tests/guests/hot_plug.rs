//! A device is added to a running guest, is used, and leaves.

use std::sync::{Arc, Mutex};
use std::thread;

use vmm::control::ControlRequest;
use vmm::plug::{AddError, Removal, RemoveError, RemovedBy};
use vmm::run_events::RunEvent;

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{Call, FakeDevice, ID};
use crate::pci::{COMMAND, MEMORY, bar_register};
use crate::plug_guest::{
    LINK_CHANGED, LISTEN, MARK, NAME, OFF, ON, add, device, events, forced, has, is_closed,
    numbers, only_hot_reset, remove, removed, taken, wait_for, with_added,
};
use crate::plug_host::{PlugHost, Step, request};
use crate::ports::{BAR1, BEHIND};
use crate::vm::{Vm, eventually};

pub const TESTS: &[Test] = tests![
    a_device_comes_and_goes,
    functions_come_and_go_together,
    a_device_comes_back_after_it_has_left,
    an_added_device_has_no_addresses,
    a_reboot_keeps_an_added_device,
    power_without_a_request_keeps_the_device,
    a_paused_guest_takes_and_gives_nothing,
];

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
            let force = forced();
            let removal = scope.spawn(move || live.control.remove(&force, &|| false).unwrap());
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
        let force = forced();
        assert_eq!(
            live.control.remove(&force, &|| false).unwrap(),
            Removal::Removed
        );
        live.control.change(ControlRequest::Resume).unwrap();
        live.press_key();
    });
    assert_eq!(numbers(&run.powered_off()), [0x600d, u32::MAX]);
}
