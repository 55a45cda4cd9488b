//! Empty root ports (`--ports`): the guest finds them with the bus numbers and windows that
//! firmware has set, and nothing behind them.

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{FakeDevice, ID};
use crate::pci::{ECAM, ecam};
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![
    firmware_has_set_the_windows,
    nothing_is_behind,
    configuration_space_ends_with_the_last_bus,
    ports_come_after_devices,
    a_reboot_brings_the_windows_back,
    addresses_that_are_not_there,
];

/// The ID of a root port.
const PORT: u32 = 0x000c_1b36;
/// The registers of the buses, of I/O ports, and of memory; of the upper halves of prefetchable.
const NUMBERS: u16 = 0x18;
const IO_WINDOW: u16 = 0x1c;
const MEMORY_WINDOW: u16 = 0x20;
const PREFETCHABLE_WINDOW: u16 = 0x24;
const UPPER_BASE: u16 = 0x28;
const UPPER_LIMIT: u16 = 0x2c;

fn numbers(ports: &str, build: impl FnOnce(&mut Asm)) -> Vec<u32> {
    let mut g = Asm::new();
    build(&mut g);
    g.power_off();
    Vm::new(g).ports(ports).run().numbers()
}

/// With 64 MiB of RAM, the 64-bit window begins at a multiple of its size.
fn firmware_has_set_the_windows() {
    let shown = numbers("2,mem32=2M,mem64=2G,io=on", |g| {
        for device in [1, 2] {
            for offset in [
                0,
                NUMBERS,
                IO_WINDOW,
                MEMORY_WINDOW,
                PREFETCHABLE_WINDOW,
                UPPER_BASE,
                UPPER_LIMIT,
            ] {
                g.cfg_show(device, offset);
            }
        }
        g.cfg_show(3, 0);
    });
    assert_eq!(
        shown,
        [
            PORT,
            0x01_01_00,
            0x1010,
            0xc010_c000,
            0x7ff1_0001,
            2,
            2,
            PORT,
            0x02_02_00,
            0x2020,
            0xc030_c020,
            0xfff1_8001,
            2,
            2,
            u32::MAX,
        ]
    );
    // Without io=on, the registers of I/O ports are read-only zeros.
    let shown = numbers("1", |g| {
        g.cfg_write(1, IO_WINDOW, Width::Word, 0xf0f0);
        g.cfg_show(1, IO_WINDOW).cfg_show(1, MEMORY_WINDOW);
    });
    assert_eq!(shown, [0, 0xc030_c000]);
}

fn nothing_is_behind() {
    let shown = numbers("2", |g| {
        for bus in [1, 2] {
            let port = g.cfg_address((bus, 0, 0), 0);
            g.input(Width::Dword, port).print_eax();
            g.show(ECAM + (u32::from(bus) << 20));
        }
        // The windows are decoded, and nobody answers there.
        g.cfg_write(1, 4, Width::Word, 7).show(0xc000_0000);
        g.store32(0xc000_0000, 1).show(0xc000_0000);
    });
    assert_eq!(shown, [u32::MAX; 6]);
}

/// A port's registers answer in the ECAM, and so does the whole space of its bus; the address after
/// the last bus is nobody's.
fn configuration_space_ends_with_the_last_bus() {
    let shown = numbers("3", |g| {
        g.show(ecam(3, 0)).show(ecam(3, NUMBERS));
        for bus in [1, 3, 4, 255] {
            g.show(ECAM + (bus << 20))
                .store32(ECAM + (bus << 20) + 4, 0);
        }
        g.show(ecam(3, 0));
    });
    let ones = u32::MAX;
    assert_eq!(shown, [PORT, 0x03_03_00, ones, ones, ones, ones, PORT]);
}

fn ports_come_after_devices() {
    let mut g = Asm::new();
    for device in 1..=3 {
        g.cfg_show(device, 0);
    }
    g.cfg_show(2, NUMBERS).power_off();
    let first = FakeDevice::new().into_arc();
    let second = FakeDevice::new().into_arc();
    let vm = Vm::new(g).device(&first).device_at(&second, "3");
    let shown = vm.ports("1").run().numbers();
    assert_eq!(shown, [ID, PORT, ID, 0x01_01_00]);
}

fn a_reboot_brings_the_windows_back() {
    /// Where the first boot leaves a mark in RAM.
    const MARK: u32 = 0x7_1000;
    let shown = numbers("1", |g| {
        let again = g.label();
        g.cfg_show(1, NUMBERS).cfg_show(1, MEMORY_WINDOW);
        g.load32(MARK).cmp_eax(1).je(again);
        g.cfg_write(1, MEMORY_WINDOW, Width::Dword, 0xfff0_fff0);
        g.cfg_write(1, NUMBERS, Width::Dword, 0x07_07_00);
        g.cfg_show(1, NUMBERS).store32(MARK, 1).reset();
        g.bind(again);
    });
    assert_eq!(
        shown,
        [0x01_01_00, 0xc030_c000, 0x07_07_00, 0x01_01_00, 0xc030_c000]
    );
}

/// A window that the guest's addresses have no room for is an error before the guest runs.
fn addresses_that_are_not_there() {
    let mut g = Asm::new();
    g.power_off();
    let error = Vm::new(g).ports("248,mem32=1M,mem64=32T").not_made();
    assert!(error.to_string().contains("do not fit beside"), "{error}");
    let hint = error.hint().unwrap();
    assert!(hint.contains("mem64="), "{hint}");
}
