//! A function behind a root port is slow to wake or to be reset: what the kernel does meanwhile
//! neither gives the device what the port withholds, nor holds up another vCPU, nor outlives a
//! reboot.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{Call, FakeDevice, ID, PM};
use crate::pci::{COMMAND, MASTER, MEMORY, SLOT, ecam};
use crate::ports::{BAR1, BEHIND, PORT};
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![
    waking_gives_no_bus_mastering_that_the_port_withholds,
    a_bus_reset_of_a_sleeping_function_holds_up_no_other_vcpu,
    a_reboot_during_a_bus_reset_is_whole,
    a_release_during_a_bus_reset_takes_the_function_away,
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

/// vCPU 0 reboots while the kernel resets the function for vCPU 1. The next boot finds what
/// firmware has set.
fn a_reboot_during_a_bus_reset_is_whole() {
    /// Where the first boot leaves a mark in RAM.
    const MARK: u32 = STARTED + 8;
    let ended = Arc::<AtomicBool>::default();
    let end = Arc::clone(&ended);
    let device = FakeDevice::new().on_call(move |_, call| {
        if *call == Call::Reset {
            thread::sleep(Duration::from_millis(300));
            end.store(true, Ordering::Release);
        }
    });
    let device = device.into_arc();
    let both = MEMORY | MASTER;
    let mut g = Asm::new();
    let (other, again) = (g.label(), g.label());
    g.load32(MARK).cmp_eax(1).je(again);
    g.store32(MARK, 1).commands(both, both);
    g.local_apic_on().start_others(other, STARTED);
    let not_yet = g.here();
    let id = g.pause().cfg_address(BEHIND, 0);
    g.input(Width::Dword, id).cmp_eax(u32::MAX).jne(not_yet);
    g.reset();
    g.bind(again);
    for (bdf, offset) in [(PORT, 0x3c), (PORT, COMMAND), (BEHIND, 0), (BEHIND, 0x14)] {
        g.show_at(bdf, offset);
    }
    g.show_at(BEHIND, COMMAND).commands(MEMORY, MEMORY);
    g.store32(BAR1 + 0x20, 0x600d).show(BAR1 + 0x20).power_off();
    g.bind(other);
    g.store(Width::Word, ecam(SLOT, BRIDGE_CONTROL), RESET);
    g.store32(DONE, 1).hang();
    let vm = Vm::new(g).cpus(2).device_behind_port(&device, "1");
    let shown = vm.run().numbers();
    let off = 0x0010_0000;
    assert_eq!(shown, [0x400, off, ID, BAR1, off, 0x600d]);
    assert!(ended.load(Ordering::Acquire));
    // One by the port, and one at the reboot.
    assert_eq!(device.count(&Call::Reset), 2);
}

/// The host asks for the device while the guest resets the bus.
fn a_release_during_a_bus_reset_takes_the_function_away() {
    let device = FakeDevice::new().with_pin().on_call(|device, call| {
        if *call == Call::Reset {
            device.device_event(1);
            // Long enough for the event thread.
            thread::sleep(Duration::from_millis(200));
        }
    });
    let device = device.into_arc();
    let both = MEMORY | MASTER;
    let mut g = Asm::new();
    g.commands(both, both);
    for value in [RESET, 0] {
        g.write_at(PORT, BRIDGE_CONTROL, Width::Word, value);
    }
    g.show_at(BEHIND, 0)
        .show_at(BEHIND, 0x0c)
        .commands(both, both);
    g.show(BAR1 + 0x20).show_at(PORT, 0x18).power_off();
    let vm = Vm::new(g).device_behind_port(&device, "1");
    let shown = vm.run().numbers();
    assert_eq!(shown[..3], [u32::MAX; 3]);
    assert_eq!(shown[3], 0x0001_0100, "the port stays");
    assert_eq!((device.kind(), device.command()), (None, 0));
}
