//! Configuration space through both mechanisms, and the sizes of BARs.

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{self, BAR2, Call, EXPRESS, FakeDevice, ID, MSIX, PM, SERIAL_NUMBER};
use crate::pci::{COMMAND, MASTER, MEMORY, SLOT, bar_register, ecam};
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![
    both_mechanisms_agree,
    the_host_bridge_is_there,
    absent_functions_read_as_ones,
    every_width_and_byte,
    writes_of_every_width,
    command_as_a_dword_with_status,
    the_hosts_bits_stay,
    command_as_bytes,
    extended_space_needs_ecam,
    capabilities_are_linked,
    a_clique_is_the_last_capability,
    bars_are_assigned_and_sized,
    a_bar_by_bytes,
    an_address_port_that_is_off,
    a_device_that_does_not_answer,
    a_command_that_cannot_be_written,
    a_config_space_that_is_a_byte_short,
];

/// Runs a guest with one device and returns what it printed.
fn numbers(build: impl FnOnce(&mut Asm)) -> Vec<u32> {
    with_device(&FakeDevice::new().into_arc(), build)
}

fn with_device(device: &std::sync::Arc<FakeDevice>, build: impl FnOnce(&mut Asm)) -> Vec<u32> {
    let mut g = Asm::new();
    build(&mut g);
    g.power_off();
    Vm::new(g).device(device).run().numbers()
}

fn both_mechanisms_agree() {
    let numbers = numbers(|g| {
        for offset in (0..0x100).step_by(4) {
            g.cfg_show(SLOT, offset);
        }
        for offset in (0..0x100).step_by(4) {
            g.show(ecam(SLOT, offset));
        }
    });
    let (ports, memory) = numbers.split_at(64);
    assert_eq!(ports, memory);
    assert_eq!(ports[0], ID);
    assert_eq!(ports[2], 0xff00_0003);
    assert_eq!(ports[11], 0xcdef_89ab);
    // A write by one is read by the other.
    let written = self::numbers(|g| {
        g.cfg_write(SLOT, 0x3c, Width::Byte, 0x5a);
        g.show(ecam(SLOT, 0x3c));
        g.store(Width::Byte, ecam(SLOT, 0x3c), 0xa5);
        g.cfg_show(SLOT, 0x3c);
    });
    assert_eq!(written, [0x5a, 0xa5]);
}

fn the_host_bridge_is_there() {
    let numbers = numbers(|g| {
        g.cfg_show(0, 0).show(ecam(0, 8));
    });
    assert_eq!(numbers[0], 0x0008_1b36);
    assert_eq!(numbers[1] >> 16, 0x0600);
}

fn absent_functions_read_as_ones() {
    let numbers = numbers(|g| {
        for bdf in [
            (0, 2, 0),
            (0, 31, 7),
            (0, SLOT, 1),
            (1, SLOT, 0),
            (255, 0, 0),
        ] {
            let port = g.cfg_address(bdf, 0);
            g.out(Width::Dword, port, 0)
                .input(Width::Dword, port)
                .print_eax();
        }
        g.store32(ecam(2, 0), 0)
            .show(ecam(2, 0))
            .show(ecam(31, 0x7ffc));
        g.show(ecam(SLOT, 0x1000));
        // Single bytes are ones as well.
        g.cfg_read(2, 3, Width::Byte).print_eax();
        // The existing function is unchanged.
        g.cfg_show(SLOT, 0);
    });
    assert_eq!(numbers[..8], [u32::MAX; 8]);
    assert_eq!(numbers[8..], [0xff, ID]);
}

fn every_width_and_byte() {
    let numbers = numbers(|g| {
        for offset in 0..4 {
            g.cfg_read(SLOT, offset, Width::Byte).print_eax();
            g.load(Width::Byte, ecam(SLOT, offset)).print_eax();
        }
        for offset in [0, 2] {
            g.cfg_read(SLOT, offset, Width::Word).print_eax();
            g.load(Width::Word, ecam(SLOT, offset)).print_eax();
        }
    });
    let id = ID.to_le_bytes().map(u32::from);
    let bytes: Vec<u32> = id.iter().flat_map(|b| [*b, *b]).collect();
    assert_eq!(numbers[..8], bytes);
    assert_eq!(numbers[8..], [0x1234, 0x1234, 0x5678, 0x5678]);
}

fn writes_of_every_width() {
    let device = FakeDevice::new().into_arc();
    let numbers = with_device(&device, |g| {
        // Only the line's byte can be written; its neighbours stay.
        g.cfg_write(SLOT, 0x3c, Width::Dword, 0xffff_ff11)
            .cfg_show(SLOT, 0x3c);
        g.cfg_write(SLOT, 0x3c, Width::Word, 0xff22)
            .cfg_show(SLOT, 0x3c);
        g.cfg_write(SLOT, 0x3c, Width::Byte, 0x33)
            .cfg_show(SLOT, 0x3c);
        // The id is read-only.
        g.cfg_write(SLOT, 0, Width::Dword, 0).cfg_show(SLOT, 0);
    });
    assert_eq!(numbers, [0x11, 0x22, 0x33, ID]);
}

fn command_as_a_dword_with_status() {
    let device = FakeDevice::new().into_arc();
    let numbers = with_device(&device, |g| {
        g.cfg_write(SLOT, COMMAND, Width::Dword, 0xffff_0406);
        g.cfg_show(SLOT, COMMAND).show(device::BAR0 + 0x40);
    });
    // Interrupts off, bus master, memory; STATUS is the device's.
    assert_eq!(numbers, [0x0010_0406, 0]);
    assert!(device.count(&Call::Config(4, vec![0x06, 0x04])) == 1);
}

/// Of what a guest writes, only its own bits reach the device.
fn the_hosts_bits_stay() {
    let device = FakeDevice::new().into_arc();
    let numbers = with_device(&device, |g| {
        // COMMAND and STATUS, PMCSR, Device Control and Status, Device Control 2.
        for register in [COMMAND, PM + 4, EXPRESS + 8, EXPRESS + 0x28] {
            g.cfg_write(SLOT, register, Width::Dword, !0);
        }
        g.cfg_write(SLOT, EXPRESS + 0x29, Width::Byte, !0);
        g.store(Width::Dword, ecam(SLOT, SERIAL_NUMBER + 4), 0);
        g.show(ecam(SLOT, SERIAL_NUMBER + 4));
    });
    assert_eq!(numbers, [0x1122_3344]);
    let registers = [PM + 4, EXPRESS + 8, EXPRESS + 0x28].map(u64::from);
    for call in [
        Call::Config(4, vec![0x17, 0x04]),
        Call::Config(registers[0], vec![0x03, 0x1e]),
        Call::Config(registers[1], vec![0x10, 0xf8]),
        Call::Config(registers[2], vec![0x1f, 0x03]),
        Call::Config(registers[2] + 1, vec![0x03]),
    ] {
        assert_eq!(device.count(&call), 1, "{call:?}");
    }
    let calls = device.calls();
    let others = calls.iter().filter(|call| match call {
        // COMMAND is cleared before and after.
        Call::Config(4, data) => data.as_slice() != [0, 0] && data.as_slice() != [0x17, 0x04],
        Call::Config(at, _) => !registers.contains(at) && *at != registers[2] + 1,
        _ => false,
    });
    assert_eq!(others.count(), 0, "{calls:?}");
}

fn command_as_bytes() {
    let device = FakeDevice::new().into_arc();
    device.poke(0, 0x40, 0x600d);
    let numbers = with_device(&device, |g| {
        g.cfg_write(SLOT, COMMAND, Width::Byte, MEMORY | MASTER);
        g.cfg_write(SLOT, COMMAND + 1, Width::Byte, 4);
        g.cfg_show(SLOT, COMMAND).show(device::BAR0 + 0x40);
        g.store(Width::Byte, ecam(SLOT, COMMAND), 0);
        g.cfg_show(SLOT, COMMAND).show(device::BAR0 + 0x40);
    });
    assert_eq!(numbers, [0x0010_0406, 0x600d, 0x0010_0400, u32::MAX]);
}

fn extended_space_needs_ecam() {
    let numbers = numbers(|g| {
        g.show(ecam(SLOT, SERIAL_NUMBER))
            .show(ecam(SLOT, SERIAL_NUMBER + 4));
        g.show(ecam(SLOT, 0xffc));
        // Bits 27:24 of the address port are reserved here: the register is that of offset 0.
        g.out(Width::Dword, 0xcf8, 0x8100_0000 | u32::from(SLOT) << 11);
        g.input(Width::Dword, 0xcfc).print_eax();
    });
    assert_eq!(numbers, [0x0001_0003, 0x1122_3344, 0, ID]);
}

fn capabilities_are_linked() {
    let numbers = numbers(|g| {
        g.cfg_read(SLOT, 0x34, Width::Byte).print_eax();
        for offset in [PM, EXPRESS, MSIX] {
            g.cfg_read(SLOT, offset, Width::Word).print_eax();
        }
        g.cfg_read(SLOT, EXPRESS + 2, Width::Word).print_eax();
        for offset in [2, 4, 8] {
            g.cfg_show(SLOT, (MSIX + offset) & !3);
        }
    });
    let (pm, express, msix) = (u32::from(PM), u32::from(EXPRESS), u32::from(MSIX));
    assert_eq!(
        numbers[..4],
        [pm, express << 8 | 0x01, msix << 8 | 0x10, 0x11]
    );
    // A root complex integrated endpoint, as the function is on the root bus.
    assert_eq!(numbers[4], 0x92);
    assert_eq!(
        numbers[5..],
        [(device::VECTORS - 1) << 16 | 0x11, 0x2000, 0x3000]
    );
}

/// The capability is mini-vmm's: no write of it reaches the device.
fn a_clique_is_the_last_capability() {
    const CLIQUE: u16 = 0xc8;
    let device = FakeDevice::new().like_a_gpu().into_arc();
    let mut g = Asm::new();
    g.cfg_read(SLOT, MSIX, Width::Word).print_eax();
    g.cfg_write(SLOT, CLIQUE, Width::Dword, 0xffff_ffff);
    g.cfg_write(SLOT, CLIQUE + 4, Width::Dword, 0);
    g.cfg_show(SLOT, CLIQUE).cfg_show(SLOT, CLIQUE + 4);
    g.power_off();
    let numbers = Vm::new(g).device_in_clique(&device, 5).run().numbers();
    let [p, two] = [b'P', b'2'].map(u32::from);
    assert_eq!(
        numbers,
        [
            u32::from(CLIQUE) << 8 | 0x11,
            p << 24 | 8 << 16 | 9,
            5 << 19 | p << 8 | two
        ]
    );
    let touched = |call: &Call| matches!(call, Call::Config(at, _) if (0xc8..0xd0).contains(at));
    assert!(!device.calls().iter().any(touched));
}

fn bars_are_assigned_and_sized() {
    let numbers = numbers(|g| {
        for bar in 0..6 {
            g.cfg_show(SLOT, bar_register(bar));
        }
        // Register 8 is the expansion ROM's.
        for bar in (0..6).chain([8]) {
            g.set_bar(bar, !0).cfg_show(SLOT, bar_register(bar));
        }
    });
    assert_eq!(
        numbers[..4],
        [device::BAR0, device::BAR1, u32::from(device::BAR2) | 1, 0]
    );
    // The 64-bit BAR is above 4 GiB, aligned to its size.
    let (low, high) = (numbers[4], numbers[5]);
    assert_eq!(low & 0xffff, 0xc);
    assert!(high >= 1);
    let sizes = [
        0xffff_c000,
        0xffff_ff00,
        0xffff_ffe1,
        0,
        0xffff_000c,
        !0,
        0xffff_e001,
    ];
    assert_eq!(numbers[6..], sizes);
}

fn a_bar_by_bytes() {
    let numbers = numbers(|g| {
        g.cfg_write(SLOT, bar_register(0) + 3, Width::Byte, 0xd2)
            .cfg_show(SLOT, bar_register(0));
        g.cfg_write(SLOT, bar_register(0) + 1, Width::Byte, 0xff)
            .cfg_show(SLOT, bar_register(0));
        g.store(Width::Word, ecam(SLOT, bar_register(0) + 2), 0xd3ab);
        g.cfg_show(SLOT, bar_register(0))
            .cfg_read(SLOT, bar_register(0) + 2, Width::Word);
        g.print_eax();
    });
    assert_eq!(numbers, [0xd200_0000, 0xd200_c000, 0xd3ab_c000, 0xd3ab]);
}

fn an_address_port_that_is_off() {
    let numbers = numbers(|g| {
        let address = u32::from(SLOT) << 11;
        g.out(Width::Dword, 0xcf8, address)
            .input(Width::Dword, 0xcfc)
            .print_eax();
        // The address reads back; a byte write goes to another port.
        g.input(Width::Dword, 0xcf8).print_eax();
        g.out(Width::Dword, 0xcf8, address | 1 << 31).outb(0xcfb, 0);
        g.input(Width::Dword, 0xcfc).print_eax();
    });
    assert_eq!(numbers, [u32::MAX, u32::from(SLOT) << 11, ID]);
}

/// Failed reads return ones, and the guest goes on.
fn a_device_that_does_not_answer() {
    let device = FakeDevice::new()
        .on_call(|device, call| {
            // From the guest's first write that enables memory on.
            if matches!(call, Call::Config(4, data) if data == &[2, 0]) {
                device
                    .deaf
                    .store(true, std::sync::atomic::Ordering::Relaxed);
            }
        })
        .into_arc();
    let numbers = with_device(&device, |g| {
        g.cfg_show(SLOT, 0).command(MEMORY);
        g.cfg_show(SLOT, 0)
            .show(device::BAR1 + 8)
            .cfg_show(SLOT, bar_register(1));
    });
    assert_eq!(numbers, [ID, u32::MAX, u32::MAX, device::BAR1]);
}

/// What the guest reads is what it wrote, and what its accesses find.
fn a_command_that_cannot_be_written() {
    let device = FakeDevice::new().like_mtty().into_arc();
    let numbers = with_device(&device, |g| {
        for command in [0, 1, 0] {
            g.command(command)
                .cfg_read(SLOT, 0x04, Width::Word)
                .print_eax();
            g.cfg_read(SLOT, 0x04, Width::Byte).print_eax();
            g.input(Width::Byte, BAR2).print_eax();
        }
    });
    assert_eq!(numbers, [0, 0, 0xff, 1, 1, 0, 0, 0, 0xff]);
    assert_eq!(device.command(), 1);
}

fn a_config_space_that_is_a_byte_short() {
    let device = FakeDevice::new().like_mtty().into_arc();
    let numbers = with_device(&device, |g| {
        g.cfg_show(SLOT, 0xfc)
            .cfg_read(SLOT, 0xff, Width::Byte)
            .print_eax();
        g.cfg_write(SLOT, 0xfc, Width::Dword, !0)
            .cfg_show(SLOT, 0xfc);
        // There is no extended space either.
        g.show(ecam(SLOT, 0x100));
    });
    assert_eq!(numbers, [0x0077_7777, 0, 0x0077_7777, u32::MAX]);
}
