//! Devices that go while the guest has them: KVM_RUN fails for want of a page, or, where KVM emulates
//! the access, it is handed over and the device refuses it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use vmm::vfio::device::{CONFIG_REGION, Device};

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{BAR0, FakeDevice, ID};
use crate::pci::{MEMORY, SLOT};
use crate::vm::{Ended, Vm};

pub const TESTS: &[Test] = &[
    ("a_device_that_has_gone", a_device_that_has_gone),
    (
        "a_device_that_decodes_no_longer",
        a_device_that_decodes_no_longer,
    ),
];

const GONE: u32 = u32::MAX;

/// The guest reads a mapped page of each device, waits, and reads again when `lose` has been done.
fn touch_again(
    first: &Arc<FakeDevice>,
    second: &Arc<FakeDevice>,
    lose: impl FnOnce() + Send,
) -> Ended {
    const SECOND: u8 = SLOT + 1;
    /// The second device's first BAR: the largest come first.
    const BAR0_OF_SECOND: u32 = BAR0 + 0x4000;
    first.poke(0, 0x40, 0x600d_0001);
    second.poke(0, 0x40, 0x600d_0002);
    let mut g = Asm::new();
    g.command(MEMORY);
    g.cfg_write(SECOND, 4, Width::Word, MEMORY);
    g.show(BAR0 + 0x40).show(BAR0_OF_SECOND + 0x40).print("\n");
    g.wait_key();
    g.show(BAR0 + 0x40).show(BAR0 + 0x44).cfg_show(SLOT, 0);
    g.show(BAR0_OF_SECOND + 0x40).cfg_show(SECOND, 0);
    g.power_off();
    Vm::new(g).device(first).device(second).run_beside(|live| {
        live.wait_for("600d0002\n");
        lose();
        live.press_key();
    })
}

fn check(lose: impl FnOnce(&FakeDevice) + Send) {
    let (lost, kept) = (FakeDevice::new().share(), FakeDevice::new().share());
    let ended = touch_again(&lost, &kept, || {
        lose(&lost);
        lost.lose_pages();
    });
    assert_eq!(
        ended.numbers(),
        [0x600d_0001, 0x600d_0002, GONE, GONE, GONE, 0x600d_0002, ID]
    );
}

fn a_device_that_has_gone() {
    check(|device| device.deaf.store(true, Ordering::Relaxed));
}

/// The device answers still, but somebody else has switched its memory off.
fn a_device_that_decodes_no_longer() {
    check(|device| device.write(CONFIG_REGION, 4, &[0, 0]).unwrap());
}
