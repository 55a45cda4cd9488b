//! The interrupt pin: a level through the IOAPIC, which the device asserts until the driver
//! acknowledges it.

use std::sync::Arc;

use vmm::vfio::device::Irq;

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{ACKNOWLEDGE, ASK, Call, DOORBELL, FakeDevice};
use crate::irq_code::{ENABLE, counter};
use crate::pci::{MEMORY, SLOT, ecam};
use crate::vm::{Vm, mechanisms};

pub const TESTS: &[Test] = tests![
    a_device_with_a_pin_shows_it,
    the_level_lasts_until_it_is_acknowledged,
    the_kernel_resamples_the_pin,
    msix_replaces_the_pin,
    functions_of_one_device_have_pins_of_their_own,
    the_pin_works_after_a_reset,
    a_pin_that_stays_up_over_a_reset,
];

/// The pin of the IOAPIC that INTA of slot 1 leads to.
const PIN: u32 = 17;
const UNMASKED: Call = Call::Mask(Irq::Intx, false);
const V: u8 = 0x41;
const W: u8 = 0x52;

fn numbers(device: &Arc<FakeDevice>, build: impl FnOnce(&mut Asm)) -> Vec<u32> {
    let mut g = Asm::new();
    g.level_handler(V, ACKNOWLEDGE).interrupts(&[W]);
    g.ioapic_level(PIN, V).command(MEMORY);
    build(&mut g);
    g.power_off();
    Vm::new(g).device(device).run().numbers()
}

fn a_device_with_a_pin_shows_it() {
    let with = FakeDevice::new().with_pin().into_arc();
    let without = FakeDevice::new().into_arc();
    for (device, pin) in [(with, 1), (without, 0)] {
        let shown = numbers(&device, |g| {
            g.cfg_read(SLOT, 0x3d, Width::Byte).print_eax();
        });
        assert_eq!(shown, [pin]);
    }
}

fn functions_of_one_device_have_pins_of_their_own() {
    let devices = [0, 1].map(|_| FakeDevice::new().with_pin().into_arc());
    let alone = FakeDevice::new().with_pin().into_arc();
    let mut g = Asm::new();
    for (device, function) in [(1, 0), (2, 0), (2, 5), (2, 1)] {
        let registers = ecam(device, 0) + (function << 12);
        for (offset, width) in [(0x0e, Width::Byte), (0x3d, Width::Byte)] {
            g.load(width, registers + offset).print_eax();
        }
    }
    g.power_off();
    let numbers = Vm::new(g)
        .device(&alone)
        .device_at(&devices[0], "2.5")
        .device_at(&devices[1], "2.0")
        .run()
        .numbers();
    // Header type and pin: of a single function, of two functions, and of a function that does not
    // exist.
    assert_eq!(numbers, [0x00, 1, 0x80, 1, 0x80, 2, 0xff, 0xff]);
}

/// Each interrupt is acknowledged, and then the pin is low. A KVM without hardware support may end
/// a level before the handler does. The level then comes once more, which a driver of a shared pin
/// must expect anyway.
fn the_level_lasts(device: FakeDevice) -> Arc<FakeDevice> {
    let device = device.into_arc();
    let numbers = numbers(&device, |g| {
        for asks in [1, 3, 1] {
            g.store32(ASK, asks);
            let again = g.here();
            g.pause().load32(ASK).cmp_eax(0).jne(again);
        }
        g.show_count(V).show_count(V);
    });
    let [count, later] = numbers[..] else {
        panic!("{numbers:?}");
    };
    assert!((5..=10).contains(&count), "{count} for 5");
    assert_eq!(count, later);
    device
}

/// Where VFIO takes no eventfd for it, mini-vmm unmasks the pin after each acknowledgement.
fn the_level_lasts_until_it_is_acknowledged() {
    let device = the_level_lasts(FakeDevice::new().with_pin());
    assert!(device.count(&UNMASKED) > 5);
}

/// Where VFIO takes an eventfd for it, mini-vmm never unmasks the pin after the set-up, without
/// `irqfd=off`.
fn the_kernel_resamples_the_pin() {
    let device = the_level_lasts(FakeDevice::new().with_resampled_pin());
    match mechanisms().irqfd {
        true => assert!(device.count(&UNMASKED) == 1 && device.resampled() >= 5),
        false => assert!(device.count(&UNMASKED) > 5 && device.resampled() == 0),
    }
}

fn msix_replaces_the_pin() {
    let device = FakeDevice::new().with_resampled_pin().into_arc();
    let numbers = numbers(&device, |g| {
        g.msix_control(ENABLE).unmask_with(0, W);
        g.store32(DOORBELL, 0).await_count(W, 1);
        // The pin has no eventfd now; its interrupt comes when MSI-X is off again.
        g.store32(ASK, 1).show_count(V);
        g.msix_control(0).await_count(V, 1).show(ASK).show_count(W);
    });
    assert_eq!(numbers, [0, 0, 1]);
    let calls = device.calls();
    let at = |call: Call| calls.iter().position(|c| *c == call).expect("the call");
    let msix = at(Call::Events(Irq::Msix, 0, vec![false]));
    assert!(at(Call::Disable(Irq::Intx)) < msix, "{calls:?}");
}

/// The first boot ends with the pin asserted and interrupts off.
fn reset_with_the_pin_up(device: FakeDevice, second: impl FnOnce(&mut Asm)) {
    let device = device.into_arc();
    let asks = numbers(&device, |g| {
        let again = g.label();
        g.load32(counter(W)).cmp_eax(1).je(again);
        g.cli().store32(ASK, 1).store32(counter(W), 1).reset();
        g.bind(again);
        second(g);
        g.show(ASK);
    });
    assert_eq!(asks, [0]);
}

fn the_pin_works_after_a_reset() {
    for device in [
        FakeDevice::new().with_pin(),
        FakeDevice::new().with_resampled_pin(),
    ] {
        reset_with_the_pin_up(device, |g| {
            g.store32(ASK, 1).await_count(V, 1);
        });
    }
}

/// A device without a reset still asserts the pin in the second boot, which must get the interrupt.
fn a_pin_that_stays_up_over_a_reset() {
    let device = FakeDevice::new().with_resampled_pin().no_reset();
    reset_with_the_pin_up(device, |g| {
        g.await_count(V, 1);
    });
}
