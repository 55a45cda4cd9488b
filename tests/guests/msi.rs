//! MSI, from a device's message to a guest's handler: forms of the capability, groups, masks, and
//! hosts with fewer vectors.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vmm::vfio::device::Irq;

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{ACKNOWLEDGE, ASK, Call, DOORBELL, FakeDevice, MSI};
use crate::irq_code::{
    MESSAGE_ADDRESS, MSI_64, MSI_ENABLE, MSI_MASKING, counter, group, msi_pending,
};
use crate::pci::{MEMORY, SLOT};
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![
    every_shape_delivers,
    messages_differ_in_low_bits,
    groups_of_every_size,
    a_group_too_large_is_cut,
    a_group_changes_while_enabled,
    a_masked_message_waits,
    masked_before_enabled,
    a_message_changes_while_enabled,
    a_message_changes_while_masked,
    enabled_in_any_access,
    fewer_messages_are_shown_from_the_start,
    fewer_messages_later_are_told,
    a_host_with_one_message,
    a_refused_msi_reads_as_off,
    no_line_is_left_behind,
];

/// The vectors of the largest group.
const GROUP: Range<u8> = 0x40..0x60;
const BASE: u32 = GROUP.start as u32;
/// The pin of the IOAPIC that INTA of slot 1 leads to, and its vector.
const PIN: u32 = 17;
const P: u8 = 0x61;

/// Multiple Message Capable for 2^`log` messages.
const fn capable(log: u16) -> u16 {
    log << 1
}

fn guest(build: impl FnOnce(&mut Asm)) -> Asm {
    let mut g = Asm::new();
    g.interrupts(&GROUP.collect::<Vec<_>>()).command(MEMORY);
    build(&mut g);
    g.power_off();
    g
}

fn numbers(device: &Arc<FakeDevice>, build: impl FnOnce(&mut Asm)) -> Vec<u32> {
    Vm::new(guest(build)).device(device).run().numbers()
}

/// The device sends message `number`.
fn raise(g: &mut Asm, number: u32) -> &mut Asm {
    g.store32(DOORBELL, number)
}

/// Raises a message, and waits until `vector` has come `count` times.
fn expect(g: &mut Asm, number: u32, vector: u32, count: u32) {
    raise(g, number).await_count(vector as u8, count);
}

/// How many eventfds each SET_IRQS of MSI had, and how many it was for.
fn set_irqs(device: &FakeDevice) -> Vec<(usize, usize)> {
    let calls = device.calls().into_iter().filter_map(|call| match call {
        Call::Events(Irq::Msi, 0, events) => {
            Some((events.iter().filter(|event| **event).count(), events.len()))
        }
        _ => None,
    });
    calls.collect()
}

fn every_shape_delivers() {
    for shape in [0, MSI_64, MSI_MASKING, MSI_64 | MSI_MASKING] {
        let device = FakeDevice::new().with_msi(shape).into_arc();
        let data = MSI + if shape & MSI_64 != 0 { 12 } else { 8 };
        let shown = numbers(&device, |g| {
            g.msi_message(shape, BASE).msi_control(MSI_ENABLE);
            expect(g, 0, BASE, 1);
            expect(g, 0, BASE, 2);
            g.cfg_show(SLOT, MSI).cfg_show(SLOT, MSI + 4);
            g.cfg_read(SLOT, data, Width::Word).print_eax();
            // MSI is off: the vector has no eventfd.
            g.msi_control(0);
            raise(g, 0).show_count(GROUP.start);
        });
        let control = u32::from(shape | MSI_ENABLE) << 16 | 0x0005;
        assert_eq!(shown, [control, MESSAGE_ADDRESS, BASE, 2], "{shape:#x}");
        assert_eq!(set_irqs(&device), [(1, 1)]);
    }
}

/// The guest's own low bits do not matter: they are the function's.
fn messages_differ_in_low_bits() {
    let shape = MSI_64 | capable(3);
    let device = FakeDevice::new().with_msi(shape).into_arc();
    let counts = numbers(&device, |g| {
        g.msi_message(shape, BASE + 3)
            .msi_control(group(2) | MSI_ENABLE);
        for number in [2, 0, 3, 1, 2] {
            raise(g, number);
        }
        for vector in GROUP.take(5) {
            g.show_count(vector);
        }
    });
    // Two of the third may have become one in the local APIC.
    assert!(counts[2] == 1 || counts[2] == 2, "{counts:?}");
    assert_eq!([&counts[..2], &counts[3..]].concat(), [1, 1, 1, 0]);
}

fn groups_of_every_size() {
    let shape = MSI_64 | capable(5);
    let device = FakeDevice::new().with_msi(shape).into_arc();
    numbers(&device, |g| {
        for log in 0..=5 {
            let size = 1 << log;
            g.clear_counts(GROUP);
            g.msi_message(shape, BASE)
                .msi_control(group(log) | MSI_ENABLE);
            for number in BTreeSet::from([0, size / 2, size - 1]) {
                expect(g, number, BASE + number, 1);
            }
            // A device with more events than messages shares the messages.
            raise(g, size).await_count(GROUP.start, 2);
            g.msi_control(0);
        }
    });
    // The first call finds out how many the host has; the others set up as many as each group has.
    let sizes = [(0, 32), (1, 1), (2, 2), (4, 4), (8, 8), (16, 16), (32, 32)];
    assert_eq!(set_irqs(&device), sizes);
}

fn a_group_too_large_is_cut() {
    let shape = capable(1);
    for written in [2, 5, 6, 7] {
        let device = FakeDevice::new().with_msi(shape).into_arc();
        let shown = numbers(&device, |g| {
            g.msi_message(shape, BASE)
                .msi_control(group(written) | MSI_ENABLE);
            expect(g, 1, BASE + 1, 1);
            g.cfg_read(SLOT, MSI + 2, Width::Word).print_eax();
        });
        assert_eq!(shown, [u32::from(shape | group(1) | MSI_ENABLE)]);
    }
}

fn a_group_changes_while_enabled() {
    let shape = MSI_64 | capable(4);
    let device = FakeDevice::new().with_msi(shape).into_arc();
    numbers(&device, |g| {
        g.msi_message(shape, BASE).msi_control(MSI_ENABLE);
        expect(g, 3, BASE, 1);
        g.msi_control(group(2) | MSI_ENABLE);
        expect(g, 3, BASE + 3, 1);
        g.msi_control(group(1) | MSI_ENABLE);
        expect(g, 3, BASE + 1, 1);
    });
    assert_eq!(set_irqs(&device), [(0, 16), (1, 1), (4, 4), (2, 2)]);
}

fn a_masked_message_waits() {
    for address in [0, MSI_64] {
        let shape = address | MSI_MASKING | capable(2);
        let device = FakeDevice::new().with_msi(shape).into_arc();
        let shown = numbers(&device, |g| {
            g.msi_message(shape, BASE)
                .msi_control(group(2) | MSI_ENABLE);
            for round in 0..3 {
                g.msi_mask(shape, 0b0110);
                for number in [1, 2, 2, 3] {
                    raise(g, number);
                }
                g.await_count(GROUP.start + 3, round + 1);
                g.show_count(GROUP.start + 1).show_count(GROUP.start + 2);
                g.cfg_show(SLOT, msi_pending(shape));
                // One after the other.
                g.msi_mask(shape, 0b0010)
                    .await_count(GROUP.start + 2, round + 1)
                    .cfg_show(SLOT, msi_pending(shape));
                g.msi_mask(shape, 0)
                    .await_count(GROUP.start + 1, round + 1)
                    .cfg_show(SLOT, msi_pending(shape));
            }
            g.show_count(GROUP.start + 2);
        });
        let rounds = (0..3).flat_map(|done| [done, done, 0b0110, 0b0010, 0]);
        assert_eq!(shown, rounds.chain([3]).collect::<Vec<_>>());
    }
}

fn masked_before_enabled() {
    let shape = MSI_MASKING | capable(1);
    let device = FakeDevice::new().with_msi(shape).into_arc();
    let shown = numbers(&device, |g| {
        g.msi_mask(shape, u32::MAX)
            .msi_message(shape, BASE)
            .msi_control(group(1) | MSI_ENABLE);
        raise(g, 0);
        raise(g, 1).show_count(GROUP.start);
        g.cfg_show(SLOT, msi_pending(shape) - 4)
            .cfg_show(SLOT, msi_pending(shape));
        g.msi_mask(shape, 0)
            .await_count(GROUP.start, 1)
            .await_count(GROUP.start + 1, 1);
    });
    assert_eq!(shown, [0, 0b11, 0b11]);
}

fn a_message_changes_while_enabled() {
    let shape = MSI_64 | capable(1);
    let device = FakeDevice::new().with_msi(shape).into_arc();
    numbers(&device, |g| {
        g.msi_message(shape, BASE)
            .msi_control(group(1) | MSI_ENABLE);
        expect(g, 1, BASE + 1, 1);
        // Only the byte with the vector, as an access of its own.
        g.cfg_write(SLOT, MSI + 12, Width::Byte, BASE + 8);
        expect(g, 0, BASE + 8, 1);
        expect(g, 1, BASE + 9, 1);
    });
}

/// An interrupt is moved as Linux does: one raised during the move comes by the new vector.
fn a_message_changes_while_masked() {
    let shape = MSI_MASKING | capable(1);
    let device = FakeDevice::new().with_msi(shape).into_arc();
    let counts = numbers(&device, |g| {
        g.msi_message(shape, BASE)
            .msi_control(group(1) | MSI_ENABLE)
            .msi_mask(shape, 0b11);
        raise(g, 1).msi_message(shape, BASE + 8).msi_mask(shape, 0);
        g.await_count(GROUP.start + 9, 1)
            .show_count(GROUP.start + 1)
            .show_count(GROUP.start + 9);
    });
    assert_eq!(counts, [0, 1]);
}

fn enabled_in_any_access() {
    let shape = MSI_64 | capable(2);
    let control = u32::from(group(2) | MSI_ENABLE);
    let accesses = [
        (0, Width::Dword, control << 16 | 0xffff),
        (2, Width::Word, control),
        (2, Width::Byte, control),
    ];
    for (offset, width, value) in accesses {
        let device = FakeDevice::new().with_msi(shape).into_arc();
        let shown = numbers(&device, |g| {
            g.msi_message(shape, BASE)
                .cfg_write(SLOT, MSI + offset, width, value);
            expect(g, 3, BASE + 3, 1);
            g.cfg_show(SLOT, MSI);
        });
        assert_eq!(shown, [(control | u32::from(shape)) << 16 | 0x0005]);
    }
}

/// Drivers read the number of messages in the capability, so it is what the host has.
fn fewer_messages_are_shown_from_the_start() {
    let shape = MSI_64 | capable(4);
    let device = FakeDevice::new().with_msi(shape).into_arc();
    device.set_available_msi(7);
    let shown = numbers(&device, |g| {
        g.cfg_read(SLOT, MSI + 2, Width::Word).print_eax();
        g.msi_message(shape, BASE + 15)
            .msi_control(group(4) | MSI_ENABLE);
        expect(g, 3, BASE + 8 + 4 + 3, 1);
        // The fifth event shares the first message.
        expect(g, 4, BASE + 8 + 4, 1);
        g.cfg_read(SLOT, MSI + 2, Width::Word).print_eax();
    });
    let four = MSI_64 | capable(2);
    let enabled = four | group(2) | MSI_ENABLE;
    assert_eq!(shown, [four, enabled].map(u32::from));
    assert_eq!(set_irqs(&device), [(0, 4), (4, 4)]);
}

/// Other devices have taken the host's vectors meanwhile: both fields show the new number, and the
/// vectors left work. A reset starts anew.
fn fewer_messages_later_are_told() {
    let shape = MSI_64 | MSI_MASKING | capable(3);
    let device = FakeDevice::new().with_msi(shape).into_arc();
    let other = device.clone();
    let marker = counter(P);
    let g = guest(|g| {
        let second = g.label();
        g.load32(marker).cmp_eax(1).je(second).wait_key();
        g.cfg_read(SLOT, MSI + 2, Width::Word).print_eax();
        g.msi_message(shape, BASE + 5)
            .msi_mask(shape, 0b1000_0000)
            .msi_control(group(3) | MSI_ENABLE)
            .cfg_read(SLOT, MSI + 2, Width::Word)
            .print_eax();
        // Two are left, and the masks of the others are gone with them.
        expect(g, 0, BASE + 4, 1);
        expect(g, 7, BASE + 5, 1);
        g.cfg_show(SLOT, msi_pending(shape) - 4);
        // Vectors that are free again are used after a reset, not before.
        g.store32(marker, 1).reset();
        g.bind(second)
            .cfg_read(SLOT, MSI + 2, Width::Word)
            .print_eax();
    });
    let ended = Vm::new(g).device(&device).run_beside(|live| {
        other.set_available_msi(3);
        live.press_key();
    });
    let left = MSI_64 | MSI_MASKING | capable(1) | group(1) | MSI_ENABLE;
    assert_eq!(ended.numbers(), [shape, left, 0, shape].map(u32::from));
    assert_eq!(set_irqs(&device), [(0, 8), (2, 2)]);
}

/// As on a host whose IOMMU does not remap interrupts.
fn a_host_with_one_message() {
    let shape = MSI_64 | capable(5);
    let device = FakeDevice::new().with_msi(shape).into_arc();
    device.set_available_msi(1);
    let shown = numbers(&device, |g| {
        g.cfg_read(SLOT, MSI + 2, Width::Word).print_eax();
        g.msi_message(shape, BASE).msi_control(MSI_ENABLE);
        expect(g, 0, BASE, 1);
        expect(g, 31, BASE, 2);
    });
    assert_eq!(shown, [u32::from(MSI_64)]);
}

/// The host has no vector: the enable bit reads 0 and the pin stays on. A second try may work.
fn a_refused_msi_reads_as_off() {
    let device = FakeDevice::new().with_pin().with_msi(MSI_64).into_arc();
    let failing = device.clone();
    let mut g = Asm::new();
    g.level_handler(P, ACKNOWLEDGE)
        .interrupts(&[GROUP.start])
        .ioapic_level(PIN, P)
        .command(MEMORY)
        .wait_key();
    g.msi_message(MSI_64, BASE).msi_control(MSI_ENABLE);
    g.cfg_read(SLOT, MSI + 2, Width::Word).print_eax();
    g.store32(ASK, 1).await_count(P, 1).show(ASK);
    g.msi_control(MSI_ENABLE);
    expect(&mut g, 0, BASE, 1);
    g.cfg_read(SLOT, MSI + 2, Width::Word).print_eax();
    g.power_off();
    let ended = Vm::new(g).device(&device).run_beside(|live| {
        failing.failing_events.store(1, Ordering::Relaxed);
        live.press_key();
    });
    let on = MSI_64 | MSI_ENABLE;
    assert_eq!(ended.numbers(), [MSI_64, 0, on].map(u32::from));
}

/// MSI is off after the guest's end, even if the guest left MSI on.
fn no_line_is_left_behind() {
    let shape = MSI_64 | capable(5);
    let device = FakeDevice::new().with_msi(shape).into_arc();
    numbers(&device, |g| {
        g.msi_message(shape, BASE)
            .msi_control(group(5) | MSI_ENABLE);
        expect(g, 31, BASE + 31, 1);
    });
    assert_eq!(device.msi_with_eventfd(), [] as [u32; 0]);
    // The call that found out the number of messages, and the one at the end.
    assert_eq!(device.count(&Call::Disable(Irq::Msi)), 2);
}
