//! Hostile guests and devices while a device comes and goes.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use vmm::control::ControlRequest;
use vmm::plug::{AddError, RemoveRequest, RemovedBy};

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::pci::{MEMORY, bar_register};
use crate::plug_guest::{
    LINK_CHANGED, LISTEN, NAME, OFF, ON, SLOT_CONTROL, add, asking, device, events, is_closed,
    remove, removed, wait_for,
};
use crate::plug_host::PlugHost;
use crate::ports::{BEHIND, PORT};
use crate::vm::{Live, Vm, eventually};

pub const TESTS: &[Test] = tests![a_storm_of_slot_control, an_interrupt_storm_at_a_removal,];

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
            let asked = asking(Duration::from_millis(20));
            // Any answer will do; then by force, unless it has left by then.
            let _ = live.control.remove(&asked, &|| false);
            if turns % 3 == 0 {
                live.control.change(ControlRequest::Reboot).unwrap();
            }
            let force = RemoveRequest {
                force: true,
                ..asked
            };
            let _ = live.control.remove(&force, &|| false);
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
