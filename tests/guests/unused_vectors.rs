//! Unused MSI-X vectors: KVM coalesces writes to their table entries until one is used. Only the
//! number of exits shows that.

use std::sync::Arc;

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{BAR0, DOORBELL, FakeDevice, TABLE};
use crate::irq_code::{ENABLE, FUNCTION_MASK};
use crate::pci::{COMMAND, MEMORY, SLOT, bar_register};
use crate::vm::{Vm, eventually};
use crate::waiting::kept;

pub const TESTS: &[Test] = tests![
    masking_a_table_makes_no_exits,
    a_vector_is_used_without_a_look,
    more_entries_than_the_ring_holds,
    a_table_that_moves,
    a_small_table,
    a_reset_begins_anew,
    unmasked_while_turned_on,
];

const V: u8 = 0x41;
const W: u8 = 0x52;
const VECTORS: u16 = 64;

/// Dwords of RAM.
const BOOTED: u32 = 0x7_2000;
const GO: u32 = BOOTED + 4;
const DONE: u32 = BOOTED + 8;
const STARTED: u32 = BOOTED + 12;

fn device() -> Arc<FakeDevice> {
    FakeDevice::new().with_vectors(VECTORS).into_arc()
}

fn mask_all(g: &mut Asm) -> &mut Asm {
    for entry in 0..VECTORS {
        g.mask(entry.into());
    }
    g
}

/// Checks the number of memory exits, where KVM coalesces writes.
#[track_caller]
fn assert_exits(memory: u64, wanted: u64) {
    assert!(!kept() || memory == wanted, "{memory} exits, not {wanted}");
}

/// As Linux's NVMe driver does it: with its first vector alone, then with two.
fn masking_a_table_makes_no_exits() {
    let mut g = Asm::new();
    g.interrupts(&[V, W]).command(MEMORY);
    g.msix_control(ENABLE | FUNCTION_MASK);
    mask_all(&mut g).msix_control(ENABLE).unmask_with(0, V);
    g.store32(DOORBELL, 0).await_count(V, 1);
    g.mask(0).msix_control(0);

    g.msix_control(ENABLE | FUNCTION_MASK).unmask_with(1, W);
    mask_all(&mut g).msix_control(ENABLE);
    g.unmask_with(0, V).unmask(1);
    g.store32(DOORBELL, 0).await_count(V, 2);
    g.store32(DOORBELL, 1).await_count(W, 1);
    g.show_count(V).show_count(W).power_off();
    let ended = Vm::new(g).device(&device()).run();
    let (_, memory) = ended.exits();
    // Of entry 0: masked three times, and twice a message and unmasked. Entry 1 unmasked, when it
    // was in use already. Three doorbells.
    assert_exits(memory, 3 + 2 * 4 + 1 + 3);
    assert_eq!(ended.numbers(), [2, 1]);
}

/// With interrupts on, and by a guest that makes no exit afterwards.
fn a_vector_is_used_without_a_look() {
    let device = device();
    let mut g = Asm::new();
    g.interrupts(&[V]).command(MEMORY).msix_control(ENABLE);
    g.unmask_with(5, V).await_count(V, 1);
    // The vector is in use from here on, and its mask works at once.
    g.mask(5).print("masked\n").wait_key();
    g.show_count(V).unmask(5).await_count(V, 2);
    g.show_count(V).power_off();
    let beside = device.clone();
    let ended = Vm::new(g).device(&device).run_beside(|live| {
        eventually("the vector is live", || beside.with_eventfd() == [5]);
        assert!(beside.raise(5));
        live.wait_for("masked\n");
        beside.raise(5);
        live.press_key();
    });
    let (_, memory) = ended.exits();
    assert_exits(memory, 2);
    let text = ended.powered_off();
    assert_eq!(text, "masked\n00000001\n00000002\n");
}

fn more_entries_than_the_ring_holds() {
    const MANY: u16 = 200;
    let data = |entry: u32| TABLE + 16 * entry + 8;
    let mut g = Asm::new();
    g.command(MEMORY);
    for entry in 1..MANY {
        g.store32(data(entry.into()), 0x100 + u32::from(entry));
    }
    let looks = [1, 100, 168, 169, 170, 171, 199];
    for entry in looks {
        g.show(data(entry));
    }
    g.power_off();
    let device = FakeDevice::new().with_vectors(MANY).into_arc();
    let ended = Vm::new(g).device(&device).run();
    let (_, memory) = ended.exits();
    // Seven reads, and the write that finds the ring full.
    assert!(!kept() || memory <= 7 + 2, "{memory} exits");
    assert_eq!(ended.numbers(), looks.map(|entry| 0x100 + entry));
}

/// Another device's table may get the address of a coalesced one: writes to it are exits, and go to
/// that device.
fn a_table_that_moves() {
    const ELSEWHERE: u32 = 0xd000_0000;
    const WRITES: u32 = 10;
    let (first, second) = (device(), device());
    let mut g = Asm::new();
    g.set_bar(0, ELSEWHERE);
    g.cfg_write(SLOT + 1, bar_register(0), Width::Dword, BAR0);
    g.command(MEMORY);
    g.cfg_write(SLOT + 1, COMMAND, Width::Word, MEMORY);
    for value in 1..=WRITES {
        g.store32(TABLE + 24, value);
    }
    g.show(TABLE + 24).show(ELSEWHERE + 0x2000 + 24);
    g.store32(ELSEWHERE + 0x2000 + 24, 0x77);
    g.show(TABLE + 24).show(ELSEWHERE + 0x2000 + 24);
    g.power_off();
    let ended = Vm::new(g).device(&first).device(&second).run();
    let (_, memory) = ended.exits();
    assert_eq!(memory, u64::from(WRITES) + 5);
    assert_eq!(ended.numbers(), [WRITES, 0, WRITES, 0x77]);
}

/// Writes to a small table are not coalesced.
fn a_small_table() {
    let mut g = Asm::new();
    g.command(MEMORY);
    for entry in 0..8 {
        g.mask(entry);
    }
    g.power_off();
    let ended = Vm::new(g).device(&FakeDevice::new().into_arc()).run();
    assert_eq!(ended.exits().1, 8);
    ended.powered_off();
}

fn a_reset_begins_anew() {
    let mut g = Asm::new();
    let done = g.label();
    g.interrupts(&[V]).command(MEMORY).msix_control(ENABLE);
    g.unmask_with(5, V).show(TABLE + 16 * 5 + 8).mask(5);
    g.load32(BOOTED).cmp_eax(1).je(done);
    g.store32(BOOTED, 1).reset();
    g.bind(done).power_off();
    let ended = Vm::new(g).device(&device()).run();
    let (_, memory) = ended.exits();
    assert_exits(memory, 2 * 2);
    assert_eq!(ended.numbers(), [u32::from(V); 2]);
}

/// One processor turns interrupts on while another unmasks an unused entry. Whichever comes first,
/// the vector is live at the last exit at the latest.
fn unmasked_while_turned_on() {
    for entry in 1..=20 {
        let mut g = Asm::new();
        let other = g.label();
        let wait = |g: &mut Asm, flag: u32| {
            let not_yet = g.here();
            g.pause().load32(flag).cmp_eax(1).jne(not_yet);
        };
        g.interrupts(&[V]).start_others(other, STARTED);
        g.command(MEMORY).msix_control(ENABLE | FUNCTION_MASK);
        wait(&mut g, STARTED);
        g.store32(GO, 1).msix_control(ENABLE);
        wait(&mut g, DONE);
        g.store32(DOORBELL, entry).await_count(V, 1).power_off();
        g.bind(other);
        wait(&mut g, GO);
        g.unmask_with(entry, V).store32(DONE, 1).hang();
        Vm::new(g).cpus(2).device(&device()).run().powered_off();
    }
}
