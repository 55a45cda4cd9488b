//! Processors whose APIC ids have a gap.

use iced_x86::code_asm::{dword_ptr, eax, edx};
use vmm::config::topology::{Topology, Wish};

use crate::Test;
use crate::common::asm::Asm;
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![ids_are_the_same_wherever];

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
