//! What a guest reads of links and AtomicOps, behind a root port and on bus 0.

use std::sync::Arc;

use pci::atomic_ops::AtomicOps;
use pci::link::Link;

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{Call, EXPRESS, FakeDevice};
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![
    the_link_is_the_devices,
    a_link_that_rests_is_seen_at_the_port,
    a_virtual_function_has_the_hosts_link,
    exactly_the_hosts_atomic_ops,
    what_all_functions_complete,
    controls_of_the_link_stay_here,
    payloads_agree,
    on_bus_0_there_is_no_link,
];

type Bdf = (u8, u8, u8);
const PORT: Bdf = (0, 1, 0);
const BEHIND: Bdf = (1, 0, 0);
/// The capability of PCI Express in a port.
const OF_PORT: u16 = 0x40;

const DEVICE_CAPABILITIES: u16 = 0x04;
const DEVICE_CONTROL: u16 = 0x08;
const LINK_CAPABILITIES: u16 = 0x0c;
const LINK: u16 = 0x10;
const DEVICE_CAPABILITIES_2: u16 = 0x24;
const DEVICE_CONTROL_2: u16 = 0x28;
const LINK_CAPABILITIES_2: u16 = 0x2c;
const LINK_CONTROL_2: u16 = 0x30;

fn show(g: &mut Asm, bdf: Bdf, offset: u16) {
    let port = g.cfg_address(bdf, offset);
    g.input(Width::Dword, port).print_eax();
}

fn write(g: &mut Asm, bdf: Bdf, offset: u16, value: u32) {
    let port = g.cfg_address(bdf, offset);
    g.out(Width::Word, port, value);
}

fn numbers(device: &Arc<FakeDevice>, build: impl FnOnce(&mut Asm)) -> Vec<u32> {
    let mut g = Asm::new();
    build(&mut g);
    g.power_off();
    Vm::new(g).device_behind_port(device, "1").run().numbers()
}

/// A link of 8 GT/s x4, and 16 GT/s x8 at most.
fn device() -> FakeDevice {
    let at = usize::from(EXPRESS);
    FakeDevice::new()
        .with_config(at + usize::from(LINK_CAPABILITIES), &[0x84, 0, 0, 0])
        .with_config(at + usize::from(LINK), &[0x41, 0, 0x43, 0x10])
        .with_config(at + usize::from(LINK_CAPABILITIES_2), &[0x1e, 0, 0, 0])
}

fn link(g: &mut Asm) {
    for (bdf, base) in [(BEHIND, EXPRESS), (PORT, OF_PORT)] {
        for register in [LINK_CAPABILITIES, LINK, LINK_CAPABILITIES_2] {
            show(g, bdf, base + register);
        }
    }
}

/// Speed and width of Link Capabilities, of Link Status, and the supported speeds.
fn speeds(numbers: &[u32]) -> Vec<[u32; 3]> {
    let registers = numbers.chunks_exact(3);
    registers
        .map(|r| [r[0] & 0x3ff, r[1] >> 16 & 0x3ff, r[2]])
        .collect()
}

fn the_link_is_the_devices() {
    let shown = numbers(&device().into_arc(), |g| {
        show(g, BEHIND, EXPRESS);
        link(g);
    });
    assert_eq!(shown[0] >> 16, 0x0002, "an endpoint");
    assert_eq!(speeds(&shown[1..]), [[0x84, 0x43, 0x1e]; 2]);
}

fn a_link_that_rests_is_seen_at_the_port() {
    let at = u64::from(EXPRESS + LINK);
    // The link rests once the guest has set the read request size.
    let rests = move |device: &FakeDevice, call: &Call| {
        if matches!(call, Call::Config(offset, _) if *offset == u64::from(EXPRESS + DEVICE_CONTROL))
        {
            device.set_config(at as usize + 2, &[0x41, 0x10]);
        }
    };
    let device = device().on_call(rests).into_arc();
    let shown = numbers(&device, |g| {
        link(g);
        write(g, BEHIND, EXPRESS + DEVICE_CONTROL, 0x2000);
        link(g);
    });
    let speeds = speeds(&shown);
    assert_eq!(speeds[..2], [[0x84, 0x43, 0x1e]; 2]);
    assert_eq!(speeds[2..], [[0x84, 0x41, 0x1e]; 2]);
}

fn a_virtual_function_has_the_hosts_link() {
    let at = usize::from(EXPRESS + LINK) + 2;
    let mut device = device().with_config(at, &[0, 0]);
    device.link = Link::from_registers(0x104, 0x83);
    let shown = numbers(&device.into_arc(), link);
    assert_eq!(speeds(&shown), [[0x104, 0x83, 0x1e]; 2]);
}

/// What the port and the function show of AtomicOps: capabilities 2 of the port, and Device Control
/// 2 of the function after the guest has enabled requests.
fn atomic(device: FakeDevice) -> (u32, u32) {
    let shown = numbers(&device.into_arc(), |g| {
        show(g, PORT, OF_PORT + DEVICE_CAPABILITIES_2);
        write(g, BEHIND, EXPRESS + DEVICE_CONTROL_2, 0x40);
        show(g, BEHIND, EXPRESS + DEVICE_CONTROL_2);
    });
    (shown[0], shown[1] & 0xffff)
}

fn exactly_the_hosts_atomic_ops() {
    assert_eq!(atomic(device()), (0, 0));
    for (bits_32, bits_64, cas_128, shown) in [
        (true, false, false, 0x080),
        (false, true, false, 0x100),
        (true, true, false, 0x180),
        (true, true, true, 0x380),
    ] {
        let mut device = device();
        device.atomic_ops = AtomicOps {
            bits_32,
            bits_64,
            cas_128,
        };
        assert_eq!(atomic(device), (shown, 0x40));
    }
    // Without a port nobody completes them.
    let mut device = device();
    device.atomic_ops = AtomicOps::ALL;
    let device = device.into_arc();
    let mut g = Asm::new();
    let on_root = (0, 1, 0);
    write(&mut g, on_root, EXPRESS + DEVICE_CONTROL_2, 0x40);
    show(&mut g, on_root, EXPRESS + DEVICE_CONTROL_2);
    g.power_off();
    let shown = Vm::new(g).device(&device).run().numbers();
    assert_eq!(shown[0] & 0xffff, 0);
}

fn what_all_functions_complete() {
    let (mut first, mut second) = (device(), device());
    first.atomic_ops = AtomicOps::ALL;
    second.name = "0000:01:00.1";
    second.atomic_ops = AtomicOps {
        cas_128: false,
        ..AtomicOps::ALL
    };
    let mut g = Asm::new();
    show(&mut g, PORT, OF_PORT + DEVICE_CAPABILITIES_2);
    g.power_off();
    let ended = Vm::new(g)
        .function_behind_port(&first.into_arc(), "1", "01:00.0")
        .function_behind_port(&second.into_arc(), "1", "01:00.1")
        .run();
    assert_eq!(ended.numbers(), [0x180]);
}

/// What a guest writes to Link Control and Link Control 2 is read back, and reaches no device.
fn controls_of_the_link_stay_here() {
    let device = device().into_arc();
    let shown = numbers(&device, |g| {
        for (bdf, base) in [(BEHIND, EXPRESS), (PORT, OF_PORT)] {
            show(g, bdf, base + LINK);
            show(g, bdf, base + LINK_CONTROL_2);
            // Common clock, clock power management, ASPM; a slower target.
            write(g, bdf, base + LINK, 0x0143);
            write(g, bdf, base + LINK_CONTROL_2, 0x0001);
            show(g, bdf, base + LINK);
            show(g, bdf, base + LINK_CONTROL_2);
        }
    });
    let controls: Vec<_> = shown.iter().map(|number| number & 0xffff).collect();
    assert_eq!(controls[..4], [0, 4, 0x143, 1]);
    assert_eq!((controls[5], controls[7]), (4, 1), "the port's target");
    let link = u64::from(EXPRESS + LINK)..u64::from(EXPRESS + LINK + 4);
    let link_2 = u64::from(EXPRESS + LINK_CONTROL_2)..u64::from(EXPRESS + LINK_CONTROL_2 + 4);
    let reached = device.calls().into_iter().find(|call| match call {
        Call::Config(at, _) => link.contains(at) || link_2.contains(at),
        _ => false,
    });
    assert_eq!(reached, None);
}

/// A guest finds nothing to agree on: the port starts with the payload that the host has set.
fn payloads_agree() {
    let at = usize::from(EXPRESS + DEVICE_CONTROL);
    let device = device().with_config(at, &[0x30, 0x28]).into_arc();
    let shown = numbers(&device, |g| {
        show(g, PORT, OF_PORT + DEVICE_CAPABILITIES);
        show(g, PORT, OF_PORT + DEVICE_CONTROL);
        show(g, BEHIND, EXPRESS + DEVICE_CONTROL);
        write(g, BEHIND, EXPRESS + DEVICE_CONTROL, 0x00a0);
        show(g, BEHIND, EXPRESS + DEVICE_CONTROL);
    });
    assert_eq!(shown[0] & 7, 1);
    let payload = |number: u32| number >> 5 & 7;
    assert_eq!((payload(shown[1]), payload(shown[2])), (1, 1));
    assert_eq!(payload(shown[3]), 1, "the host's");
}

fn on_bus_0_there_is_no_link() {
    let mut g = Asm::new();
    let on_root = (0, 1, 0);
    for register in [0, LINK_CAPABILITIES, LINK, LINK_CAPABILITIES_2] {
        show(&mut g, on_root, EXPRESS + register);
    }
    g.power_off();
    let shown = Vm::new(g).device(&device().into_arc()).run().numbers();
    assert_eq!(shown[0] >> 16, 0x0092);
    assert_eq!(shown[1..], [0, 0, 0]);
}
