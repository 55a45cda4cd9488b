//! Devices that are removed while the guest has them. KVM_RUN fails because a page is missing;
//! where KVM emulates the access, it is an exit and the device refuses it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use vmm::vfio::device::{CONFIG_REGION, Device};

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{BAR0, FakeDevice, ID};
use crate::pci::{MEMORY, SLOT};
use crate::vm::{Ended, Vm};

pub const TESTS: &[Test] = tests![a_device_that_has_gone, a_device_that_decodes_no_longer,];

const GONE: u32 = u32::MAX;

/// The guest reads a mapped page of each device, waits for `lose`, and reads again.
fn touch_again(
    first: &Arc<FakeDevice>,
    second: &Arc<FakeDevice>,
    lose: impl FnOnce() + Send,
) -> Ended {
    const SECOND: u8 = SLOT + 1;
    /// BAR 0 of the second device: the largest BARs have the lowest addresses.
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
    let (lost, kept) = (FakeDevice::new().into_arc(), FakeDevice::new().into_arc());
    let ended = touch_again(&lost, &kept, || {
        lose(&lost);
        lost.remove_pages();
    });
    assert_eq!(
        ended.numbers(),
        [0x600d_0001, 0x600d_0002, GONE, GONE, GONE, 0x600d_0002, ID]
    );
}

fn a_device_that_has_gone() {
    check(|device| device.deaf.store(true, Ordering::Relaxed));
}

/// The device still answers, but its memory decode was switched off from outside.
fn a_device_that_decodes_no_longer() {
    check(|device| device.write(CONFIG_REGION, 4, &[0, 0]).unwrap());
}
