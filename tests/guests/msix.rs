//! MSI-X, from a device's eventfd to a guest's handler: delivery, masks, messages.

use std::sync::Arc;

use vmm::vfio::device::Irq;

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{BAR0, Call, DOORBELL, FakeDevice, MSIX, PBA, TABLE};
use crate::irq_code::{ENABLE, FUNCTION_MASK, counter};
use crate::pci::{MEMORY, SLOT};
use crate::vm::{Ended, Vm, eventually};

pub const TESTS: &[Test] = tests![
    an_interrupt_arrives,
    no_exit_per_interrupt,
    a_masked_vector_waits,
    masking_again,
    many_events_while_masked_are_one,
    vectors_have_their_own_messages,
    a_message_changes_while_unmasked,
    a_message_changes_while_masked,
    the_function_mask,
    raised_before_it_was_ever_unmasked,
    off_and_on_again,
    unmasked_before_enabled,
    enabled_with_a_dword,
    a_handler_that_raises_again,
    no_interrupt_is_lost_between_masks,
    interrupts_work_after_a_reset,
];

const V: u8 = 0x41;
const W: u8 = 0x52;

fn run(device: &Arc<FakeDevice>, build: impl FnOnce(&mut Asm)) -> Ended {
    let mut g = Asm::new();
    g.interrupts(&[V, W]).command(MEMORY);
    build(&mut g);
    g.power_off();
    Vm::new(g).device(device).run()
}

/// What a guest prints: the same with few vectors, where all table writes are exits, and with so
/// many that KVM coalesces some.
fn numbers(build: impl Fn(&mut Asm)) -> Vec<u32> {
    let [few, many] = [FakeDevice::new(), FakeDevice::new().with_vectors(64)]
        .map(|device| run(&device.into_arc(), &build).numbers());
    assert_eq!(few, many);
    many
}

/// The guest's store makes the device raise the entry.
fn raise(g: &mut Asm, entry: u32) -> &mut Asm {
    g.store32(DOORBELL, entry)
}

fn an_interrupt_arrives() {
    let device = FakeDevice::new().into_arc();
    let numbers = run(&device, |g| {
        g.msix_control(ENABLE).unmask_with(3, V);
        raise(g, 3).await_count(V, 1);
        raise(g, 3).await_count(V, 2).show_count(V).show_count(W);
    })
    .numbers();
    assert_eq!(numbers, [2, 0]);
    // One eventfd for the one vector in use.
    let events: Vec<_> = device
        .calls()
        .into_iter()
        .filter(|c| matches!(c, Call::Events(Irq::Msix, ..)))
        .collect();
    assert_eq!(
        events,
        [
            Call::Events(Irq::Msix, 0, vec![false]),
            Call::Events(Irq::Msix, 3, vec![true]),
        ]
    );
}

fn no_exit_per_interrupt() {
    const INTERRUPTS: u32 = 200;
    // The handler counts in a mapped page of the device, which this test reads.
    const COUNT: u32 = 0x800;
    let device = FakeDevice::new().into_arc();
    let mut g = Asm::new();
    g.interrupts(&[]).handler(V, BAR0 + COUNT);
    g.command(MEMORY).msix_control(ENABLE).unmask_with(0, V);
    g.print("ready\n");
    let again = g.here();
    g.pause().load32(BAR0 + COUNT).cmp_eax(INTERRUPTS).jb(again);
    let until_key = g.here();
    g.pause()
        .load32(BAR0 + COUNT + 4)
        .cmp_eax(1)
        .jb(until_key)
        .power_off();
    let beside = device.clone();
    let ended = Vm::new(g).device(&device).run_beside(|live| {
        live.wait_for("ready\n");
        let mut before = live.exits();
        for count in 1..=INTERRUPTS {
            assert!(beside.raise(0));
            eventually("the guest counts", || beside.peek(0, COUNT.into()) == count);
            if count == 1 {
                // The exit of the last letter is counted after it was printed.
                before = live.exits();
            }
        }
        assert_eq!(live.exits(), before, "port and memory exits");
        beside.poke(0, u64::from(COUNT) + 4, 1);
    });
    assert_eq!(ended.powered_off(), "ready\n");
    assert_eq!(device.peek(0, COUNT.into()), INTERRUPTS);
}

fn a_masked_vector_waits() {
    let numbers = numbers(|g| {
        g.msix_control(ENABLE).unmask_with(2, V).mask(2);
        g.show(PBA);
        raise(g, 2).show_count(V).show(PBA);
        g.unmask(2).await_count(V, 1).show_count(V).show(PBA);
    });
    assert_eq!(numbers, [0, 0, 1 << 2, 1, 0]);
}

fn masking_again() {
    let numbers = numbers(|g| {
        g.msix_control(ENABLE).unmask_with(0, V);
        for round in 0..3 {
            raise(g, 0).await_count(V, 2 * round + 1);
            g.mask(0);
            raise(g, 0).show_count(V).show(PBA);
            g.unmask(0).await_count(V, 2 * round + 2);
        }
        g.show_count(V);
    });
    assert_eq!(numbers, [1, 1, 3, 1, 5, 1, 6]);
}

/// A pending bit holds one interrupt, as in hardware.
fn many_events_while_masked_are_one() {
    let numbers = numbers(|g| {
        g.msix_control(ENABLE).unmask_with(1, V).mask(1);
        for _ in 0..5 {
            raise(g, 1);
        }
        g.unmask(1).await_count(V, 1).show_count(V);
    });
    assert_eq!(numbers, [1]);
}

fn vectors_have_their_own_messages() {
    let numbers = numbers(|g| {
        g.msix_control(ENABLE).unmask_with(0, V).unmask_with(7, W);
        raise(g, 7).await_count(W, 1).show_count(V);
        raise(g, 0).await_count(V, 1);
        raise(g, 7).await_count(W, 2).show_count(V).show_count(W);
    });
    assert_eq!(numbers, [0, 1, 2]);
}

fn a_message_changes_while_unmasked() {
    let numbers = numbers(|g| {
        g.msix_control(ENABLE).unmask_with(0, V);
        raise(g, 0).await_count(V, 1);
        g.store32(TABLE + 8, W.into());
        raise(g, 0).await_count(W, 1).show_count(V).show_count(W);
    });
    assert_eq!(numbers, [1, 1]);
}

/// An interrupt is moved as Linux does: one raised during the move comes by the new vector.
fn a_message_changes_while_masked() {
    let numbers = numbers(|g| {
        g.msix_control(ENABLE).unmask_with(0, V).mask(0);
        raise(g, 0).store32(TABLE + 8, W.into());
        g.unmask(0).await_count(W, 1).show_count(V).show_count(W);
    });
    assert_eq!(numbers, [0, 1]);
}

fn the_function_mask() {
    let numbers = numbers(|g| {
        g.msix_control(ENABLE)
            .unmask_with(0, V)
            .unmask_with(1, W)
            .mask(1);
        g.msix_control(ENABLE | FUNCTION_MASK);
        raise(g, 0);
        raise(g, 1).show_count(V).show(PBA);
        g.msix_control(ENABLE)
            .await_count(V, 1)
            .show_count(V)
            .show_count(W)
            .show(PBA);
        g.unmask(1).await_count(W, 1);
    });
    assert_eq!(numbers, [0, 3, 1, 0, 2]);
}

/// A vector that was never unmasked has no eventfd: the device keeps its interrupt pending.
fn raised_before_it_was_ever_unmasked() {
    let numbers = numbers(|g| {
        g.msix_control(ENABLE);
        raise(g, 3);
        raise(g, 6).show(PBA);
        g.load(Width::Byte, PBA).print_eax();
        g.load(Width::Byte, PBA + 1).print_eax();
        g.unmask_with(3, V).await_count(V, 1).show(PBA);
        g.unmask_with(6, W)
            .await_count(W, 1)
            .show(PBA)
            .show_count(V);
    });
    assert_eq!(numbers, [0x48, 0x48, 0, 0x40, 0, 1]);
}

fn off_and_on_again() {
    let device = FakeDevice::new().into_arc();
    let numbers = run(&device, |g| {
        g.msix_control(ENABLE).unmask_with(0, V).unmask_with(1, W);
        raise(g, 0).await_count(V, 1).msix_control(0);
        // No vector has an eventfd now. The table is unchanged: when MSI-X is on again, the entry
        // is unmasked.
        raise(g, 0).show_count(V).show(TABLE + 8).show(TABLE + 12);
        g.msix_control(ENABLE);
        raise(g, 0).await_count(V, 2);
        raise(g, 1).await_count(W, 1).show_count(V);
    })
    .numbers();
    assert_eq!(numbers, [1, V.into(), 0, 2]);
    assert!(device.count(&Call::Disable(Irq::Msix)) >= 1);
}

/// As Linux does it: the table first, then the enable bit with the function mask, then without.
fn unmasked_before_enabled() {
    let numbers = numbers(|g| {
        g.unmask_with(0, V)
            .unmask_with(5, W)
            .msix_control(ENABLE | FUNCTION_MASK);
        g.msix_control(ENABLE);
        raise(g, 5).await_count(W, 1);
        raise(g, 0).await_count(V, 1).show_count(W);
    });
    assert_eq!(numbers, [1]);
}

fn enabled_with_a_dword() {
    let numbers = run(&FakeDevice::new().into_arc(), |g| {
        g.unmask_with(0, V);
        g.cfg_write(SLOT, MSIX, Width::Dword, ENABLE << 16);
        raise(g, 0).await_count(V, 1).cfg_show(SLOT, MSIX);
        g.cfg_write(SLOT, MSIX + 3, Width::Byte, 0)
            .cfg_show(SLOT, MSIX);
    })
    .numbers();
    assert_eq!(numbers, [0x8007_0011, 0x0007_0011]);
}

/// The device raises while the guest handles the last interrupt: each is delivered in turn.
fn a_handler_that_raises_again() {
    let numbers = numbers(|g| {
        g.msix_control(ENABLE).unmask_with(0, V);
        g.cli();
        raise(g, 0).show_count(V).sti();
        g.await_count(V, 1);
        for count in 2..50 {
            raise(g, 0).await_count(V, count);
        }
        g.show_count(V);
    });
    assert_eq!(numbers, [0, 49]);
}

/// The device interrupts whenever the last interrupt was counted, while the guest masks and unmasks
/// without end. A lost interrupt would stop both.
fn no_interrupt_is_lost_between_masks() {
    const INTERRUPTS: u32 = 300;
    const COUNT: u32 = 0x800;
    let device = FakeDevice::new().into_arc();
    let mut g = Asm::new();
    g.interrupts(&[])
        .handler(V, BAR0 + COUNT)
        .handler(W, BAR0 + COUNT);
    g.command(MEMORY)
        .msix_control(ENABLE)
        .unmask_with(0, V)
        .print("ready\n");
    let again = g.here();
    // A new vector each time, as when a guest moves an interrupt between processors.
    g.mask(0).store32(TABLE + 8, W.into()).unmask(0);
    g.mask(0).store32(TABLE + 8, V.into()).unmask(0);
    g.load32(BAR0 + COUNT)
        .cmp_eax(INTERRUPTS)
        .jb(again)
        .power_off();
    let beside = device.clone();
    let ended = Vm::new(g).device(&device).run_beside(|live| {
        live.wait_for("ready\n");
        for count in 1..=INTERRUPTS {
            assert!(beside.raise(0));
            eventually("an interrupt", || beside.peek(0, COUNT.into()) >= count);
        }
    });
    ended.powered_off();
    assert_eq!(device.peek(0, COUNT.into()), INTERRUPTS);
}

fn interrupts_work_after_a_reset() {
    let device = FakeDevice::new().into_arc();
    let numbers = run(&device, |g| {
        let done = g.label();
        g.msix_control(ENABLE).unmask_with(0, V);
        g.load32(counter(W)).cmp_eax(1).je(done);
        // The first boot ends with one interrupt pending and another being delivered.
        g.unmask_with(1, V).mask(1);
        raise(g, 0).await_count(V, 1);
        raise(g, 1)
            .store32(counter(W), 1)
            .store32(counter(V), 0)
            .reset();
        g.bind(done).show_count(V);
        raise(g, 0)
            .await_count(V, 1)
            .show_count(V)
            .show(PBA)
            .show(TABLE + 16);
    })
    .numbers();
    // The other entry is as at power-on, and no interrupt is pending.
    assert_eq!(numbers, [0, 1, 0, 0]);
}
