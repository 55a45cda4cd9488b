//! Registers of a BAR that lead to configuration space or to the MSI-X table.

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{BAR0, Call, FakeDevice, MSIX, TABLE};
use crate::irq_code::ENABLE;
use crate::losses::codes_of;
use crate::pci::{MEMORY, SLOT};
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![
    a_copy_of_configuration_space,
    a_window_to_the_table,
    other_pages_are_mapped,
    an_integrated_gpu_without_its_firmware,
];

/// Of a display controller of NVIDIA's.
const NVIDIA: u32 = 0x0391_10de;
/// The copy of 256 bytes.
const COPY: u32 = BAR0 + 0x1800;
/// A gigabit controller of Realtek's; its window.
const REALTEK: u32 = 0x8168_10ec;
const DATA: u32 = BAR0 + 0x70;
const ADDRESS: u32 = BAR0 + 0x74;

fn nvidia() -> FakeDevice {
    let device = FakeDevice::new().with_id(NVIDIA, 3);
    device.poke(0, 0x1800, NVIDIA);
    device
}

fn a_copy_of_configuration_space() {
    let device = nvidia().into_arc();
    let mut g = Asm::new();
    g.command(MEMORY).show(COPY);
    // The interrupt line is the guest's note, by either way.
    g.store(Width::Byte, COPY + 0x3c, 0x5a);
    g.cfg_read(SLOT, 0x3c, Width::Byte).print_eax();
    // A BAR is where the guest sees it, and never moves in the device.
    g.show(COPY + 0x14).store(Width::Dword, COPY + 0x14, !0);
    g.store(Width::Word, COPY + 4, 0xffff);
    g.power_off();
    let numbers = Vm::new(g).device(&device).run().numbers();
    assert_eq!(numbers, [NVIDIA, 0x5a, BAR0 + 0x4000]);
    assert_eq!(device.count(&Call::Config(4, vec![0x17, 0x04])), 1);
    for at in [0x1804, 0x1814, 0x183c] {
        assert_eq!(device.peek(0, at), 0, "{at:#x}");
    }
}

fn a_window_to_the_table() {
    let device = FakeDevice::new().with_id(REALTEK, 2).into_arc();
    let mut g = Asm::new();
    g.command(MEMORY);
    g.cfg_write(SLOT, MSIX + 2, Width::Word, ENABLE);
    g.store(Width::Dword, DATA, 0xfee0_1000);
    g.store(Width::Dword, ADDRESS, 0x8001_f000);
    g.show(ADDRESS).show(TABLE);
    g.store(Width::Dword, TABLE + 16, 0xfee0_2000);
    g.store(Width::Dword, ADDRESS, 0x0001_f010);
    g.show(ADDRESS).show(DATA);
    // Other registers behind the window are the device's.
    g.store(Width::Dword, ADDRESS, 0x8000_f1bc).show(ADDRESS);
    g.power_off();
    let numbers = Vm::new(g).device(&device).run().numbers();
    assert_eq!(
        numbers,
        [
            0x0001_f000,
            0xfee0_1000,
            0x8001_f010,
            0xfee0_2000,
            0x8000_f1bc
        ]
    );
    let is_of_table = |call: &Call| match call {
        Call::Write(0, 0x74, data) => data[2..] == [0x01, 0x80] || data[2..] == [0x01, 0x00],
        _ => false,
    };
    assert!(!device.calls().iter().any(is_of_table));
}

/// Only the page of the mirror makes exits.
fn other_pages_are_mapped() {
    let device = nvidia().into_arc();
    device.poke(0, 0x40, 0x600d);
    device.poke(0, 0x1400, 0x7a9);
    let mut g = Asm::new();
    g.command(MEMORY).show(BAR0 + 0x40).show(BAR0 + 0x1400);
    g.power_off();
    let numbers = Vm::new(g).device(&device).run().numbers();
    assert_eq!(numbers, [0x600d, 0x7a9]);
    assert_eq!(device.count(&Call::Read(0, 0x40, 4)), 0);
    assert_eq!(device.count(&Call::Read(0, 0x1400, 4)), 1);
}

/// No address of the host's memory is shown, no write calls the host's firmware, and the user is
/// told.
fn an_integrated_gpu_without_its_firmware() {
    let mut device = FakeDevice::new().with_id(0x9a49_8086, 3);
    for at in [0xc0, 0xe0, 0xe8, 0xfc] {
        device = device.with_config(at, &0x8a5f_1001u32.to_le_bytes());
    }
    device.name = "0000:00:02.0";
    let device = device.into_arc();
    let mut g = Asm::new();
    for at in [0xc0, 0xe0, 0xe8, 0xfc] {
        g.cfg_show(SLOT, at).cfg_write(SLOT, at, Width::Dword, !0);
    }
    g.power_off();
    assert_eq!(Vm::new(g).device(&device).run().numbers(), [0; 4]);
    let reached = |call: &Call| matches!(call, Call::Config(0xc0.., _));
    assert!(!device.calls().iter().any(reached));
    assert_eq!(codes_of(device.name), ["igd-without-firmware"]);
}
