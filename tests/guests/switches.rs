//! What `--cpus N,nested=,pmu=` takes from a guest, as the guest reads it.

use kvm_bindings::{KVM_CAP_PMU_CAPABILITY, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::Kvm;
use vmm::machine::MachineError;
use vmm::vcpu::cpuid::has_pmu;

use crate::Test;
use crate::common::asm::Asm;
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![
    the_guest_reads_what_it_may_have,
    counters_go_or_the_run_ends
];

const AMD_FEATURES: u32 = 0x8000_0001;
const SVM_FEATURES: u32 = 0x8000_000a;
const COUNTERS: u32 = 0xa;

/// Each leaf, its register (0 is eax) and the bits that a switch takes.
const NESTED: [(u32, usize, u32); 3] = [
    (1, 2, 1 << 5),
    (AMD_FEATURES, 2, 1 << 2),
    (SVM_FEATURES, 0, u32::MAX),
];
const PMU: [(u32, usize, u32); 2] = [(COUNTERS, 0, u32::MAX), (AMD_FEATURES, 2, 1 << 23)];

fn supported() -> kvm_bindings::CpuId {
    let kvm = Kvm::new().unwrap();
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap()
}

/// The bits that KVM has, which a guest with everything on reads.
fn host_bits((function, register, mask): (u32, usize, u32)) -> u32 {
    let supported = supported();
    let entries = supported.as_slice();
    let entry = entries
        .iter()
        .find(|e| e.function == function && e.index == 0);
    entry.map_or(0, |e| [e.eax, e.ebx, e.ecx, e.edx][register] & mask)
}

/// A guest that prints these bits.
fn reader(rows: &[(u32, usize, u32)]) -> Asm {
    let mut g = Asm::new();
    for (function, register, mask) in rows {
        g.mov_eax(*function).mov_ecx(0).code(|a| a.cpuid());
        if *register == 2 {
            g.code(|a| a.mov(iced_x86::code_asm::eax, iced_x86::code_asm::ecx));
        }
        let mask = *mask;
        g.code(|a| a.and(iced_x86::code_asm::eax, mask as i32))
            .print_eax();
    }
    g.power_off();
    g
}

fn the_guest_reads_what_it_may_have() {
    let whole: Vec<u32> = NESTED.iter().map(|row| host_bits(*row)).collect();
    let on = Vm::new(reader(&NESTED)).switches(true, true).run();
    assert_eq!(on.numbers(), whole);
    let off = Vm::new(reader(&NESTED)).run();
    assert_eq!(off.numbers(), [0; 3]);
    let whole: Vec<u32> = PMU.iter().map(|row| host_bits(*row)).collect();
    let on = Vm::new(reader(&PMU)).run();
    assert_eq!(on.numbers(), whole);
}

/// KVM takes the counters away, or there are none, or the run does not start.
fn counters_go_or_the_run_ends() {
    let can = Kvm::new()
        .unwrap()
        .check_extension_raw(KVM_CAP_PMU_CAPABILITY.into())
        > 0;
    let vm = Vm::new(reader(&PMU)).switches(false, false);
    if can || !has_pmu(&supported()) {
        assert_eq!(vm.run().numbers(), [0; 2]);
    } else {
        let error = vm.not_made();
        assert!(matches!(error, MachineError::PmuStays), "{error}");
        assert!(error.hint().unwrap().contains("pmu=off"));
    }
}
