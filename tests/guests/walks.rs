//! Writes to configuration space by a guest that does nothing else, so that a debugger can follow
//! each of them through the source (`walks.py` beside this file; the lists are in docs/walks.md).

use std::sync::Arc;

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{Call, FakeDevice};
use crate::pci::{COMMAND, MASTER, MEMORY, SLOT};
use crate::vm::Vm;

pub const TESTS: &[Test] = &[
    ("the_largest_write", the_largest_write),
    ("a_write_that_is_kept_here", a_write_that_is_kept_here),
    ("a_write_that_is_passed", a_write_that_is_passed),
];

/// Interrupt line and cache line size.
const LINE: u16 = 0x3c;
const CACHE_LINE: u16 = 0x0c;

/// MSI-X with as many vectors as let KVM keep the writes to the unused ones.
fn device() -> Arc<FakeDevice> {
    FakeDevice::new().with_vectors(64).share()
}

fn write(device: &Arc<FakeDevice>, register: u16, width: Width, value: u32) {
    let mut g = Asm::new();
    g.cfg_write(SLOT, register, width, value).power_off();
    Vm::new(g).device(device).run().powered_off();
}

fn the_largest_write() {
    let device = device();
    write(&device, COMMAND, Width::Word, MEMORY | MASTER);
    let command = Call::Config(COMMAND.into(), vec![(MEMORY | MASTER) as u8, 0]);
    assert_eq!(device.count(&command), 1);
}

fn a_write_that_is_kept_here() {
    let device = device();
    write(&device, LINE, Width::Byte, 0x55);
    let passed = |call: &Call| matches!(call, Call::Config(at, _) if *at == u64::from(LINE));
    assert!(device.calls().iter().all(|call| !passed(call)));
}

fn a_write_that_is_passed() {
    let device = device();
    write(&device, CACHE_LINE, Width::Byte, 0x10);
    let call = Call::Config(CACHE_LINE.into(), vec![0x10]);
    assert_eq!(device.count(&call), 1);
}
