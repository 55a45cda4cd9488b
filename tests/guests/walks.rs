//! One write to configuration space in each test, for a debugger to follow from the exit to the
//! next KVM_RUN: walks.py beside this file does that, and docs/walks.md has the lists.

use std::sync::Arc;

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{Call, FakeDevice};
use crate::pci::{COMMAND, MASTER, MEMORY, SLOT};
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![
    the_largest_write,
    a_write_without_effect,
    a_write_to_the_device,
];

const CACHE_LINE: u16 = 0x0c;
const INTERRUPT_LINE: u16 = 0x3c;

/// A device whose MSI-X table is large enough for KVM to keep the writes to unused entries.
fn device() -> Arc<FakeDevice> {
    FakeDevice::new().with_vectors(64).into_arc()
}

/// Runs a guest that makes the write through ports 0xcf8 and 0xcfc, and its exit is the guest's
/// first.
fn write(device: &Arc<FakeDevice>, register: u16, width: Width, value: u32) {
    let mut g = Asm::new();
    g.cfg_write(SLOT, register, width, value).power_off();
    Vm::new(g).device(device).run().powered_off();
}

fn the_largest_write() {
    let device = device();
    write(&device, COMMAND, Width::Word, MEMORY | MASTER);
    let call = Call::Config(COMMAND.into(), vec![(MEMORY | MASTER) as u8, 0]);
    assert_eq!(device.count(&call), 1);
}

fn a_write_without_effect() {
    let device = device();
    write(&device, INTERRUPT_LINE, Width::Byte, 0x55);
    let is_it = |call: &Call| matches!(call, Call::Config(0x3c, _));
    assert!(!device.calls().iter().any(is_it), "the VMM answers it");
}

fn a_write_to_the_device() {
    let device = device();
    write(&device, CACHE_LINE, Width::Byte, 0x10);
    let call = Call::Config(CACHE_LINE.into(), vec![0x10]);
    assert_eq!(device.count(&call), 1);
}
