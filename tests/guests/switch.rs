//! Changes between kinds of interrupt in a running guest: one kind is on at a time, and an
//! interrupt raised before the change is delivered after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm::vfio::device::Irq;

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{ACKNOWLEDGE, ASK, Call, DOORBELL, FakeDevice, MSI, MSIX, PBA};
use crate::irq_code::{ENABLE, FUNCTION_MASK, MSI_64, MSI_ENABLE, group};
use crate::pci::{MEMORY, SLOT};
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![
    nothing_is_lost_around_the_circle,
    nothing_is_lost_without_resampling,
    the_pin_speaks_up_when_messages_end,
    two_signals_of_a_pin_are_one_interrupt,
    msix_wins_over_msi,
    one_access_ends_one_and_not_the_other,
    refused_msix_falls_back_to_msi,
];

/// The pin of the IOAPIC that INTA of slot 1 leads to, and its vector.
const PIN: u32 = 17;
const P: u8 = 0x31;
/// MSI: two messages.
const M: u8 = 0x40;
const SHAPE: u16 = MSI_64 | 1 << 1;
const MSI_ON: u16 = group(1) | MSI_ENABLE;
/// MSI-X.
const X: u8 = 0x52;

fn numbers(device: &Arc<FakeDevice>, build: impl FnOnce(&mut Asm)) -> Vec<u32> {
    let mut g = Asm::new();
    g.level_handler(P, ACKNOWLEDGE).interrupts(&[M, M + 1, X]);
    g.ioapic_level(PIN, P).command(MEMORY);
    g.msi_message(SHAPE, M.into());
    build(&mut g);
    g.power_off();
    Vm::new(g).device(device).run().numbers()
}

/// The kinds in the order in which the device was told to use them.
fn kinds(device: &FakeDevice) -> Vec<Irq> {
    let mut kinds: Vec<Irq> = Vec::new();
    let mut on = None;
    for call in device.calls() {
        match call {
            Call::Events(irq @ (Irq::Intx | Irq::Msi | Irq::Msix), ..) => {
                assert!(
                    on.is_none() || on == Some(irq),
                    "{irq:?} while {on:?} is on"
                );
                if on.replace(irq).is_none() {
                    kinds.push(irq);
                }
            }
            Call::Disable(_) => on = None,
            _ => {}
        }
    }
    kinds
}

/// Pin, MSI, MSI-X, and the pin again. Each time the device raises an interrupt while the guest has
/// interrupts off, the guest changes the kind, and then the interrupt is delivered.
fn full_circle(device: FakeDevice) {
    const ROUNDS: u32 = 10;
    let device = device.with_msi(SHAPE).into_arc();
    let counts = numbers(&device, |g| {
        for round in 1..=ROUNDS {
            g.cli().store32(ASK, 1).msi_control(MSI_ON);
            // The pin's earlier interrupt is in the local APIC, which delivers it now.
            let again = g.sti().here();
            g.pause().load32(ASK).cmp_eax(0).jne(again);

            g.cli().store32(DOORBELL, 1).msi_control(0);
            g.msix_control(ENABLE).unmask_with(5, X);
            g.sti().await_count(M + 1, round);

            g.cli().store32(DOORBELL, 5).msix_control(0);
            g.sti().await_count(X, round);
        }
        g.show_count(M).show_count(M + 1).show_count(X).show(ASK);
    });
    assert_eq!(counts, [0, ROUNDS, ROUNDS, 0]);
    let circle = [Irq::Intx, Irq::Msi, Irq::Intx, Irq::Msix];
    let expected = circle.iter().cycle().take(4 * ROUNDS as usize);
    // The first call finds out how many messages the host has. At the end the pin is on.
    let kinds = kinds(&device);
    assert_eq!((kinds[0], kinds[kinds.len() - 1]), (Irq::Msi, Irq::Intx));
    assert!(kinds[1..kinds.len() - 1].iter().eq(expected), "{kinds:?}");
}

fn nothing_is_lost_around_the_circle() {
    full_circle(FakeDevice::new().with_resampled_pin());
}

fn nothing_is_lost_without_resampling() {
    full_circle(FakeDevice::new().with_pin());
}

/// A device that asserts its pin while messages are on interrupts when they are off.
///
/// A level may interrupt once more than the device has asked for: some hosts' KVM takes the EOI
/// when it delivers the interrupt, so VFIO unmasks a pin that is still asserted. When the pin is
/// off, KVM has delivered whatever it was going to, and the guest counts anew.
fn the_pin_speaks_up_when_messages_end() {
    let device = FakeDevice::new().with_resampled_pin().with_msi(SHAPE);
    let device = device.into_arc();
    let shown = numbers(&device, |g| {
        g.msi_control(MSI_ON).store32(ASK, 1).show_count(P);
        g.msi_control(0).await_count(P, 1).show(ASK);
        g.msix_control(ENABLE).clear_counts([P]);
        g.store32(ASK, 1).show_count(P);
        g.msix_control(0).await_count(P, 1).show(ASK);
    });
    assert_eq!(shown, [0, 0, 0, 0]);
}

/// VFIO signals a pin that is asserted twice, for the eventfd and for the unmasking. KVM gets the
/// eventfd after both, and so sees one event.
fn two_signals_of_a_pin_are_one_interrupt() {
    let waited = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&waited);
    let device = FakeDevice::new().with_resampled_pin().with_msi(SHAPE);
    let device = device.on_call(move |device, call| {
        if *call == Call::Mask(Irq::Intx, false) && device.pin_waits() {
            seen.store(true, Ordering::Relaxed);
        }
    });
    let device = device.into_arc();
    let shown = numbers(&device, |g| {
        g.msi_control(MSI_ON).store32(ASK, 1);
        g.msi_control(0).await_count(P, 1).show(ASK);
    });
    assert_eq!(shown, [0]);
    assert!(waited.load(Ordering::Relaxed), "KVM had the eventfd before");
}

/// MSI and MSI-X at once are undefined: here MSI-X is used, then MSI when MSI-X is off.
fn msix_wins_over_msi() {
    let device = FakeDevice::new().with_pin().with_msi(SHAPE).into_arc();
    let shown = numbers(&device, |g| {
        g.msi_control(MSI_ON);
        g.store32(DOORBELL, 1).await_count(M + 1, 1);
        g.msix_control(ENABLE).unmask_with(1, X);
        g.store32(DOORBELL, 1).await_count(X, 1).show_count(M + 1);
        // MSI may be changed while MSI-X is on.
        g.msi_message(SHAPE, 0x48).msi_message(SHAPE, M.into());
        g.msix_control(0);
        g.store32(DOORBELL, 1).await_count(M + 1, 2).show_count(X);
        // The same with MSI enabled first.
        g.msi_control(0).msix_control(ENABLE).msi_control(MSI_ON);
        g.store32(DOORBELL, 1).await_count(X, 2).show_count(M + 1);
        g.msi_control(0);
        g.store32(DOORBELL, 1).await_count(X, 3).show_count(P);
    });
    assert_eq!(shown, [1, 1, 2, 0]);
}

/// Table and mask survive while MSI-X is off, as does the message of MSI.
fn one_access_ends_one_and_not_the_other() {
    let device = FakeDevice::new().with_pin().with_msi(SHAPE).into_arc();
    let shown = numbers(&device, |g| {
        g.unmask_with(2, X).msix_control(ENABLE | FUNCTION_MASK);
        g.store32(DOORBELL, 2).show(PBA).show_count(X);
        g.cfg_write(SLOT, MSIX + 3, Width::Byte, ENABLE >> 8)
            .await_count(X, 1);
        g.msix_control(0).msi_control(MSI_ON);
        g.store32(DOORBELL, 0).await_count(M, 1);
        g.cfg_write(SLOT, MSI, Width::Dword, 0);
        g.msix_control(ENABLE);
        g.store32(DOORBELL, 2).await_count(X, 2).show_count(M);
    });
    assert_eq!(shown, [1 << 2, 0, 1]);
}

/// When the host refuses the next kind, the kind before is used again.
fn refused_msix_falls_back_to_msi() {
    let device = FakeDevice::new().with_pin().with_msi(SHAPE).into_arc();
    let failing = device.clone();
    let mut g = Asm::new();
    g.interrupts(&[M, M + 1, X]).command(MEMORY);
    g.msi_message(SHAPE, M.into())
        .msi_control(MSI_ON)
        .print("\n")
        .wait_key();
    g.msix_control(ENABLE).cfg_show(SLOT, MSIX);
    g.store32(DOORBELL, 1).await_count(M + 1, 1).power_off();
    let ended = Vm::new(g).device(&device).run_beside(|live| {
        live.wait_for("\n");
        failing.failing_events.store(1, Ordering::Relaxed);
        live.press_key();
    });
    assert_eq!(ended.numbers(), [0x0007_a011]);
}
