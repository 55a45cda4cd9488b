//! A guest prints, powers off, resets, and fails.

use iced_x86::code_asm::{al, cr0, eax, edx, ptr};
use vmm::machine::Exit;

use crate::Test;
use crate::common::asm::{Asm, Width, real_mode};
use crate::device::{self, Call, FakeDevice, ID, MSIX};
use crate::pci::{COMMAND, MEMORY, SLOT, bar_register};
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![
    serial_output,
    reset_boots_again,
    reset_restores_the_device,
    a_device_without_reset_is_not_reset,
    no_reboot_ends_with_a_reset,
    triple_fault_boots_again,
    no_reboot_ends_with_a_triple_fault,
    the_reboot_stub_is_there,
    real_mode_resets,
    the_time_stamp_counter_is_restored,
];

/// A dword of RAM that no boot overwrites.
const BOOTS: u32 = 0x6_0000;

fn serial_output() {
    let mut g = Asm::new();
    g.print("Hello, ")
        .mov_eax(0x12ab_cdef)
        .print_eax()
        .power_off();
    assert_eq!(Vm::new(g).run().powered_off(), "Hello, 12abcdef\n");
}

/// Counts boots, prints the count, and does `end` on the first and powers off on the second.
fn twice(first: impl FnOnce(&mut Asm), second: impl FnOnce(&mut Asm)) -> Asm {
    let mut g = Asm::new();
    let again = g.label();
    g.inc32(BOOTS).show(BOOTS);
    g.load32(BOOTS).cmp_eax(2).je(again);
    first(&mut g);
    g.bind(again);
    second(&mut g);
    g.power_off();
    g
}

fn reset_boots_again() {
    let g = twice(
        |g| {
            g.reset();
        },
        |_| (),
    );
    assert_eq!(Vm::new(g).run().numbers(), [1, 2]);
}

fn triple_fault_boots_again() {
    let g = twice(
        |g| {
            g.triple_fault();
        },
        |_| (),
    );
    assert_eq!(Vm::new(g).run().numbers(), [1, 2]);
}

fn no_reboot_ends_with_a_reset() {
    let mut g = Asm::new();
    g.print("x").reset();
    let ended = Vm::new(g).no_reboot().run();
    assert_eq!((ended.exit.unwrap(), &*ended.text), (Exit::Reboot, "x"));
}

fn no_reboot_ends_with_a_triple_fault() {
    let mut g = Asm::new();
    g.print("x").triple_fault();
    let ended = Vm::new(g).no_reboot().run();
    assert_eq!(
        (ended.exit.unwrap(), &*ended.text),
        (Exit::TripleFault, "x")
    );
}

/// What the second boot must find as the first did.
fn show_registers(g: &mut Asm) {
    for offset in [
        0,
        COMMAND,
        bar_register(0),
        bar_register(1),
        bar_register(2),
        MSIX,
        0x3c,
    ] {
        g.cfg_show(SLOT, offset);
    }
    g.cfg_show(SLOT, bar_register(4))
        .cfg_show(SLOT, bar_register(5));
    g.command(MEMORY)
        .show(device::TABLE)
        .show(device::TABLE + 12);
    g.command(0);
}

fn reset_restores_the_device() {
    let device = FakeDevice::new().into_arc();
    let mut g = Asm::new();
    let again = g.label();
    show_registers(&mut g);
    g.inc32(BOOTS).load32(BOOTS).cmp_eax(2).je(again);
    g.cfg_write(SLOT, 0x3c, Width::Byte, 0x0b);
    g.set_bar(0, 0xd000_0000)
        .set_bar(2, 0x3000)
        .set_bar(4, 0xd100_0000)
        .set_bar(5, 0);
    g.command(7).cfg_write(SLOT, MSIX + 2, Width::Word, 0x8000);
    g.store32(0xd000_2000, 0xfee0_0000).store32(0xd000_200c, 0);
    // The guest leaves everything on: the reset must switch it off.
    g.reset();
    g.bind(again).power_off();
    let ended = Vm::new(g).device(&device).run();
    assert_eq!(ended.slots.0, ended.slots.1, "memory slots");
    let numbers = ended.numbers();
    let (first, second) = numbers.split_at(numbers.len() / 2);
    assert_eq!(first, second);
    assert_eq!(first[..4], [ID, 0x0010_0000, device::BAR0, device::BAR1]);

    // Interrupts and the bus are off before the reset.
    let calls = device.calls();
    let reset = calls
        .iter()
        .position(|c| *c == Call::Reset)
        .expect("a reset");
    assert_eq!(device.count(&Call::Reset), 1);
    let before = &calls[..reset];
    let disabled = Call::Disable(vmm::vfio::device::Irq::Msix);
    assert!(before.contains(&disabled), "{before:?}");
    let last = before.iter().rev().find_map(|c| match c {
        Call::Config(4, data) => Some(data.clone()),
        _ => None,
    });
    assert_eq!(last, Some(vec![0, 0]));
}

fn a_device_without_reset_is_not_reset() {
    let device = FakeDevice::new().no_reset().into_arc();
    let g = twice(
        |g| {
            g.command(7).reset();
        },
        |g| {
            g.cfg_show(SLOT, COMMAND);
        },
    );
    let numbers = Vm::new(g).device(&device).run().numbers();
    assert_eq!(numbers, [1, 2, 0x0010_0000]);
    assert_eq!(device.count(&Call::Reset), 0);
    assert_eq!(device.command(), 0);
}

fn the_reboot_stub_is_there() {
    let mut g = Asm::new();
    g.show(0xf_fff0).show(0xf_fff4).power_off();
    // mov dx, 0x602; mov al, 1; out dx, al; hlt; ...
    assert_eq!(Vm::new(g).run().numbers(), [0xb006_02ba, 0xebf4_ee01]);
}

/// A reboot as Linux does it without EFI: a 16-bit code segment, then real mode, then f000:fff0.
fn real_mode_resets() {
    const CODE16: u32 = 0x6_1000;
    const GDT: u32 = 0x6_2000;
    let mut g = Asm::new();
    // A 16-bit code segment at CODE16, with a limit of 64 KiB.
    let descriptor = 0x0000_9b00_0000_ffff_u64 | u64::from(CODE16) << 16;
    g.store32(GDT + 8, descriptor as u32);
    g.store32(GDT + 12, (descriptor >> 32) as u32);
    g.store(Width::Word, GDT + 0x100, 0x0f);
    g.store32(GDT + 0x102, GDT);
    g.code(|a| a.lgdt(ptr(GDT + 0x100)));
    let code = real_mode(|a| {
        a.mov(eax, cr0)?;
        a.and(al, 0xfe)?;
        a.mov(cr0, eax)?;
        a.jmp_far(0xf000, 0xfff0)
    });
    g.store_bytes(CODE16, &code).code(|a| a.jmp_far(8, 0));
    // A jump that went wrong would be a triple fault.
    let ended = Vm::new(g).no_reboot().run();
    assert_eq!(ended.exit.unwrap(), Exit::Reboot);
}

/// A reset removes what the guest added to its time-stamp counter; the counter goes on.
fn the_time_stamp_counter_is_restored() {
    const COUNTER: u32 = 0x10;
    const ADJUST: u32 = 0x3b;
    // The high half is enough.
    let show = |g: &mut Asm| {
        for msr in [COUNTER, ADJUST] {
            g.mov_ecx(msr).code(|a| {
                a.rdmsr()?;
                a.mov(eax, edx)
            });
            g.print_eax();
        }
    };
    let g = twice(
        |g| {
            show(g);
            // More ticks than a machine counts during the test.
            g.mov_ecx(ADJUST).mov_eax(0).mov_edx(0x1_0000);
            g.code(|a| a.wrmsr());
            show(g);
            g.reset();
        },
        show,
    );
    let numbers = Vm::new(g).run().numbers();
    let [1, fresh, 0, moved, 0x1_0000, 2, again, 0] = numbers[..] else {
        panic!("{numbers:x?}");
    };
    // A KVM without the hardware for it shows all guests the host's counter.
    if moved != fresh {
        assert!(
            (0x1_0000..0x1_0100).contains(&(moved - fresh)),
            "{numbers:x?}"
        );
    }
    assert!(
        (0..0x100).contains(&again.wrapping_sub(fresh)),
        "{numbers:x?}"
    );
}
