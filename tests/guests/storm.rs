//! A guest powers off or resets while its device never lowers the pin: each acknowledgement is
//! followed by the next interrupt. The end does not wait for the storm.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use vmm::machine::Exit;

use crate::Test;
use crate::common::asm::Asm;
use crate::device::{ASK, FakeDevice};
use crate::irq_code::counter;
use crate::pci::MEMORY;
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![
    a_run_ends_in_a_storm,
    a_run_ends_in_a_storm_that_the_kernel_resamples,
];

/// The pin of the IOAPIC that INTA of slot 1 leads to, and its vector.
const PIN: u32 = 17;
const V: u8 = 0x41;
/// RAM: the store of a handler that does not acknowledge the device's interrupt.
const NOWHERE: u32 = 0x7_1000;
/// RAM: how many vCPUs have started, how many take interrupts, and whether this is the second boot.
const STARTED: u32 = 0x7_1004;
const READY: u32 = 0x7_1008;
const AGAIN: u32 = 0x7_100c;
/// Interrupts before the end.
const ENOUGH: u32 = 20;
/// Much longer than any end of a run. The limit of the guest itself is shorter.
const LIMIT: Duration = Duration::from_secs(150);

/// vCPU `target` gets the storm. vCPU 0 resets in the first boot, and powers off in the second.
fn guest(cpus: u8, target: u8) -> Asm {
    let mut g = Asm::new();
    let (others, second) = (g.label(), g.label());
    g.level_handler(V, NOWHERE).interrupts(&[]);
    g.store32(STARTED, 0)
        .store32(READY, 0)
        .store32(counter(V), 0);
    if cpus > 1 {
        g.start_others(others, STARTED);
        let not_yet = g.here();
        g.pause().load32(READY).cmp_eax(u32::from(cpus) - 1);
        g.jb(not_yet);
    }
    g.ioapic_level(PIN, V).ioapic_to(PIN, target);
    g.command(MEMORY).store32(ASK, 1).await_count(V, ENOUGH);
    g.load32(AGAIN).cmp_eax(1).je(second);
    g.store32(AGAIN, 1).reset();
    g.bind(second).power_off();
    g.bind(others).take_interrupts().lock_inc32(READY).hang();
    g
}

/// Fails if the run does not end, or if the machine is not taken down.
fn ends(device: FakeDevice, cpus: u8, target: u8) {
    let (sender, receiver) = mpsc::channel();
    // The thread is left alone if the test fails: the end of the process ends it.
    thread::spawn(move || {
        let device = device.into_arc();
        let run = Vm::new(guest(cpus, target))
            .cpus(cpus)
            .device(&device)
            .run();
        // Nobody waits after the time limit.
        let _ = sender.send(run.exit.map_err(|e| e.to_string()));
    });
    let end = receiver.recv_timeout(LIMIT);
    let end = end.unwrap_or_else(|e| panic!("vCPU {target} of {cpus}: no end of the run: {e}"));
    assert_eq!(end, Ok(Exit::PowerOff), "vCPU {target} of {cpus}");
}

fn a_run_ends_in_a_storm() {
    for (cpus, target) in [(1, 0), (2, 1), (4, 3)] {
        ends(FakeDevice::new().with_pin(), cpus, target);
    }
}

fn a_run_ends_in_a_storm_that_the_kernel_resamples() {
    for (cpus, target) in [(1, 0), (2, 1), (4, 3)] {
        ends(FakeDevice::new().with_resampled_pin(), cpus, target);
    }
}
