//! Coalesced writes, which KVM keeps until the next exit: only the number of exits shows them.

use vmm::layout::{GSI_SERIAL, IOAPIC_ADDR, PORT_PCI_ADDRESS, PORT_PCI_DATA};

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{FakeDevice, ID};
use crate::irq_code::counter;
use crate::pci::SLOT;
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![
    characters_make_no_exits,
    more_than_the_ring_holds,
    a_guest_without_exits_is_heard,
    the_divisor_is_not_text,
    setting_up_a_line_makes_no_exits,
    a_register_is_one_exit,
    text_comes_before_the_end,
    an_address_is_everybodys,
    the_transmitter_interrupts,
];

const COM1: u16 = 0x3f8;
const INTERRUPT_ENABLE: u16 = COM1 + 1;
const IDENTIFICATION: u16 = COM1 + 2;
const FIFO_CONTROL: u16 = COM1 + 2;
const LINE_CONTROL: u16 = COM1 + 3;
const MODEM_CONTROL: u16 = COM1 + 4;
const LINE_STATUS: u16 = COM1 + 5;
const COM2: u16 = 0x2f8;
const DLAB: u8 = 0x80;

/// Dwords of RAM: a value that the guest read, the processor whose next it is, and how many have
/// started.
const SEEN: u32 = 0x7_2000;
const NEXT: u32 = SEEN + 4;
const STARTED: u32 = SEEN + 8;

/// Whether KVM coalesces port writes. If not, each write is an exit, and exits are not checked.
pub fn kept() -> bool {
    let kvm = kvm_ioctls::Kvm::new().unwrap();
    let kept = kvm.check_extension(kvm_ioctls::Cap::CoalescedPio);
    if !kept {
        println!("this KVM has no KVM_CAP_COALESCED_PIO: exits are not counted");
    }
    kept
}

/// Output as from Linux's console: a read of the line status, then a FIFO full of characters.
fn characters_make_no_exits() {
    let mut g = Asm::new();
    for _ in 0..8 {
        g.input(Width::Byte, LINE_STATUS).print("sixteen letters.");
    }
    g.power_off();
    let ended = Vm::new(g).run();
    let (ports, _) = ended.exits();
    // The guest never reads the sleep status. The power-off is one exit.
    assert!(!kept() || ports == 9, "{ports} exits");
    assert_eq!(ended.powered_off(), "sixteen letters.".repeat(8));
}

fn more_than_the_ring_holds() {
    let line = "0123456789abcdefghijklmnopqrstuvwxyz\n";
    let mut g = Asm::new();
    g.repeat(100, |g| {
        g.print(line);
    });
    g.power_off();
    let ended = Vm::new(g).run();
    let (ports, _) = ended.exits();
    // One of the ring's 170 entries stays empty, and the write that finds it full is an exit.
    assert!(!kept() || ports <= 3700 / 170 + 2, "{ports} exits");
    assert_eq!(ended.powered_off(), line.repeat(100));
}

fn a_guest_without_exits_is_heard() {
    let mut g = Asm::new();
    g.print("is anybody there").hang();
    let ended = Vm::new(g).run_beside(|live| {
        live.wait_for("is anybody there");
        live.end();
    });
    assert_eq!(ended.text, "is anybody there");
}

/// While DLAB is set, the data port is the divisor's low byte.
fn the_divisor_is_not_text() {
    let mut g = Asm::new();
    g.print("before ");
    g.outb(LINE_CONTROL, DLAB | 3)
        .outb(COM1, b'x')
        .outb(COM1, 0x0c);
    g.input(Width::Byte, COM1).store_eax(SEEN);
    g.outb(LINE_CONTROL, 3)
        .print("after ")
        .show(SEEN)
        .power_off();
    assert_eq!(Vm::new(g).run().powered_off(), "before after 0000000c\n");
}

/// Writes that set the line up are coalesced in order, and so are writes to a UART that does not
/// exist.
fn setting_up_a_line_makes_no_exits() {
    let mut g = Asm::new();
    for odd in 0..20 {
        g.outb(FIFO_CONTROL, 7).outb(LINE_CONTROL, 0x1a | odd & 1);
        g.outb(MODEM_CONTROL, 0x0a | odd & 1).outb(COM2 + 1, 0x0f);
    }
    g.input(Width::Byte, LINE_CONTROL).store_eax(SEEN);
    g.input(Width::Byte, MODEM_CONTROL).store_eax(SEEN + 4);
    g.show(SEEN).show(SEEN + 4).power_off();
    let ended = Vm::new(g).run();
    let (ports, _) = ended.exits();
    assert!(!kept() || ports == 3, "{ports} exits");
    assert_eq!(ended.numbers(), [0x1b, 0x0b]);
}

fn a_register_is_one_exit() {
    const READS: u32 = 50;
    let device = FakeDevice::new().into_arc();
    let mut g = Asm::new();
    g.repeat(READS, |g| {
        g.cfg_read(SLOT, 0, Width::Dword);
    });
    g.print_eax().power_off();
    let ended = Vm::new(g).device(&device).run();
    let (ports, _) = ended.exits();
    assert!(!kept() || ports == u64::from(READS) + 1, "{ports} exits");
    assert_eq!(ended.numbers(), [ID]);
}

/// One processor writes the address, the other reads the data.
fn an_address_is_everybodys() {
    const ROUNDS: u32 = 200;
    const HOST_BRIDGE: u32 = 0x0008_1b36;
    let device = FakeDevice::new().into_arc();
    let turns = [(u32::from(SLOT) << 11, ID), (0, HOST_BRIDGE)];
    let mut g = Asm::new();
    let other = g.label();
    let wait = |g: &mut Asm, next: u32| {
        let not_yet = g.here();
        g.pause().load32(NEXT).cmp_eax(next).jne(not_yet);
    };
    g.local_apic_on().start_others(other, STARTED);
    g.repeat(ROUNDS, |g| {
        for (_, id) in turns {
            let right = g.label();
            wait(g, 1);
            g.input(Width::Dword, PORT_PCI_DATA).cmp_eax(id).je(right);
            g.inc32(SEEN).bind(right).store32(NEXT, 0);
        }
    });
    g.show(SEEN).power_off();
    g.bind(other).repeat(ROUNDS, |g| {
        for (function, _) in turns {
            wait(g, 0);
            g.out(Width::Dword, PORT_PCI_ADDRESS, 1 << 31 | function);
            g.store32(NEXT, 1);
        }
    });
    let ended = Vm::new(g).cpus(2).device(&device).run();
    assert_eq!(ended.numbers(), [0]);
}

fn text_comes_before_the_end() {
    for end in [Asm::power_off, Asm::reset, Asm::triple_fault] {
        let mut g = Asm::new();
        end(g.print("the last words"));
        let ended = Vm::new(g).no_reboot().run();
        ended.exit.expect("an end");
        assert_eq!(ended.text, "the last words");
    }
}

/// A driver that waits for the interrupt after each FIFO full, and never reads the line status.
fn the_transmitter_interrupts() {
    const VECTOR: u8 = 0x41;
    let mut g = Asm::new();
    g.interrupts(&[VECTOR]);
    // The pin of the IOAPIC: edge, to processor 0.
    let entry = 0x10 + 2 * GSI_SERIAL;
    for (register, value) in [(entry + 1, 0), (entry, VECTOR.into())] {
        g.store32(IOAPIC_ADDR, register)
            .store32(IOAPIC_ADDR + 0x10, value);
    }
    g.outb(INTERRUPT_ENABLE, 2);
    for taken in 1..=4 {
        let not_yet = g.here();
        g.pause().load32(counter(VECTOR)).cmp_eax(taken).jb(not_yet);
        g.input(Width::Byte, IDENTIFICATION).store_eax(SEEN);
        g.print("sixteen letters.");
    }
    g.outb(INTERRUPT_ENABLE, 0).show(SEEN).power_off();
    let text = Vm::new(g).run().powered_off();
    assert_eq!(text, "sixteen letters.".repeat(4) + "000000c2\n");
}
