//! BARs in the guest's memory: mapped and trapped areas, moves, refused moves, and unmapping.

use std::sync::Arc;

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{BAR0, BAR1, BAR2, Call, FakeDevice, PBA, PM, TABLE};
use crate::pci::{ECAM, IO, MEMORY, SLOT, bar_register};
use crate::vm::{Ended, Vm};

pub const TESTS: &[Test] = tests![
    mapped_areas_make_no_exits,
    the_msix_table_is_trapped,
    a_small_bar_is_forwarded_with_its_width,
    ports_are_forwarded,
    moving_with_decode_off,
    moving_with_decode_on,
    a_64_bit_bar_moves_below_4_gib,
    ports_move,
    sizing_with_decode_on,
    both_halves_with_decode_on,
    addresses_outside_are_not_decoded,
    conflicts_roll_back,
    decode_off_takes_the_bars_away,
    areas_are_unmapped_before_the_device_is_told,
    a_sleeping_device_decodes_nothing,
    toggling_decode_leaks_nothing,
    two_devices_share_the_windows,
];

/// Memory slots of the device's mapped areas: one of BAR 0 and one of BAR 4.
const AREAS: usize = 2;

fn run(device: &Arc<FakeDevice>, build: impl FnOnce(&mut Asm)) -> Ended {
    let mut g = Asm::new();
    build(&mut g);
    g.power_off();
    Vm::new(g).device(device).run()
}

fn mapped_areas_make_no_exits() {
    let device = FakeDevice::new().into_arc();
    device.poke(0, 0x10, 0xcafe_f00d);
    device.poke(0, 0x1ffc, 0x1ead_0ff5);
    let ended = run(&device, |g| {
        g.command(MEMORY).show(BAR0 + 0x10).show(BAR0 + 0x1ffc);
        g.store32(BAR0 + 0x14, 0xfeed_beef)
            .store(Width::Byte, BAR0 + 0x1001, 0x7e);
    });
    assert_eq!(ended.exits().1, 0);
    assert_eq!(ended.numbers(), [0xcafe_f00d, 0x1ead_0ff5]);
    assert_eq!(device.peek(0, 0x14), 0xfeed_beef);
    assert_eq!(device.peek(0, 0x1000), 0x7e00);
}

fn the_msix_table_is_trapped() {
    let device = FakeDevice::new().into_arc();
    for offset in (0x2000..0x4000).step_by(4) {
        device.poke(0, offset, 0x5555_5555);
    }
    let ended = run(&device, |g| {
        g.command(MEMORY);
        // The second entry after power-on: its mask and nothing else.
        for offset in [0x10, 0x14, 0x18, 0x1c] {
            g.show(TABLE + offset);
        }
        g.store32(TABLE + 0x10, 0xfee0_1003)
            .store32(TABLE + 0x18, 0x41);
        g.store32(TABLE + 0x1c, !0)
            .show(TABLE + 0x10)
            .show(TABLE + 0x18)
            .show(TABLE + 0x1c);
        // The entry before is unchanged, and a byte access works as a dword does.
        g.show(TABLE).load(Width::Byte, TABLE + 0x12).print_eax();
        // Pending bits: none, and read-only.
        g.store32(PBA, !0).show(PBA);
        // Registers of the device in the table's page.
        g.show(TABLE + 0x100)
            .store32(TABLE + 0x200, 0x77)
            .show(TABLE + 0x200);
    });
    assert_eq!(ended.exits().1, 4 + 6 + 2 + 2 + 3);
    assert_eq!(
        ended.numbers(),
        [
            0,
            0,
            0,
            1,
            0xfee0_1000,
            0x41,
            1,
            0,
            0xe0,
            0,
            0x5555_5555,
            0x77
        ]
    );
    // The device's own table is unchanged: it belongs to the host.
    assert_eq!(device.peek(0, 0x2010), 0x5555_5555);
    assert_eq!(device.peek(0, 0x3000), 0x5555_5555);
    assert_eq!(device.peek(0, 0x2200), 0x77);
}

fn a_small_bar_is_forwarded_with_its_width() {
    let device = FakeDevice::new().into_arc();
    let ended = run(&device, |g| {
        g.command(MEMORY);
        g.store(Width::Byte, BAR1 + 0x11, 0xa1)
            .store(Width::Word, BAR1 + 0x12, 0xb2b1);
        g.store32(BAR1 + 0x14, 0xc4c3_c2c1);
        g.load(Width::Byte, BAR1 + 0x11).print_eax();
        g.load(Width::Word, BAR1 + 0x12)
            .print_eax()
            .show(BAR1 + 0x14);
        // After the BAR, in the same page.
        g.show(BAR1 + 0x100);
    });
    assert_eq!(ended.exits().1, 7);
    assert_eq!(ended.numbers(), [0xa1, 0xb2b1, 0xc4c3_c2c1, u32::MAX]);
    let traffic: Vec<_> = device
        .calls()
        .into_iter()
        .filter(|c| matches!(c, Call::Read(..) | Call::Write(..)))
        .collect();
    assert_eq!(
        traffic,
        [
            Call::Write(1, 0x11, vec![0xa1]),
            Call::Write(1, 0x12, vec![0xb1, 0xb2]),
            Call::Write(1, 0x14, vec![0xc1, 0xc2, 0xc3, 0xc4]),
            Call::Read(1, 0x11, 1),
            Call::Read(1, 0x12, 2),
            Call::Read(1, 0x14, 4),
        ]
    );
}

fn ports_are_forwarded() {
    let device = FakeDevice::new().into_arc();
    let ended = run(&device, |g| {
        // While I/O decode is off.
        g.outb(BAR2 + 4, 0x12)
            .input(Width::Byte, BAR2 + 4)
            .print_eax();
        g.command(IO).out(Width::Dword, BAR2 + 8, 0x0102_0304);
        g.input(Width::Word, BAR2 + 10)
            .print_eax()
            .input(Width::Byte, BAR2 + 4)
            .print_eax();
        g.input(Width::Dword, BAR2 + 0x20).print_eax();
    });
    assert_eq!(ended.numbers(), [0xff, 0x0102, 0, u32::MAX]);
    assert_eq!(device.peek(2, 8), 0x0102_0304);
    assert_eq!(device.count(&Call::Read(2, 10, 2)), 1);
}

fn moving_with_decode_off() {
    let device = FakeDevice::new().into_arc();
    device.poke(0, 0, 0x600d);
    let numbers = run(&device, |g| {
        g.command(MEMORY).show(BAR0).command(0);
        g.set_bar(0, !0)
            .set_bar(0, 0xd000_0000)
            .set_bar(1, 0xd100_0000)
            .command(MEMORY);
        g.show(BAR0).show(0xd000_0000);
        // The trapped areas and the small BAR have moved, too.
        g.show(TABLE + 12).show(0xd000_200c);
        g.store32(0xd100_0010, 0x5a)
            .show(BAR1 + 0x10)
            .show(0xd100_0010);
    })
    .numbers();
    let gone = u32::MAX;
    assert_eq!(numbers, [0x600d, gone, 0x600d, gone, 1, gone, 0x5a]);
}

fn moving_with_decode_on() {
    let device = FakeDevice::new().into_arc();
    device.poke(0, 0, 0x600d);
    let ended = run(&device, |g| {
        g.command(MEMORY);
        for address in [0xd000_0000, 0xd000_4000, 0xdfff_c000] {
            g.set_bar(0, address).show(address).show(BAR0);
        }
        g.set_bar(0, BAR0)
            .show(0xdfff_c000)
            .show(BAR0)
            .cfg_show(SLOT, bar_register(0));
        g.command(0);
    });
    assert_eq!(ended.slots.0, ended.slots.1);
    let gone = u32::MAX;
    assert_eq!(
        ended.numbers(),
        [0x600d, gone, 0x600d, gone, 0x600d, gone, gone, 0x600d, BAR0]
    );
}

fn a_64_bit_bar_moves_below_4_gib() {
    let device = FakeDevice::new().into_arc();
    device.poke(4, 0x8000, 0x64b1);
    let numbers = run(&device, |g| {
        // With decode off, as Linux does it: between two writes with decode on, the BAR would be
        // outside of the windows.
        g.set_bar(4, 0xd800_0000).set_bar(5, 0).command(MEMORY);
        g.show(0xd800_8000).store32(0xd800_fffc, 0xe4d);
        g.cfg_show(SLOT, bar_register(4))
            .cfg_show(SLOT, bar_register(5));
    })
    .numbers();
    assert_eq!(numbers, [0x64b1, 0xd800_000c, 0]);
    assert_eq!(device.peek(4, 0xfffc), 0xe4d);
}

fn ports_move() {
    let device = FakeDevice::new().into_arc();
    let numbers = run(&device, |g| {
        g.command(IO)
            .out(Width::Word, BAR2, 0x1234)
            .set_bar(2, 0xffe0);
        g.input(Width::Word, BAR2)
            .print_eax()
            .input(Width::Word, 0xffe0)
            .print_eax();
        // The ports of the serial port are not available: they stay, and the BAR is not decoded.
        g.set_bar(2, 0x3e0).cfg_show(SLOT, bar_register(2));
        g.input(Width::Word, 0xffe0).print_eax();
        g.set_bar(2, 0xffe0).input(Width::Word, 0xffe0).print_eax();
    })
    .numbers();
    assert_eq!(numbers, [0xffff, 0x1234, 0x3e1, 0xffff, 0x1234]);
}

/// Some guests size BARs with decode on: the BAR is unmapped until its address is written back.
fn sizing_with_decode_on() {
    let device = FakeDevice::new().into_arc();
    device.poke(0, 4, 0x600d);
    let numbers = run(&device, |g| {
        g.command(MEMORY)
            .set_bar(0, !0)
            .cfg_show(SLOT, bar_register(0));
        g.show(BAR0 + 4).set_bar(0, BAR0).show(BAR0 + 4);
    })
    .numbers();
    assert_eq!(numbers, [0xffff_c000, u32::MAX, 0x600d]);
}

/// A 64-bit BAR is sized and moved by two writes. Between them the BAR is not decoded.
fn both_halves_with_decode_on() {
    let device = FakeDevice::new().into_arc();
    device.poke(4, 0x8000, 0x64b1);
    let numbers = run(&device, |g| {
        g.command(MEMORY);
        g.set_bar(4, !0).cfg_show(SLOT, bar_register(4));
        g.set_bar(5, !0).cfg_show(SLOT, bar_register(5));
        g.set_bar(4, 0xd800_0000).set_bar(5, 0).show(0xd800_8000);
    })
    .numbers();
    assert_eq!(numbers, [0xffff_000c, u32::MAX, 0x64b1]);
}

/// Outside of the host bridge's windows a BAR is not decoded until it is back inside.
fn addresses_outside_are_not_decoded() {
    let device = FakeDevice::new().into_arc();
    device.poke(0, 0, 0x600d);
    // RAM, ECAM, the interrupt controllers, before the window, across its end.
    let addresses = [0x0010_0000, ECAM, 0xfee0_0000, 0xb000_0000, 0xe001_0000];
    let ended = run(&device, |g| {
        g.command(MEMORY);
        for address in addresses {
            g.set_bar(0, address)
                .cfg_show(SLOT, bar_register(0))
                .show(BAR0);
            g.set_bar(0, BAR0).show(BAR0);
        }
        // ECAM still answers at its address.
        g.set_bar(0, ECAM).show(ECAM).command(0);
    });
    assert_eq!(ended.slots.0, ended.slots.1);
    let mut expected: Vec<u32> = addresses
        .iter()
        .flat_map(|address| [*address, u32::MAX, 0x600d])
        .collect();
    expected.push(0x0008_1b36);
    assert_eq!(ended.numbers(), expected);
}

/// A BAR cannot move onto another BAR: it keeps its address, and its register reads the old one.
fn conflicts_roll_back() {
    let device = FakeDevice::new().into_arc();
    device.poke(0, 0, 0x600d);
    let ended = run(&device, |g| {
        g.command(MEMORY);
        // The large one onto the small one, and the small one into the large one.
        g.set_bar(0, BAR0 + 0x4000)
            .cfg_show(SLOT, bar_register(0))
            .show(BAR0);
        g.set_bar(1, BAR0 + 0x1000).cfg_show(SLOT, bar_register(1));
        g.command(0);
    });
    assert_eq!(ended.slots.0, ended.slots.1);
    assert_eq!(ended.numbers(), [BAR0, 0x600d, BAR1]);
}

fn decode_off_takes_the_bars_away() {
    let device = FakeDevice::new().into_arc();
    device.poke(0, 0, 0x600d);
    let mut g = Asm::new();
    g.command(MEMORY).print("on\n").wait_key();
    g.command(0).print("off\n").wait_key();
    g.show(BAR0).show(TABLE).show(BAR1);
    g.store32(BAR0, 0)
        .command(MEMORY)
        .show(BAR0)
        .command(0)
        .power_off();
    let ended = Vm::new(g).device(&device).run_beside(|live| {
        live.wait_for("on\n");
        let on = live.slots();
        live.press_key();
        live.wait_for("off\n");
        assert_eq!(on - live.slots(), AREAS);
        live.press_key();
    });
    let text = ended.powered_off();
    let numbers: Vec<_> = text.lines().skip(2).collect();
    // The store while the BAR was unmapped has no effect.
    assert_eq!(numbers, ["ffffffff", "ffffffff", "ffffffff", "0000600d"]);
}

/// While a device does not decode, the host's kernel answers a touch of its pages with SIGBUS.
fn areas_are_unmapped_before_the_device_is_told() {
    let slots = Arc::new(std::sync::Mutex::new(Vec::new()));
    let live_slots = Arc::new(std::sync::OnceLock::<Arc<dyn Fn() -> usize + Send + Sync>>::new());
    let (seen, count) = (slots.clone(), live_slots.clone());
    let device = FakeDevice::new()
        .on_call(move |_, call| {
            if let (Call::Config(4, data), Some(count)) = (call, count.get()) {
                seen.lock().unwrap().push((data[0], count()));
            }
        })
        .into_arc();
    let mut g = Asm::new();
    g.wait_key()
        .command(MEMORY)
        .command(0)
        .command(MEMORY)
        .command(0)
        .power_off();
    let base = std::sync::atomic::AtomicUsize::new(0);
    let ended = Vm::new(g).device(&device).run_beside(|live| {
        base.store(live.slots(), std::sync::atomic::Ordering::Relaxed);
        let counter = live.slot_counter();
        assert!(live_slots.set(Arc::new(counter)).is_ok());
        live.press_key();
    });
    ended.powered_off();
    let base = base.into_inner();
    let slots = slots.lock().unwrap();
    assert!(slots.iter().all(|(_, n)| *n == base), "{slots:?}, {base}");
    let values: Vec<u8> = slots.iter().map(|(value, _)| *value).take(4).collect();
    assert_eq!(values, [2, 0, 2, 0]);
}

fn a_sleeping_device_decodes_nothing() {
    let device = FakeDevice::new().into_arc();
    device.poke(0, 0, 0x600d);
    let ended = run(&device, |g| {
        g.command(MEMORY).show(BAR0);
        g.cfg_write(SLOT, PM + 4, Width::Word, 3).show(BAR0);
        g.cfg_write(SLOT, PM + 4, Width::Word, 0).show(BAR0);
        // The same by a dword, with decode switched on in D3.
        g.command(0)
            .cfg_write(SLOT, PM + 4, Width::Dword, 3)
            .command(MEMORY)
            .show(BAR0);
        g.cfg_write(SLOT, PM + 4, Width::Byte, 0)
            .show(BAR0)
            .command(0);
    });
    assert_eq!(ended.slots.0, ended.slots.1);
    let gone = u32::MAX;
    assert_eq!(ended.numbers(), [0x600d, gone, 0x600d, gone, 0x600d]);
}

fn toggling_decode_leaks_nothing() {
    let device = FakeDevice::new().into_arc();
    device.poke(0, 0, 0x600d);
    let ended = run(&device, |g| {
        g.repeat(1000, |g| {
            g.command(MEMORY | IO).command(0);
        });
        g.command(MEMORY).show(BAR0).command(0);
    });
    assert_eq!(ended.slots.0, ended.slots.1);
    assert_eq!(ended.numbers(), [0x600d]);
}

fn two_devices_share_the_windows() {
    let (first, second) = (FakeDevice::new().into_arc(), FakeDevice::new().into_arc());
    first.poke(0, 0, 1);
    second.poke(0, 0, 2);
    let mut g = Asm::new();
    g.cfg_show(SLOT, 0x10).cfg_show(SLOT + 1, 0x10);
    g.command(MEMORY)
        .cfg_write(SLOT + 1, 4, Width::Word, MEMORY);
    g.show(BAR0).show(BAR0 + 0x4000);
    // Each address belongs to the other device.
    g.cfg_write(SLOT + 1, 0x10, Width::Dword, BAR0)
        .cfg_show(SLOT + 1, 0x10);
    // Unless the other device does not decode.
    g.command(0)
        .cfg_write(SLOT + 1, 0x10, Width::Dword, BAR0)
        .show(BAR0);
    g.cfg_write(SLOT + 1, 4, Width::Word, 0).power_off();
    let ended = Vm::new(g).device(&first).device(&second).run();
    assert_eq!(ended.slots.0, ended.slots.1);
    let second_bar = BAR0 + 0x4000;
    assert_eq!(ended.numbers(), [BAR0, second_bar, 1, 2, second_bar, 2]);
}
