//! Processors whose APIC ids have a gap, and as many processors as a guest can have.

use iced_x86::code_asm::{byte_ptr, dword_ptr, eax, edx, esp};
use vmm::config::topology::MAX_APIC_ID;
use vmm::config::topology::{Topology, Wish};

use crate::Test;
use crate::common::asm::Asm;
use crate::device::{ACKNOWLEDGE, ASK, DOORBELL, FakeDevice};
use crate::irq_code::ENABLE;
use crate::pci::MEMORY;
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![ids_are_the_same_wherever, the_last_of_255_has_interrupts];

/// Dwords of RAM: how many processors have started, how many are done, and the ids they found.
const STARTED: u32 = 0x7_2000;
const DONE: u32 = STARTED + 4;
const FOUND: u32 = STARTED + 0x10;

const LEAF_TOPOLOGY: u32 = 0xb;
const APIC_ID: u32 = 0xfee0_0020;

/// Writes the local APIC's id plus one to the dword that CPUID's id chooses.
fn find_id(g: &mut Asm) {
    g.mov_eax(LEAF_TOPOLOGY).mov_ecx(0).code(|a| a.cpuid());
    g.load32(APIC_ID).code(|a| {
        a.shr(eax, 24)?;
        a.inc(eax)?;
        a.mov(dword_ptr(edx * 4 + FOUND), eax)
    });
    g.lock_inc32(DONE);
}

/// The id is the same in CPUID, in the local APIC, and for KVM, which starts each processor.
fn ids_are_the_same_wherever() {
    let wish = Wish {
        sockets: Some(2),
        cores: Some(3),
        threads: None,
    };
    let topology = Topology::new(6, wish).unwrap();
    let mut g = Asm::new();
    let other = g.label();
    g.local_apic_on().start_others(other, STARTED);
    find_id(&mut g);
    let not_yet = g.here();
    g.pause().load32(DONE).cmp_eax(6).jne(not_yet);
    for id in 0..8 {
        g.show(FOUND + 4 * id);
    }
    g.power_off().bind(other);
    find_id(&mut g);
    g.hang();
    let ended = Vm::new(g).topology(topology).run();
    assert_eq!(ended.numbers(), [1, 2, 3, 0, 5, 6, 7, 0]);
}

/// 255 processors start, each with an id of its own. Only the last one takes interrupts: a message,
/// a pin's level and the serial port's edge.
fn the_last_of_255_has_interrupts() {
    const LAST: u8 = MAX_APIC_ID as u8;
    /// A byte for each id.
    const SEEN: u32 = 0x7_3000;
    const STACK: u32 = 0x5_f000;
    /// The IOAPIC's pins of slot 1 and of the serial port.
    const PIN: u32 = 17;
    const SERIAL: u32 = 4;
    const MESSAGE: u8 = 0x41;
    const LEVEL: u8 = 0x52;
    const EDGE: u8 = 0x63;
    let device = FakeDevice::new().with_resampled_pin().into_arc();
    let mut g = Asm::new();
    let (other, parked) = (g.label(), g.label());
    g.level_handler(LEVEL, ACKNOWLEDGE)
        .interrupts(&[MESSAGE, EDGE]);
    g.cli().start_others(other, STARTED);
    let not_yet = g.here();
    g.pause().load32(DONE).cmp_eax(LAST.into()).jne(not_yet);
    g.command(MEMORY)
        .ioapic_level(PIN, LEVEL)
        .ioapic_to(PIN, LAST);
    g.store32(ASK, 1).await_count(LEVEL, 1);
    g.ioapic_edge(SERIAL, EDGE).ioapic_to(SERIAL, LAST);
    // The transmitter's register is empty (16550, interrupt enable register).
    g.outb(0x3f9, 2).await_count(EDGE, 1);
    g.msix_control(ENABLE).unmask_with(0, MESSAGE);
    g.message_to(0, LAST)
        .store32(DOORBELL, 0)
        .await_count(MESSAGE, 1);
    for id in (0..=LAST).step_by(4) {
        g.show(SEEN + u32::from(id));
    }
    g.power_off().bind(other);
    g.mov_eax(LEAF_TOPOLOGY).mov_ecx(0).code(|a| {
        a.cpuid()?;
        a.inc(byte_ptr(edx + SEEN))?;
        a.mov(esp, STACK)?;
        a.cmp(edx, u32::from(LAST))
    });
    g.jne(parked).take_interrupts().lock_inc32(DONE).hang();
    g.bind(parked).lock_inc32(DONE);
    let again = g.here();
    g.code(|a| a.hlt()).jmp(again);
    let ended = Vm::new(g).cpus(255).device(&device).run();
    let mut all = [0x0101_0101; 64];
    all[0] = 0x0101_0100;
    all[63] = 0x0001_0101;
    assert_eq!(ended.numbers(), all);
}
