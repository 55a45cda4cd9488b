//! A guest resets a function, or changes its power state, and the kernel takes its time: only the
//! vCPU that made the write waits. Meanwhile the function reads as ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{BAR0, BAR1, Call, EXPRESS, FakeDevice, ID, PM, ROM, TABLE};
use crate::pci::{COMMAND, MASTER, MEMORY, ROM_REGISTER, SLOT, ecam};
use crate::vm::{Live, Vm};

pub const TESTS: &[Test] = tests![
    a_reset_holds_up_no_other_vcpu,
    waking_holds_up_no_other_vcpu,
    a_failure_during_a_reset_holds_up_nobody,
    a_release_during_a_reset_holds_up_nobody,
    a_reset_ends_d3,
    what_a_reset_turns_off_is_unmapped,
];

/// Device Control, and Initiate Function Level Reset.
const DEVICE_CONTROL: u16 = EXPRESS + 8;
const FLR: u32 = 1 << 15;
const POWER: u16 = PM + 4;

/// Dwords of RAM: processors that have started, and whether the slow write has returned.
const STARTED: u32 = 0x7_1000;
const DONE: u32 = STARTED + 4;

/// More than a guest needs for a few accesses, and less than the guests' time limit.
const PATIENCE: Duration = Duration::from_secs(30);

/// A write that the kernel does not return from until the test lets it.
#[derive(Default)]
struct SlowWrite {
    begun: AtomicBool,
    allowed: AtomicBool,
    ended: AtomicBool,
}

impl SlowWrite {
    fn is_under_way(&self) -> bool {
        self.begun.load(Ordering::Acquire) && !self.ended.load(Ordering::Acquire)
    }

    fn allow(&self) {
        self.allowed.store(true, Ordering::Release);
    }

    /// What the kernel does meanwhile.
    fn wait(&self) {
        self.begun.store(true, Ordering::Release);
        let end = Instant::now() + PATIENCE;
        while !self.allowed.load(Ordering::Acquire) && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        self.ended.store(true, Ordering::Release);
    }
}

/// A device that is slow to carry out one write to configuration space.
fn device(slow: &Arc<SlowWrite>, at: u16, data: Vec<u8>) -> Arc<FakeDevice> {
    let (slow, write) = (Arc::clone(slow), Call::Config(at.into(), data));
    let device = FakeDevice::new().on_call(move |_, call| {
        if *call == write {
            slow.wait();
        }
    });
    device.into_arc()
}

/// Prints what the function shows: an ID, the power state, a register in a BAR that traps, one in a
/// BAR that is mapped, the MSI-X table and the ROM.
fn look(g: &mut Asm) {
    g.show(ecam(SLOT, 0)).show(ecam(SLOT, POWER));
    g.show(BAR1 + 0x20).show(BAR0 + 0x20);
    g.show(TABLE + 12).show(ROM + 0x20);
}

/// vCPU 1 makes the slow write, and vCPU 0 looks before, meanwhile and after. `prepare` comes
/// first. `meanwhile` runs during the write, before the write may end. Returns what vCPU 0 printed.
fn run(
    slow: &SlowWrite,
    device: &Arc<FakeDevice>,
    prepare: impl FnOnce(&mut Asm),
    write: impl FnOnce(&mut Asm),
    meanwhile: impl FnOnce(&Live) + Send,
) -> Vec<u32> {
    let mut g = Asm::new();
    let other = g.label();
    g.cfg_write(SLOT, ROM_REGISTER, Width::Dword, ROM | 1);
    g.command(MEMORY | MASTER);
    g.store32(BAR1 + 0x20, 0x600d_0001)
        .store32(BAR0 + 0x20, 0x600d_0000);
    prepare(&mut g);
    g.local_apic_on().start_others(other, STARTED);
    // The slow write has begun when the function is away.
    let not_yet = g.here();
    g.pause()
        .load32(ecam(SLOT, 0))
        .cmp_eax(u32::MAX)
        .jne(not_yet);
    look(&mut g);
    // Writes are dropped: neither Bus Master Enable nor a BAR changes.
    g.store(Width::Word, ecam(SLOT, COMMAND), 0);
    g.store32(ecam(SLOT, 0x10), 0xd000_0000);
    g.store32(BAR1 + 0x20, 0xbad).store32(BAR0 + 0x20, 0xbad);
    g.store32(TABLE + 12, 0);
    g.print("free\n");
    let not_yet = g.here();
    g.pause().load32(DONE).cmp_eax(1).jne(not_yet);
    look(&mut g);
    g.show(ecam(SLOT, COMMAND)).power_off();
    g.bind(other);
    write(&mut g);
    g.store32(DONE, 1).hang();
    let ended = Vm::new(g).cpus(2).device(device).run_beside(|live| {
        live.wait_for("free\n");
        assert!(slow.is_under_way(), "vCPU 0 has waited for the slow write");
        meanwhile(live);
        slow.allow();
    });
    let text = ended.powered_off().replace("free\n", "");
    let numbers = text.lines().map(|line| u32::from_str_radix(line, 16));
    numbers.collect::<Result<_, _>>().unwrap()
}

const AWAY: [u32; 6] = [u32::MAX; 6];
const COMMAND_THEN: u32 = 0x0010_0000 | MEMORY | MASTER;

fn write_flr(g: &mut Asm) {
    g.store(Width::Word, ecam(SLOT, DEVICE_CONTROL), FLR);
}

fn slow_flr(slow: &Arc<SlowWrite>) -> Arc<FakeDevice> {
    let device = device(slow, DEVICE_CONTROL, vec![0, 0x80]);
    device.poke(6, 0x20, 0x600d_0006);
    device
}

/// All that vCPU 0 sees once the function is back.
const BACK: [u32; 6] = [ID, 0, 0x600d_0001, 0x600d_0000, 1, 0x600d_0006];

fn a_reset_holds_up_no_other_vcpu() {
    let slow = Arc::new(SlowWrite::default());
    let device = slow_flr(&slow);
    let numbers = run(&slow, &device, |_| (), write_flr, |_| ());
    assert_eq!(numbers[..6], AWAY);
    assert_eq!(numbers[6..12], BACK);
    assert_eq!(numbers[12], COMMAND_THEN);
}

fn waking_holds_up_no_other_vcpu() {
    let slow = Arc::new(SlowWrite::default());
    let device = device(&slow, POWER, vec![0, 0]);
    device.poke(6, 0x20, 0x600d_0006);
    let sleep = |g: &mut Asm| {
        g.cfg_write(SLOT, POWER, Width::Word, 3);
    };
    let wake = |g: &mut Asm| {
        g.store(Width::Word, ecam(SLOT, POWER), 0);
    };
    let numbers = run(&slow, &device, sleep, wake, |_| ());
    assert_eq!(numbers[..6], AWAY);
    assert_eq!(numbers[6..12], BACK);
    assert_eq!(numbers[12], COMMAND_THEN);
}

/// The device fails while the guest resets it. The event thread does not wait for the reset, and
/// the device is quiesced after it.
fn a_failure_during_a_reset_holds_up_nobody() {
    gone_during_a_reset(0, |device| assert_eq!(device.command(), 0));
}

/// The same when the host asks for the device.
fn a_release_during_a_reset_holds_up_nobody() {
    gone_during_a_reset(1, |device| assert_eq!(device.kind(), None));
}

fn gone_during_a_reset(event: usize, check: impl FnOnce(&FakeDevice)) {
    let slow = Arc::new(SlowWrite::default());
    let device = slow_flr(&slow);
    let failing = Arc::clone(&device);
    let numbers = run(
        &slow,
        &device,
        |_| (),
        write_flr,
        |_| {
            failing.device_event(event);
            // Long enough for the event thread.
            thread::sleep(Duration::from_millis(200));
        },
    );
    assert_eq!(numbers[..6], AWAY);
    assert_eq!(numbers[6..12], AWAY, "the function stays away");
    assert_eq!(numbers[12], u32::MAX);
    check(&device);
}

/// The kernel wakes a device to reset it, and the guest uses it without a write to PMCSR.
fn a_reset_ends_d3() {
    let device = FakeDevice::new().into_arc();
    let mut g = Asm::new();
    g.command(MEMORY).store32(BAR1 + 0x20, 0x600d);
    g.cfg_write(SLOT, POWER, Width::Word, 3).show(BAR1 + 0x20);
    g.cfg_write(SLOT, DEVICE_CONTROL, Width::Word, FLR);
    g.cfg_show(SLOT, POWER).show(BAR1 + 0x20).power_off();
    let numbers = Vm::new(g).device(&device).run().numbers();
    assert_eq!(numbers, [u32::MAX, 0, 0x600d]);
}

/// A device whose decoding a reset has turned off is not in the guest's address map.
fn what_a_reset_turns_off_is_unmapped() {
    let flr = Call::Config(DEVICE_CONTROL.into(), vec![0, 0x80]);
    let device = FakeDevice::new().on_call(move |device, call| {
        if *call == flr {
            device.forget_command();
        }
    });
    let device = device.into_arc();
    let mut g = Asm::new();
    g.command(MEMORY).store32(BAR0 + 0x20, 0x600d);
    g.cfg_write(SLOT, DEVICE_CONTROL, Width::Word, FLR);
    g.cfg_show(SLOT, COMMAND).show(BAR0 + 0x20);
    g.command(MEMORY).show(BAR0 + 0x20).power_off();
    let numbers = Vm::new(g).device(&device).run().numbers();
    assert_eq!(numbers, [0x0010_0000, u32::MAX, 0x600d]);
}
