//! A function behind a root port sleeps: what the kernel does when the function wakes again neither
//! gives the device what the port withholds, nor holds up another vCPU.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{Call, FakeDevice, ID, PM};
use crate::pci::{COMMAND, MASTER, MEMORY, SLOT, ecam};
use crate::ports::{BEHIND, PORT};
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![
    waking_gives_no_bus_mastering_that_the_port_withholds,
    a_bus_reset_of_a_sleeping_function_holds_up_no_other_vcpu,
];

const POWER: u16 = PM + 4;
const BRIDGE_CONTROL: u16 = 0x3e;
const RESET: u32 = 0x40;
/// Dwords of RAM: processors that have started, and whether the reset has returned.
const STARTED: u32 = 0x7_1000;
const DONE: u32 = STARTED + 4;

/// A device that loses its registers in D3: the kernel saves COMMAND before, and restores it.
fn forgetful() -> Arc<FakeDevice> {
    let saved = Mutex::new(None);
    let device = FakeDevice::new().on_call(move |device, call| {
        let Call::Config(at, data) = call else { return };
        if *at != u64::from(POWER) {
            return;
        }
        let mut saved = saved.lock().unwrap();
        match data[0] & 3 {
            3 => *saved = Some(device.command()),
            _ => {
                if let Some(command) = saved.take() {
                    device.set_config(COMMAND.into(), &command.to_le_bytes());
                }
            }
        }
    });
    device.into_arc()
}

fn waking_gives_no_bus_mastering_that_the_port_withholds() {
    let device = forgetful();
    let both = MEMORY | MASTER;
    let mut g = Asm::new();
    g.commands(both, both);
    g.write_at(BEHIND, POWER, Width::Word, 3);
    g.write_at(PORT, COMMAND, Width::Word, MEMORY);
    g.write_at(BEHIND, POWER, Width::Word, 0);
    g.show_at(BEHIND, COMMAND).print("withheld\n").wait_key();
    g.write_at(PORT, COMMAND, Width::Word, both);
    g.print("through\n").wait_key().power_off();
    let starts_requests = || device.command() & MASTER as u16 != 0;
    let mut seen = Vec::new();
    let ended = Vm::new(g)
        .device_behind_port(&device, "1")
        .run_beside(|live| {
            for text in ["withheld\n", "through\n"] {
                live.wait_for(text);
                seen.push(starts_requests());
                live.press_key();
            }
        });
    let text = ended.powered_off();
    assert!(text.starts_with("00100006\n"), "{text}");
    assert_eq!(seen, [false, true]);
}

/// vCPU 1 resets the bus, and the kernel takes its time to wake the function. Meanwhile vCPU 0
/// reads the function.
fn a_bus_reset_of_a_sleeping_function_holds_up_no_other_vcpu() {
    let (waking, looked) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let wake = Call::Config(POWER.into(), vec![0, 0]);
    let (begun, allowed) = (Arc::clone(&waking), Arc::clone(&looked));
    let device = FakeDevice::new().on_call(move |_, call| {
        if *call == wake && !begun.swap(true, Ordering::AcqRel) {
            let end = Instant::now() + Duration::from_secs(20);
            while !allowed.load(Ordering::Acquire) && Instant::now() < end {
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let device = device.into_arc();
    let mut g = Asm::new();
    let other = g.label();
    g.write_at(BEHIND, POWER, Width::Word, 3);
    g.local_apic_on().start_others(other, STARTED);
    let not_yet = g.here();
    let id = g.pause().cfg_address(BEHIND, 0);
    g.input(Width::Dword, id).cmp_eax(u32::MAX).jne(not_yet);
    // The link is up again, and the function is still away.
    g.store(Width::Word, ecam(SLOT, BRIDGE_CONTROL), 0);
    g.print("asleep\n").wait_key();
    g.show_at(BEHIND, 0).show_at(BEHIND, 0x0c).print("free\n");
    let not_yet = g.here();
    g.pause().load32(DONE).cmp_eax(1).jne(not_yet);
    g.show_at(BEHIND, 0).power_off();
    g.bind(other);
    g.store(Width::Word, ecam(SLOT, BRIDGE_CONTROL), RESET);
    g.store32(DONE, 1).hang();
    let ended = Vm::new(g)
        .cpus(2)
        .device_behind_port(&device, "1")
        .run_beside(|live| {
            live.wait_for("asleep\n");
            while !waking.load(Ordering::Acquire) {
                thread::sleep(Duration::from_millis(1));
            }
            live.press_key();
            live.wait_for("free\n");
            looked.store(true, Ordering::Release);
        });
    let text = ended.powered_off();
    assert_eq!(
        text,
        format!("asleep\nffffffff\nffffffff\nfree\n{ID:08x}\n")
    );
}
