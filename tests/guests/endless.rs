//! A guest resets a function, and the kernel never ends that: the vCPU waits as long as the guest
//! runs, and no longer than the limit once the run ends.

use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use vmm::machine::MachineError;

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{EXPRESS, FakeDevice, ID};
use crate::endless_calls::{self, Endless, LIMIT};
use crate::pci::{MASTER, MEMORY, SLOT, ecam};
use crate::vm::{Live, Vm};

pub const TESTS: &[Test] = tests![
    a_reset_without_end_ends_with_the_run,
    a_reset_without_end_ends_with_a_reboot,
    a_reset_that_ends_late_is_none_of_these,
];

const DEVICE_CONTROL: u16 = EXPRESS + 8;
const FLR: u32 = 1 << 15;
/// Dwords of RAM: processors that have started, and whether the write has returned.
const STARTED: u32 = 0x7_1000;
const DONE: u32 = STARTED + 4;

/// vCPU 1 resets the function, and vCPU 0 finds it away, says so, and does `then`.
fn run(
    then: impl FnOnce(&mut Asm),
    beside: impl FnOnce(&Live, File) + Send,
) -> (String, Option<MachineError>) {
    let Endless {
        opener,
        waits,
        ends,
    } = endless_calls::take();
    let by = Arc::clone(&opener);
    let device = FakeDevice::new().config_writes(move |at, data| match data {
        [_, 0x80] if at == u64::from(DEVICE_CONTROL) => by.write("0000:01:00.0", &waits, at, data),
        _ => Ok(()),
    });
    let mut g = Asm::new();
    let other = g.label();
    g.command(MEMORY | MASTER)
        .local_apic_on()
        .start_others(other, STARTED);
    let not_yet = g.here();
    g.pause()
        .load32(ecam(SLOT, 0))
        .cmp_eax(u32::MAX)
        .jne(not_yet);
    g.print("away\n");
    then(&mut g);
    g.bind(other);
    g.store(Width::Word, ecam(SLOT, DEVICE_CONTROL), FLR);
    g.store32(DONE, 1).hang();
    let vm = Vm::new(g)
        .cpus(2)
        .opener(&opener)
        .device(&device.into_arc());
    let ended = vm.run_beside(|live| {
        live.wait_for("away\n");
        beside(live, ends);
    });
    (ended.text, ended.exit.err())
}

/// Waits for a multiple of the limit: the guest alone decides how long it waits.
fn patiently(live: &Live, ends: File) {
    std::thread::sleep(LIMIT + LIMIT / 2);
    live.wait_for("away\n");
    live.end();
    // The call goes on until after the end of the run, which comes soon.
    std::thread::sleep(LIMIT);
    drop(ends);
}

#[track_caller]
fn gave_up(error: Option<MachineError>) {
    let error = error.expect("an error");
    let text = error.to_string();
    let says = "0000:01:00.0: the kernel has not ended a region write within 1 seconds";
    assert!(
        text.contains(says) && text.contains("resets the device"),
        "{text}"
    );
    assert!(
        error
            .hint()
            .is_some_and(|hint| hint.contains("--host-timeout"))
    );
}

fn a_reset_without_end_ends_with_the_run() {
    let (text, error) = run(hang, patiently);
    assert_eq!(text, "away\n");
    gave_up(error);
}

fn hang(g: &mut Asm) {
    g.hang();
}

fn reset(g: &mut Asm) {
    g.reset();
}

/// The guest reboots at once. The run ends after the limit, and there is no second boot.
fn a_reset_without_end_ends_with_a_reboot() {
    let begun = Instant::now();
    let (text, error) = run(reset, |_, ends| {
        std::thread::sleep(3 * LIMIT);
        drop(ends);
    });
    assert!(begun.elapsed() >= LIMIT);
    assert_eq!(text, "away\n");
    gave_up(error);
}

/// The write returns after the limit, while the guest runs: nothing is given up.
fn a_reset_that_ends_late_is_none_of_these() {
    let (text, error) = run(
        |g| {
            let not_yet = g.here();
            g.pause().load32(DONE).cmp_eax(1).jne(not_yet);
            g.show(ecam(SLOT, 0)).power_off();
        },
        |_, ends| {
            std::thread::sleep(LIMIT + LIMIT / 2);
            drop(ends);
        },
    );
    assert!(error.is_none(), "{error:?}");
    assert_eq!(text.trim(), format!("away\n{ID:08x}"));
}
