//! Processors whose APIC ids have a gap.

use vmm::config::topology::{Topology, Wish};

use crate::Test;
use crate::common::asm::Asm;
use crate::vm::Vm;

pub const TESTS: &[Test] = &[("ids_are_the_same_wherever", ids_are_the_same_wherever)];

/// Dwords of RAM: how many have started and are done, and what each found, by its id.
const STARTED: u32 = 0x7_2000;
const DONE: u32 = STARTED + 4;
const FOUND: u32 = STARTED + 0x10;

const LEAF_TOPOLOGY: u32 = 0xb;
const APIC_ID: u32 = 0xfee0_0020;

/// Writes the local APIC's id plus one to the dword that CPUID's id chooses.
fn find_id(g: &mut Asm) {
    g.mov_eax(LEAF_TOPOLOGY).mov_ecx(0).emit(&[0x0f, 0xa2]); // cpuid
    g.load32(APIC_ID);
    // shr eax, 24; inc eax; mov [FOUND + edx * 4], eax
    g.emit(&[0xc1, 0xe8, 0x18, 0x40, 0x89, 0x04, 0x95]);
    g.emit(&FOUND.to_le_bytes()).lock_inc32(DONE);
}

/// In CPUID, in the local APIC, and for KVM, which starts each.
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
