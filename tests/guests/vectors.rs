//! Hosts that have few vectors or none, and add them slowly; and a device that fails.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use vmm::vfio::device::Irq;

use crate::Test;
use crate::common::asm::Asm;
use crate::device::{BAR0, BAR1, Call, DOORBELL, FakeDevice, ID, MSIX, PBA, TABLE, VECTORS};
use crate::irq_code::{ENABLE, FUNCTION_MASK};
use crate::pci::{MEMORY, SLOT};
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![
    growing_loses_nothing,
    growing_is_by_powers_of_two,
    adding_leaves_the_others_alone,
    growing_keeps_masked_vectors_masked,
    fewer_vectors_than_asked_for,
    fewer_vectors_where_they_are_added,
    fewer_vectors_at_once,
    a_refused_vector_can_be_tried_again,
    a_set_that_is_lost_reads_as_off,
    msix_that_cannot_be_enabled,
    a_failed_device_is_disconnected,
    a_device_is_given_back,
];

const V: u8 = 0x41;
const W: u8 = 0x52;

fn numbers(device: &Arc<FakeDevice>, build: impl FnOnce(&mut Asm)) -> Vec<u32> {
    let mut g = Asm::new();
    g.interrupts(&[V, W]).command(MEMORY);
    build(&mut g);
    g.power_off();
    Vm::new(g).device(device).run().numbers()
}

fn raise(g: &mut Asm, entry: u32) -> &mut Asm {
    g.store32(DOORBELL, entry)
}

/// First vectors and sizes of the SET_IRQS calls.
fn set_irqs(device: &FakeDevice) -> Vec<(u32, usize)> {
    let sizes = device.calls().into_iter().filter_map(|call| match call {
        Call::Events(Irq::Msix, start, events) => Some((start, events.len())),
        _ => None,
    });
    sizes.collect()
}

/// An interrupt that is raised while the set is off for its growth has no eventfd; it is delivered
/// afterwards.
fn growing_loses_nothing() {
    let device = FakeDevice::new()
        .no_resize()
        .on_call(|device, call| {
            if *call == Call::Disable(Irq::Msix) {
                assert!(!device.raise(0));
            }
        })
        .into_arc();
    let numbers = numbers(&device, |g| {
        g.msix_control(ENABLE).unmask_with(0, V);
        raise(g, 0).await_count(V, 1);
        g.unmask_with(1, W).await_count(V, 2);
        raise(g, 1).await_count(W, 1);
        raise(g, 0).await_count(V, 3).show_count(V);
    });
    assert_eq!(numbers, [3]);
}

fn growing_is_by_powers_of_two() {
    let device = FakeDevice::new().no_resize().into_arc();
    numbers(&device, |g| {
        g.msix_control(ENABLE);
        for entry in 0..8 {
            g.unmask_with(entry, V);
        }
        raise(g, 7).await_count(V, 1);
    });
    // For the fourth and the last three the vectors are set up already.
    let one_by_one = [
        (0, 1),
        (0, 1),
        (0, 2),
        (0, 4),
        (3, 1),
        (0, 8),
        (5, 1),
        (6, 1),
        (7, 1),
    ];
    assert_eq!(set_irqs(&device), one_by_one);
}

fn adding_leaves_the_others_alone() {
    let device = FakeDevice::new().into_arc();
    numbers(&device, |g| {
        g.msix_control(ENABLE);
        for entry in [6, 0, 3] {
            g.unmask_with(entry, V).mask(entry).unmask(entry);
        }
        raise(g, 3).await_count(V, 1);
    });
    // One call for each vector, however often the guest masks it.
    assert_eq!(set_irqs(&device), [(0, 1), (6, 1), (0, 1), (3, 1)]);
    assert_eq!(
        device.count(&Call::Disable(Irq::Msix)),
        1,
        "at the end alone"
    );
}

fn growing_keeps_masked_vectors_masked() {
    let device = FakeDevice::new().no_resize().into_arc();
    let numbers = numbers(&device, |g| {
        g.msix_control(ENABLE).unmask_with(0, V).mask(0);
        g.unmask_with(1, W).show_count(V);
        g.unmask(0);
        raise(g, 0).await_count(V, 1);
    });
    assert_eq!(numbers, [0]);
}

/// The host has three vectors: the fourth entry stays masked and reads as masked, and the others
/// work.
fn fewer_vectors_than_asked_for() {
    let device = FakeDevice::new().no_resize().available(3).into_arc();
    let numbers = numbers(&device, |g| {
        g.msix_control(ENABLE);
        for entry in 0..3 {
            g.unmask_with(entry, V);
        }
        g.unmask_with(3, W).show(TABLE + 3 * 16 + 12);
        raise(g, 3).show_count(W);
        // A failed attempt to grow may raise the others; their counts begin anew.
        g.clear_counts([V]);
        for entry in 0..3 {
            raise(g, entry).await_count(V, entry + 1);
        }
        g.show_count(V);
    });
    assert_eq!(numbers, [1, 0, 3]);
    assert_eq!(device.with_eventfd(), [] as [u32; 0]);
}

fn fewer_vectors_where_they_are_added() {
    let device = FakeDevice::new().available(2).into_arc();
    let numbers = numbers(&device, |g| {
        g.msix_control(ENABLE).unmask_with(0, V).unmask_with(5, W);
        g.show(TABLE + 12).show(TABLE + 5 * 16 + 12);
        raise(g, 5).show_count(W);
        raise(g, 0).await_count(V, 1).show_count(V);
    });
    assert_eq!(numbers, [0, 1, 0, 1]);
}

/// The guest fills the table before MSI-X is on, as Linux does. Each entry for which the host has
/// no vector then reads as masked.
fn fewer_vectors_at_once() {
    for device in [FakeDevice::new(), FakeDevice::new().no_resize()] {
        let device = device.available(4).into_arc();
        let numbers = numbers(&device, |g| {
            for entry in 0..6 {
                g.unmask_with(entry, V);
            }
            g.msix_control(ENABLE | FUNCTION_MASK).msix_control(ENABLE);
            for entry in 0..6 {
                g.show(TABLE + entry * 16 + 12);
            }
            // A failed attempt to grow may raise the others; their counts begin anew.
            g.clear_counts([V]);
            raise(g, 3).await_count(V, 1);
        });
        assert_eq!(numbers, [0, 0, 0, 0, 1, 1]);
    }
}

fn a_refused_vector_can_be_tried_again() {
    let device = FakeDevice::new()
        .on_call(|device, call| {
            // The first vector with an eventfd fails, once.
            if *call == Call::Events(Irq::Msix, 0, vec![false]) {
                device.failing_events.store(1, Ordering::Relaxed);
            }
        })
        .into_arc();
    let numbers = numbers(&device, |g| {
        g.msix_control(ENABLE).unmask_with(0, V);
        raise(g, 0).show_count(V).show(TABLE + 12).show(PBA);
        // The device kept the interrupt pending.
        g.unmask(0).await_count(V, 1).show(PBA);
        raise(g, 0).await_count(V, 2).show_count(V).show(TABLE + 12);
    });
    assert_eq!(numbers, [0, 1, 1, 0, 2, 0]);
}

/// The set is turned off to grow, and then the host has no vectors any more: MSI-X reads as off.
/// The guest can turn MSI-X on when the host has vectors again.
fn a_set_that_is_lost_reads_as_off() {
    let device = FakeDevice::new()
        .no_resize()
        .on_call(|device, call| {
            if *call == Call::Disable(Irq::Msix) && device.count(call) == 1 {
                device.failing_events.store(2, Ordering::Relaxed);
            }
        })
        .into_arc();
    let numbers = numbers(&device, |g| {
        g.msix_control(ENABLE).unmask_with(0, V);
        raise(g, 0).await_count(V, 1);
        g.unmask_with(1, W).cfg_show(SLOT, MSIX);
        raise(g, 0).show_count(V).show(TABLE + 12).show(TABLE + 28);
        g.msix_control(ENABLE);
        raise(g, 0).await_count(V, 2);
        g.unmask(1);
        raise(g, 1).await_count(W, 1).cfg_show(SLOT, MSIX);
    });
    let off = (VECTORS - 1) << 16 | 0x0011;
    assert_eq!(numbers, [off, 1, 0, 1, ENABLE << 16 | off]);
}

fn msix_that_cannot_be_enabled() {
    let device = FakeDevice::new().into_arc();
    // Device events are set up when the device is added, so the count begins with the guest.
    let failing = device.clone();
    let mut g = Asm::new();
    g.interrupts(&[V]).command(MEMORY).wait_key();
    g.msix_control(ENABLE).unmask_with(0, V);
    raise(&mut g, 0).show_count(V).show(PBA);
    g.cfg_show(SLOT, MSIX).msix_control(ENABLE);
    raise(&mut g, 0).await_count(V, 1).show_count(V).power_off();
    let ended = Vm::new(g).device(&device).run_beside(|live| {
        failing.failing_events.store(1, Ordering::Relaxed);
        live.press_key();
    });
    // MSI-X reads as off.
    let off = (VECTORS - 1) << 16 | 0x0011;
    assert_eq!(ended.numbers(), [0, 0, off, 1]);
}

fn a_failed_device_is_disconnected() {
    let device = FakeDevice::new().into_arc();
    device.poke(0, 0, 0x600d);
    let failing = device.clone();
    let mut g = Asm::new();
    g.interrupts(&[V])
        .command(MEMORY)
        .msix_control(ENABLE)
        .unmask_with(0, V);
    g.show(BAR0).print("\n");
    let again = g.here();
    g.cfg_read(SLOT, 0, crate::common::asm::Width::Dword)
        .cmp_eax(ID)
        .je(again);
    g.print_eax().show(BAR0).show(BAR1).show(TABLE);
    // Writes change nothing, and no vector can get an eventfd.
    g.command(MEMORY)
        .msix_control(ENABLE)
        .unmask_with(0, V)
        .show(BAR0);
    g.cfg_show(0, 0).power_off();
    let ended = Vm::new(g).device(&device).run_beside(|live| {
        live.wait_for("0000600d\n");
        failing.device_event(0);
    });
    assert_eq!(ended.slots.0, ended.slots.1);
    let gone = u32::MAX;
    assert_eq!(
        ended.numbers(),
        [0x600d, gone, gone, gone, gone, gone, 0x0008_1b36]
    );
    assert_eq!((device.command(), device.with_eventfd()), (0, vec![]));
}

/// The host asks for the device: the guest loses the device and goes on, and nothing keeps the
/// device open.
fn a_device_is_given_back() {
    let device = FakeDevice::new().into_arc();
    device.poke(0, 0, 0x600d);
    let asking = device.clone();
    let mut g = Asm::new();
    g.interrupts(&[V])
        .command(MEMORY)
        .msix_control(ENABLE)
        .unmask_with(0, V);
    g.show(BAR0).print("\n").wait_key();
    g.cfg_show(SLOT, 0).show(BAR0).show(TABLE);
    g.command(MEMORY).cfg_show(0, 0).power_off();
    let ended = Vm::new(g).device(&device).run_beside(|live| {
        live.wait_for("0000600d\n");
        let ours = std::sync::Arc::strong_count(&asking);
        asking.device_event(1);
        // The host repeats its request until the device is released.
        asking.device_event(1);
        crate::vm::eventually("the device is let go of", || {
            std::sync::Arc::strong_count(&asking) < ours
        });
        live.press_key();
    });
    assert_eq!(ended.slots.0, ended.slots.1);
    let gone = u32::MAX;
    assert_eq!(ended.numbers(), [0x600d, gone, gone, gone, 0x0008_1b36]);
    assert_eq!((device.command(), device.with_eventfd()), (0, vec![]));
}
