//! Other devices are heard while the answer to one device takes its time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use vmm::control::ControlRequest;
use vmm::plug::RemovedBy;
use vmm::run_events::RunEvent;

use crate::Test;
use crate::common::asm::Asm;
use crate::device::{Call, FakeDevice};
use crate::plug_guest::{NAME, add, device, events, is_closed, removed, wait_for};
use crate::plug_host::{PlugHost, Step, request};
use crate::vm::{Live, Vm, eventually};

pub const TESTS: &[Test] = tests![
    others_are_heard_while_a_device_closes,
    others_are_heard_while_the_guest_is_reset,
];

const OTHER: &str = "0000:02:00.0";

/// A guest that does not listen to its slots, so that the host's request waits for nobody; both
/// devices are added.
fn with_both(host: PlugHost, beside: impl FnOnce(&Live) + Send) {
    let mut g = Asm::new();
    g.wait_key().power_off();
    let vm = Vm::new(g).ports("2,io=on").host(&Arc::new(host));
    let run = vm.run_beside(|live| {
        add(live).unwrap();
        let second = live.control.add(&request(&["02:00.0"]), &|| false);
        second.unwrap();
        beside(live);
        live.press_key();
    });
    run.powered_off();
}

/// The other device fails, and the event thread tells of the failure.
fn hears(seen: &Mutex<Vec<RunEvent>>, other: &FakeDevice) {
    other.device_event(0);
    let failed = |e: &RunEvent| matches!(e, RunEvent::DeviceFailed { id, .. } if id == OTHER);
    eventually("the other is heard", || {
        seen.lock().unwrap().iter().any(failed)
    });
}

/// The host asks for a device, whose file takes its time to close.
fn others_are_heard_while_a_device_closes() {
    let (first, other) = (device(NAME, 1), device(OTHER, 2));
    let closing = Arc::new(Mutex::new(()));
    let closes = Arc::clone(&closing);
    let host = PlugHost::new(&[&first, &other]).at(move |step| {
        if step == Step::Unmap {
            drop(closes.lock());
        }
    });
    with_both(host, |live| {
        let seen = events(live);
        let held = closing.lock().unwrap();
        first.device_event(1);
        eventually("it leaves", || live.control.functions().len() == 1);
        hears(&seen, &other);
        assert!(!is_closed(&first), "the first still closes");
        drop(held);
        wait_for(&seen, &removed(RemovedBy::Host));
    });
}

/// The host asks for a device while the guest, and with it the device, is reset.
fn others_are_heard_while_the_guest_is_reset() {
    let resetting = Arc::new(Mutex::new(()));
    let begun = Arc::new(AtomicBool::new(false));
    let (resets, begins) = (Arc::clone(&resetting), Arc::clone(&begun));
    let mut first = FakeDevice::new().on_call(move |_, call| {
        if *call == Call::Reset {
            begins.store(true, Ordering::Relaxed);
            drop(resets.lock());
        }
    });
    first.name = NAME;
    let (first, other) = (first.into_arc(), device(OTHER, 2));
    with_both(PlugHost::new(&[&first, &other]), |live| {
        let seen = events(live);
        thread::scope(|scope| {
            let held = resetting.lock().unwrap();
            scope.spawn(|| live.control.change(ControlRequest::Reboot));
            eventually("the reset begins", || begun.load(Ordering::Relaxed));
            first.device_event(1);
            hears(&seen, &other);
            assert!(live.control.functions().len() == 2, "the answer waits");
            drop(held);
        });
        wait_for(&seen, &removed(RemovedBy::Host));
    });
}
