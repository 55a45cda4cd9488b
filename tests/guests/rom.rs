//! The expansion ROM: its register, its content, where it comes from, and what a guest can do to
//! it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use vmm::config::device::RomConfig;
use vmm::vfio::device::ROM_REGION;

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::common::elf::TempFile;
use crate::device::{BAR0, BAR1, Call, FakeDevice, PM, ROM};
use crate::pci::{MEMORY, ROM_REGISTER, SLOT};
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![
    sized_and_assigned,
    it_decodes_by_two_switches_and_is_read_once,
    a_guest_that_does_not_look,
    it_moves,
    where_a_bar_is_it_cannot_be,
    writes_are_dropped,
    no_rom_is_shown,
    a_file_instead,
    reset_puts_it_back,
    a_failed_read_is_tried_again_when_enabled_again,
    toggling_takes_no_memory_slots,
];

const GONE: u32 = u32::MAX;
const ON: u32 = 1;

impl Asm {
    fn set_rom(&mut self, value: u32) -> &mut Self {
        self.cfg_write(SLOT, ROM_REGISTER, Width::Dword, value)
    }

    fn show_rom_register(&mut self) -> &mut Self {
        self.cfg_show(SLOT, ROM_REGISTER)
    }
}

fn device() -> Arc<FakeDevice> {
    let device = FakeDevice::new().into_arc();
    device.poke(6, 0, 0x0004_aa55);
    device.poke(6, 0x1ffc, 0x1a57_0ff5);
    device
}

fn run(device: &Arc<FakeDevice>, build: impl FnOnce(&mut Asm)) -> Vec<u32> {
    let mut g = Asm::new();
    build(&mut g);
    g.command(0).power_off();
    let ended = Vm::new(g).device(device).run();
    assert_eq!(ended.slots.0, ended.slots.1, "memory slots");
    ended.numbers()
}

/// Accesses to the device's ROM.
fn accesses(device: &FakeDevice) -> Vec<Call> {
    let mut calls = device.calls();
    calls.retain(|call| {
        matches!(
            call,
            Call::Read(ROM_REGION, ..) | Call::Write(ROM_REGION, ..)
        )
    });
    calls
}

fn sized_and_assigned() {
    let numbers = run(&device(), |g| {
        g.show_rom_register();
        g.set_rom(0xffff_f800).show_rom_register();
        g.set_rom(!0).show_rom_register();
        // A byte, and the reserved bits.
        g.set_rom(0x07fe).show_rom_register();
        g.cfg_write(SLOT, ROM_REGISTER + 3, Width::Byte, 0xd0)
            .show_rom_register();
        g.cfg_write(SLOT, ROM_REGISTER, Width::Byte, 1)
            .show_rom_register();
        // The registers beside it are unchanged.
        g.cfg_show(SLOT, 0x2c).cfg_show(SLOT, 0x34);
    });
    assert_eq!(
        numbers,
        [
            ROM,
            0xffff_e000,
            0xffff_e001,
            0,
            0xd000_0000,
            0xd000_0001,
            0xcdef_89ab,
            PM.into()
        ]
    );
}

fn it_decodes_by_two_switches_and_is_read_once() {
    let device = device();
    let numbers = run(&device, |g| {
        // COMMAND alone, the register alone, and both.
        g.command(MEMORY).show(ROM).command(0);
        g.set_rom(ROM | ON).show(ROM);
        g.command(MEMORY).show(ROM).show(ROM + 0x1ffc);
        g.load(Width::Byte, ROM + 1).print_eax();
        g.load(Width::Word, ROM + 0x1ffe).print_eax();
        g.show(ROM + 0x2000);
        g.set_rom(ROM).show(ROM).set_rom(ROM | ON).show(ROM);
        // In D3 the device decodes nothing.
        g.cfg_write(SLOT, PM + 4, Width::Word, 3).show(ROM);
        g.cfg_write(SLOT, PM + 4, Width::Word, 0).show(ROM);
    });
    let (first, last) = (0x0004_aa55, 0x1a57_0ff5);
    assert_eq!(
        numbers,
        [
            GONE, GONE, first, last, 0xaa, 0x1a57, GONE, GONE, first, GONE, first
        ]
    );
    assert_eq!(accesses(&device), [Call::Read(ROM_REGION, 0, 0x2000)]);
}

fn a_guest_that_does_not_look() {
    let device = device();
    run(&device, |g| {
        g.set_rom(ROM | ON).command(MEMORY).show(BAR0);
    });
    assert_eq!(accesses(&device), []);
}

fn it_moves() {
    let numbers = run(&device(), |g| {
        g.set_rom(ROM | ON).command(MEMORY);
        for address in [0xd000_0000, 0xdfff_e000] {
            g.set_rom(address | ON).show(address).show(ROM);
        }
        // Outside of the windows the ROM is not decoded. Half written, its address is the
        // register's.
        g.set_rom(0x0010_0000 | ON).show(0xdfff_e000);
        g.cfg_write(SLOT, ROM_REGISTER + 2, Width::Word, 0xd123)
            .show(0xd123_0000);
        g.set_rom(ROM | ON).show(ROM).show(0xd123_0000);
    });
    let first = 0x0004_aa55;
    assert_eq!(
        numbers,
        [first, GONE, first, GONE, GONE, first, first, GONE]
    );
}

/// The ROM cannot be enabled at a BAR's address or moved there, and no BAR to the ROM's.
fn where_a_bar_is_it_cannot_be() {
    let device = device();
    device.poke(0, 0, 0x600d);
    let numbers = run(&device, |g| {
        g.command(MEMORY);
        g.set_rom(BAR0 | ON).show(BAR0);
        g.set_rom(ROM | ON).set_rom(BAR1 & !0x1fff | ON);
        g.show_rom_register().show(ROM).show(BAR0);
        g.set_bar(1, ROM + 0x1000).cfg_show(SLOT, 0x14);
    });
    assert_eq!(numbers, [0x600d, ROM | ON, 0x0004_aa55, 0x600d, BAR1]);
}

fn writes_are_dropped() {
    let device = device();
    let numbers = run(&device, |g| {
        g.set_rom(ROM | ON).command(MEMORY);
        g.store32(ROM, 0xbad).store(Width::Byte, ROM + 0x1ffc, 0xbb);
        g.show(ROM).show(ROM + 0x1ffc);
        g.store32(ROM, 0xbad).show(ROM);
    });
    assert_eq!(numbers, [0x0004_aa55, 0x1a57_0ff5, 0x0004_aa55]);
    assert_eq!(accesses(&device), [Call::Read(ROM_REGION, 0, 0x2000)]);
    assert_eq!(device.peek(6, 0), 0x0004_aa55);
}

/// With rombar=off, and for a device without a ROM.
fn no_rom_is_shown() {
    let without = FakeDevice::new().no_rom().into_arc();
    for (device, rom) in [(device(), RomConfig::Off), (without, RomConfig::Device)] {
        let mut g = Asm::new();
        g.show_rom_register();
        g.set_rom(!0).show_rom_register();
        g.set_rom(ROM | ON).command(MEMORY).show_rom_register();
        g.show(ROM).power_off();
        let numbers = Vm::new(g).device_with_rom(&device, rom).run().numbers();
        assert_eq!(numbers, [0, 0, 0, GONE]);
        assert_eq!(accesses(&device), []);
    }
}

/// The guest reads the file, then ones up to a power of two. The device's ROM is not read.
fn a_file_instead() {
    let mut content = vec![0x77; 0x2801];
    content[..4].copy_from_slice(&[0x55, 0xaa, 0x12, 0x34]);
    let file = TempFile::new(&content);
    let device = device();
    let mut g = Asm::new();
    g.set_rom(!0).show_rom_register();
    g.set_rom(0xd000_0000 | ON).command(MEMORY);
    for offset in [0, 0x27fc, 0x2800, 0x2804, 0x3ffc, 0x4000] {
        g.show(0xd000_0000 + offset);
    }
    g.power_off();
    let rom = RomConfig::File(file.path().into());
    let numbers = Vm::new(g).device_with_rom(&device, rom).run().numbers();
    let expected = [
        0xffff_c001,
        0x3412_aa55,
        0x7777_7777,
        0xffff_ff77,
        GONE,
        GONE,
        GONE,
    ];
    assert_eq!(numbers, expected);
    assert_eq!(accesses(&device), []);
}

fn reset_puts_it_back() {
    /// A dword of RAM that no boot overwrites.
    const BOOTS: u32 = 0x6_0000;
    let numbers = run(&device(), |g| {
        let again = g.label();
        g.show_rom_register().command(MEMORY).show(ROM);
        g.set_rom(ROM | ON).show(ROM);
        g.inc32(BOOTS).load32(BOOTS).cmp_eax(2).je(again);
        // The first boot leaves the ROM on, at another address.
        g.set_rom(0xd000_0000 | ON).show(0xd000_0000).reset();
        g.bind(again).show(0xd000_0000).command(0);
    });
    let first = 0x0004_aa55;
    assert_eq!(numbers, [ROM, GONE, first, first, ROM, GONE, first, GONE]);
}

/// A ROM that cannot be read is tried once each time that the guest enables it.
fn a_failed_read_is_tried_again_when_enabled_again() {
    let device = device();
    let mut g = Asm::new();
    g.set_rom(ROM | ON).command(MEMORY).print("on\n").wait_key();
    g.show(ROM).print("failed\n").wait_key();
    g.show(ROM).show(ROM + 0x1ffc);
    g.set_rom(ROM).set_rom(ROM | ON).show(ROM).power_off();
    let ended = Vm::new(g).device(&device).run_beside(|live| {
        live.wait_for("on\n");
        device.deaf.store(true, Ordering::Relaxed);
        live.press_key();
        live.wait_for("failed\n");
        device.deaf.store(false, Ordering::Relaxed);
        live.press_key();
    });
    let text = ended.powered_off();
    let numbers: Vec<_> = text.lines().filter(|line| line.len() == 8).collect();
    assert_eq!(numbers, ["ffffffff", "ffffffff", "ffffffff", "0004aa55"]);
    assert_eq!(accesses(&device), [Call::Read(ROM_REGION, 0, 0x2000)]);
}

fn toggling_takes_no_memory_slots() {
    let device = device();
    let mut g = Asm::new();
    g.command(MEMORY).print("off\n").wait_key();
    g.repeat(500, |g| {
        g.set_rom(ROM | ON).load32(ROM);
        g.set_rom(0xd000_0000 | ON).load32(0xd000_0000);
        g.set_rom(ROM).load32(ROM);
    });
    g.set_rom(ROM | ON).print("on\n").wait_key();
    g.show(ROM).command(0).power_off();
    let ended = Vm::new(g).device(&device).run_beside(|live| {
        live.wait_for("off\n");
        let off = live.slots();
        live.press_key();
        live.wait_for("on\n");
        assert_eq!(live.slots(), off);
        live.press_key();
    });
    assert_eq!(ended.slots.0, ended.slots.1);
    assert!(ended.powered_off().ends_with("0004aa55\n"));
    assert_eq!(accesses(&device), [Call::Read(ROM_REGION, 0, 0x2000)]);
}
