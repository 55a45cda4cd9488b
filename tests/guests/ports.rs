//! A function behind a root port: the guest reaches the function through the port's bus numbers,
//! windows and COMMAND, and resets it by the port.

use std::sync::Arc;

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{Call, FakeDevice, ID, MSIX};
use crate::irq_code::{ENABLE, MESSAGE_ADDRESS};
use crate::pci::{COMMAND, IO, MASTER, MEMORY, bar_register, ecam};
use crate::vm::{Ended, Vm};

pub const TESTS: &[Test] = tests![
    firmware_has_set_the_port_up,
    the_guest_numbers_the_bus,
    bars_need_the_ports_command,
    bars_need_the_ports_window,
    ports_need_the_ports_window,
    a_closed_port_unmaps_and_opens_again,
    bus_mastering_needs_the_ports,
    no_register_of_a_port_reaches_the_device,
    pins_are_swizzled,
    messages_come_through,
    two_functions_share_a_port,
    a_reboot_brings_the_port_back,
    registers_have_names,
];

/// The root port's address, and that of the function behind it as firmware numbers the bus.
pub const PORT: Bdf = (0, 1, 0);
pub const BEHIND: Bdf = (1, 0, 0);
pub type Bdf = (u8, u8, u8);

/// Where the BARs are: the largest first, in the port's windows.
pub const BAR0: u32 = 0xc000_0000;
const ROM: u32 = 0xc000_4000;
pub const BAR1: u32 = 0xc000_6000;
const BAR2: u16 = 0x1000;
const TABLE: u32 = BAR0 + 0x2000;
/// Registers of BAR 1.
const DOORBELL: u32 = BAR1;
const ACKNOWLEDGE: u32 = BAR1 + 4;
const ASK: u32 = BAR1 + 8;

/// Registers of the port.
const NUMBERS: u16 = 0x18;
const MEMORY_WINDOW: u16 = 0x20;
const IO_WINDOW: u16 = 0x1c;
pub const BRIDGE_CONTROL: u16 = 0x3e;
pub const RESET: u32 = 0x40;
pub const LINK_CONTROL: u16 = 0x50;
pub const LINK_DISABLE: u32 = 0x10;
const SLOT_CONTROL: u16 = 0x58;
const POWER_OFF: u32 = 0x400;

/// A window that is closed, one with firmware's megabyte, and one with the megabyte after that.
const CLOSED: u32 = 0x0000_fff0;
const FIRST: u32 = 0xc000_c000;
const SECOND: u32 = 0xc010_c010;

impl Asm {
    /// Prints a register of any function.
    pub fn show_at(&mut self, bdf: Bdf, offset: u16) -> &mut Self {
        let port = self.cfg_address(bdf, offset);
        self.input(Width::Dword, port).print_eax()
    }

    /// Writes a register of any function.
    pub fn write_at(&mut self, bdf: Bdf, offset: u16, width: Width, value: u32) -> &mut Self {
        let port = self.cfg_address(bdf, offset);
        self.out(width, port, value)
    }

    /// COMMAND of the port, and of the function behind it.
    pub fn commands(&mut self, port: u32, function: u32) -> &mut Self {
        self.write_at(PORT, COMMAND, Width::Word, port);
        self.write_at(BEHIND, COMMAND, Width::Word, function)
    }

    /// Writes the port's memory window.
    fn window(&mut self, value: u32) -> &mut Self {
        self.write_at(PORT, MEMORY_WINDOW, Width::Dword, value)
    }
}

fn run(device: &Arc<FakeDevice>, build: impl FnOnce(&mut Asm)) -> Ended {
    let mut g = Asm::new();
    build(&mut g);
    g.power_off();
    Vm::new(g).device_behind_port(device, "1").run()
}

pub fn numbers(device: &Arc<FakeDevice>, build: impl FnOnce(&mut Asm)) -> Vec<u32> {
    run(device, build).numbers()
}

/// A device with a number in BAR 0, which is mapped, one in BAR 1, which traps, and one in its
/// ports.
pub fn device() -> FakeDevice {
    let device = FakeDevice::new();
    device.poke(0, 0x20, 0x600d_0000);
    device.poke(1, 0x20, 0x600d_0001);
    device.poke(2, 0x10, 0x600d_0002);
    device
}

/// Prints what BAR 0 and BAR 1 have.
pub fn look(g: &mut Asm) {
    g.show(BAR0 + 0x20).show(BAR1 + 0x20);
}

pub const THERE: [u32; 2] = [0x600d_0000, 0x600d_0001];
pub const NOWHERE: [u32; 2] = [u32::MAX; 2];

fn firmware_has_set_the_port_up() {
    let shown = numbers(&device().into_arc(), |g| {
        for offset in [
            0,
            8,
            NUMBERS,
            IO_WINDOW,
            MEMORY_WINDOW,
            0x24,
            0x28,
            0x2c,
            0x3c,
        ] {
            g.show_at(PORT, offset);
        }
        g.show_at(BEHIND, 0);
        for bar in 0..6 {
            g.show_at(BEHIND, bar_register(bar));
        }
        g.show_at(BEHIND, 0x30);
        // Nothing is beside the function, and nothing on another bus.
        for absent in [(1, 0, 1), (1, 1, 0), (2, 0, 0)] {
            g.show_at(absent, 0);
        }
    });
    assert_eq!(
        shown[..9],
        [
            0x000c_1b36,
            0x0604_0000,
            0x0001_0100,
            0x1010,
            FIRST,
            0x0001_0001,
            1,
            1,
            0x400
        ]
    );
    let bar2 = u32::from(BAR2) | 1;
    assert_eq!(shown[9..17], [ID, BAR0, BAR1, bar2, 0, 0xc, 1, ROM]);
    assert_eq!(shown[17..], [u32::MAX; 3]);
}

fn the_guest_numbers_the_bus() {
    let shown = numbers(&device().into_arc(), |g| {
        g.write_at(PORT, NUMBERS, Width::Dword, 0x0042_4100);
        g.show_at(BEHIND, 0).show_at((0x41, 0, 0), 0);
        // Within the port's numbers, and behind no bridge.
        g.show_at((0x42, 0, 0), 0);
        // No number at all.
        g.write_at(PORT, NUMBERS, Width::Dword, 0);
        g.show_at((0x41, 0, 0), 0).show_at((0, 0, 0), 0);
        g.write_at(PORT, NUMBERS, Width::Dword, 0x00ff_ff00);
        g.show_at((0xff, 0, 0), 0);
    });
    let host_bridge = 0x0008_1b36;
    assert_eq!(shown, [u32::MAX, ID, u32::MAX, u32::MAX, host_bridge, ID]);
}

fn bars_need_the_ports_command() {
    let shown = numbers(&device().into_arc(), |g| {
        g.commands(0, MEMORY);
        look(g);
        g.commands(MEMORY, 0);
        look(g);
        g.commands(MEMORY, MEMORY);
        look(g);
        g.write_at(PORT, COMMAND, Width::Word, IO | MASTER);
        look(g);
        // The function's registers do not change by that.
        g.show_at(BEHIND, COMMAND).show_at(BEHIND, bar_register(0));
    });
    assert_eq!(shown[..2], NOWHERE);
    assert_eq!(shown[2..4], NOWHERE);
    assert_eq!(shown[4..6], THERE);
    assert_eq!(shown[6..8], NOWHERE);
    assert_eq!(shown[8..], [0x0010_0000 | MEMORY, BAR0]);
}

fn bars_need_the_ports_window() {
    let shown = numbers(&device().into_arc(), |g| {
        g.commands(MEMORY, MEMORY).window(CLOSED);
        look(g);
        // The window moves away, and BAR 0 after it; BAR 1 stays outside.
        g.window(SECOND);
        look(g);
        g.write_at(BEHIND, bar_register(0), Width::Dword, 0xc010_8000);
        g.show(0xc010_8020).show(BAR0 + 0x20);
        // A window with both megabytes.
        g.window(0xc010_c000);
        g.show(0xc010_8020).show(BAR1 + 0x20);
        // The prefetchable window is a window too.
        g.window(CLOSED);
        g.write_at(PORT, 0x2c, Width::Dword, 0)
            .write_at(PORT, 0x28, Width::Dword, 0);
        g.show(0xc010_8020);
        g.write_at(PORT, 0x24, Width::Dword, 0xc011_c001);
        g.show(0xc010_8020).show(BAR1 + 0x20);
    });
    assert_eq!(shown[..2], NOWHERE);
    assert_eq!(shown[2..4], NOWHERE);
    assert_eq!(shown[4..6], [THERE[0], u32::MAX]);
    assert_eq!(shown[6..8], THERE);
    assert_eq!(shown[8..], [u32::MAX, THERE[0], THERE[1]]);
}

fn ports_need_the_ports_window() {
    let shown = numbers(&device().into_arc(), |g| {
        let at = |base: u16| base + 0x10;
        g.commands(MEMORY, IO)
            .input(Width::Dword, at(BAR2))
            .print_eax();
        g.commands(IO, IO).input(Width::Dword, at(BAR2)).print_eax();
        g.write_at(PORT, IO_WINDOW, Width::Word, 0x3020);
        g.input(Width::Dword, at(BAR2)).print_eax();
        g.write_at(BEHIND, bar_register(2), Width::Dword, 0x3fe0);
        g.input(Width::Dword, at(0x3fe0)).print_eax();
        g.write_at(PORT, IO_WINDOW, Width::Word, 0x00f0);
        g.input(Width::Dword, at(0x3fe0)).print_eax();
    });
    let there = 0x600d_0002;
    assert_eq!(shown, [u32::MAX, there, u32::MAX, there, u32::MAX]);
}

/// A guest that opens and closes a port for ever uses no more memory slots than an open port has.
fn a_closed_port_unmaps_and_opens_again() {
    let device = device().into_arc();
    let mut g = Asm::new();
    g.commands(MEMORY, MEMORY);
    for _ in 0..40 {
        g.window(CLOSED).window(FIRST);
        g.write_at(PORT, COMMAND, Width::Word, 0);
        g.write_at(PORT, COMMAND, Width::Word, MEMORY);
    }
    look(&mut g);
    g.print("open\n").wait_key().window(CLOSED);
    // BAR 4 is in the other window.
    g.write_at(PORT, COMMAND, Width::Word, 0).print("closed\n");
    g.wait_key().power_off();
    let mut slots = Vec::new();
    let ended = Vm::new(g)
        .device_behind_port(&device, "1")
        .run_beside(|live| {
            live.wait_for("open\n");
            slots.push(live.slots());
            live.press_key();
            live.wait_for("closed\n");
            slots.push(live.slots());
            live.press_key();
        });
    let (before, after) = ended.slots;
    let text = ended.powered_off();
    assert!(text.starts_with("600d0000\n600d0001\n"), "{text}");
    // One slot for the pages of BAR 0, and one for BAR 4.
    assert_eq!(slots, [before + 2, before]);
    assert_eq!(after, before);
}

/// What the device has got for COMMAND, the last write last.
fn commands_sent(device: &FakeDevice) -> Vec<u8> {
    let calls = device.calls();
    let low = calls.iter().filter_map(|call| match call {
        Call::Config(4, data) => data.first().copied(),
        _ => None,
    });
    low.collect()
}

fn bus_mastering_needs_the_ports() {
    let device = device().into_arc();
    let shown = numbers(&device, |g| {
        let both = MEMORY | MASTER;
        g.commands(MEMORY, both).show_at(BEHIND, COMMAND);
        g.write_at(PORT, COMMAND, Width::Word, both);
        g.show_at(BEHIND, COMMAND);
        // The window alone, which COMMAND of the device does not follow.
        g.window(SECOND).window(FIRST);
        g.write_at(PORT, COMMAND, Width::Word, 0);
        g.show_at(BEHIND, COMMAND);
        g.write_at(PORT, COMMAND, Width::Word, both);
        g.write_at(BEHIND, COMMAND, Width::Word, 0);
    });
    assert_eq!(shown, [0x0010_0006; 3]);
    let sent = commands_sent(&device);
    let guests: Vec<_> = sent.into_iter().skip_while(|low| *low == 0).collect();
    assert_eq!(guests[..5], [2, 6, 2, 6, 0]);
    assert!(guests[5..].iter().all(|low| *low == 0), "{guests:?}");
}

fn no_register_of_a_port_reaches_the_device() {
    let device = device().into_arc();
    run(&device, |g| {
        for offset in (0..0x100u16).step_by(2) {
            // The device follows COMMAND, a reset of its bus, its link and the slot's power.
            let value = match offset {
                COMMAND | BRIDGE_CONTROL => continue,
                LINK_CONTROL => !LINK_DISABLE,
                SLOT_CONTROL => !POWER_OFF,
                _ => !0,
            };
            g.write_at(PORT, offset, Width::Word, value & 0xffff);
        }
    })
    .powered_off();
    let config = |call: &&Call| matches!(call, Call::Config(at, _) if *at != 4);
    assert_eq!(device.calls().iter().filter(config).count(), 0);
    assert!(commands_sent(&device).iter().all(|low| *low == 0));
}

/// INTA behind a port raises the GSI that INTA of the port's device number has.
fn pins_are_swizzled() {
    const V: u8 = 0x41;
    for (slot, port, gsi) in [("3", (0, 3, 0), 19), ("2", (0, 2, 0), 18)] {
        let device = FakeDevice::new().with_resampled_pin().into_arc();
        let mut g = Asm::new();
        g.level_handler(V, ACKNOWLEDGE)
            .interrupts(&[])
            .ioapic_level(gsi, V);
        g.write_at(port, COMMAND, Width::Word, MEMORY);
        g.write_at(BEHIND, COMMAND, Width::Word, MEMORY);
        g.store32(ASK, 1).await_count(V, 1).show_at(BEHIND, 0x3c);
        g.power_off();
        let shown = Vm::new(g).device_behind_port(&device, slot).run().numbers();
        assert_eq!(shown, [0x100]);
    }
}

fn messages_come_through() {
    const V: u8 = 0x41;
    let device = FakeDevice::new().into_arc();
    let shown = numbers(&device, |g| {
        g.interrupts(&[V])
            .commands(MEMORY | MASTER, MEMORY | MASTER);
        g.write_at(BEHIND, MSIX + 2, Width::Word, ENABLE);
        g.store32(TABLE, MESSAGE_ADDRESS).store32(TABLE + 4, 0);
        g.store32(TABLE + 8, V.into()).store32(TABLE + 12, 0);
        g.store32(DOORBELL, 0).await_count(V, 1).show_count(V);
    });
    assert_eq!(shown, [1]);
}

/// Functions 0 and 3 of a host device are those of one device behind one port.
fn two_functions_share_a_port() {
    let devices = [0x11, 0x33].map(|number| {
        let device = FakeDevice::new();
        device.poke(1, 0x20, number);
        device.into_arc()
    });
    let mut g = Asm::new();
    for function in [0, 1, 3] {
        g.show_at((1, 0, function), 0x0c)
            .show_at((1, 0, function), 0x3c);
    }
    g.write_at(PORT, COMMAND, Width::Word, MEMORY);
    for function in [0, 3] {
        let bdf = (1, 0, function);
        g.write_at(bdf, COMMAND, Width::Word, MEMORY);
        // Free addresses in the port's window.
        g.write_at(bdf, bar_register(1), Width::Dword, 0xc008_0000);
        g.show(0xc008_0020);
        g.write_at(bdf, COMMAND, Width::Word, 0);
    }
    // A reset of the bus resets both.
    g.write_at(PORT, BRIDGE_CONTROL, Width::Word, RESET);
    g.power_off();
    let shown = Vm::new(g)
        .function_behind_port(&devices[0], "1", "01:00.0")
        .function_behind_port(&devices[1], "1", "01:00.3")
        .run()
        .numbers();
    let multi = |value: u32| value >> 16 & 0xff;
    assert_eq!((multi(shown[0]), multi(shown[4])), (0x80, 0x80));
    assert_eq!(shown[2..4], [u32::MAX; 2]);
    assert_eq!(shown[6..], [0x11, 0x33]);
    assert!(devices.iter().all(|device| device.count(&Call::Reset) == 1));
}

fn a_reboot_brings_the_port_back() {
    /// Where the first boot leaves a mark in RAM.
    const MARK: u32 = 0x7_1000;
    let device = device().into_arc();
    let shown = numbers(&device, |g| {
        let again = g.label();
        g.load32(MARK).cmp_eax(1).je(again);
        g.commands(MEMORY, MEMORY);
        g.write_at(PORT, NUMBERS, Width::Dword, 0x0009_0900)
            .window(CLOSED);
        g.write_at(PORT, LINK_CONTROL, Width::Word, LINK_DISABLE);
        g.write_at(PORT, BRIDGE_CONTROL, Width::Word, RESET);
        g.store32(MARK, 1).reset();
        g.bind(again);
        g.show_at(PORT, COMMAND)
            .show_at(PORT, NUMBERS)
            .show_at(PORT, MEMORY_WINDOW);
        g.show_at(PORT, LINK_CONTROL);
        g.show_at(BEHIND, 0).show_at(BEHIND, bar_register(1));
        look(g);
        g.commands(MEMORY, MEMORY);
        look(g);
    });
    assert_eq!(shown[..3], [0x0010_0000, 0x0001_0100, FIRST]);
    assert_eq!(shown[3] & 0x2000_0010, 0x2000_0000, "the link is active");
    assert_eq!(shown[4..6], [ID, BAR1]);
    assert_eq!(shown[6..8], NOWHERE);
    assert_eq!(shown[8..], THERE);
}

/// The report of a run names the port, and the function behind it by the guest's number of the bus.
fn registers_have_names() {
    let device = device().into_arc();
    let mut g = Asm::new();
    g.write_at(PORT, NUMBERS, Width::Dword, 0x0005_0500);
    g.write_at(PORT, COMMAND, Width::Word, MEMORY);
    g.write_at((5, 0, 0), COMMAND, Width::Word, MEMORY);
    g.show(ecam(1, 8)).show(BAR1 + 0x20).power_off();
    let vm = Vm::new(g).measured();
    let report = vm.device_behind_port(&device, "1").run().report;
    let registers = report.exits.registers.iter();
    let named: Vec<_> = registers.filter_map(|r| r.range.as_deref()).collect();
    for name in ["port 00:01.0 configuration space", "0000:05:00.0 BAR 1"] {
        assert!(named.contains(&name), "{name} is not in {named:?}");
    }
    let config = report.config_space.registers.iter();
    let functions: Vec<_> = config.map(|r| r.function.to_string()).collect();
    for function in ["0000:00:01.0", "0000:05:00.0"] {
        assert!(functions.iter().any(|f| f == function), "{functions:?}");
    }
}
