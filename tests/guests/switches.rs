//! What `--cpus N,nested=,pmu=` takes from a guest, as the guest reads it.

use iced_x86::code_asm::{eax, ebx, ecx, edx};
use kvm_bindings::{KVM_CAP_PMU_CAPABILITY, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_msr_entry};
use kvm_ioctls::Kvm;
use vmm::machine::MachineError;
use vmm::vcpu::cpuid::has_pmu;

use crate::Test;
use crate::common::asm::Asm;
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![
    the_guest_reads_what_it_may_have,
    counters_go_or_the_run_ends,
    misc_enable_agrees_with_the_counters,
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
    read(&mut g, rows);
    g.power_off();
    g
}

fn read(g: &mut Asm, rows: &[(u32, usize, u32)]) {
    for (function, register, mask) in rows {
        g.mov_eax(*function).mov_ecx(0).code(|a| a.cpuid());
        match register {
            0 => {}
            1 => drop(g.code(|a| a.mov(eax, ebx))),
            2 => drop(g.code(|a| a.mov(eax, ecx))),
            _ => drop(g.code(|a| a.mov(eax, edx))),
        }
        let mask = *mask;
        g.code(|a| a.and(eax, mask as i32)).print_eax();
    }
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

/// An MSR of a vCPU that KVM has just made.
fn of_new_vcpu(index: u32) -> u32 {
    let vm = Kvm::new().unwrap().create_vm().unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let entry = kvm_msr_entry {
        index,
        ..Default::default()
    };
    let mut msrs = Msrs::from_entries(&[entry]).unwrap();
    assert_eq!(vcpu.get_msrs(&mut msrs).unwrap(), 1);
    msrs.as_slice()[0].data as u32
}

/// IA32_MISC_ENABLE tells the same as CPUID (SDM volume 4, table 2-2): bit 7 is set if there are
/// counters. Bits 11 and 12, no branch trace store and no precise events, are read only where CPUID
/// has a debug store; they are KVM's, and since Linux 5.19 set in a new vCPU.
fn misc_enable_agrees_with_the_counters() {
    const MISC_ENABLE: u32 = 0x1a0;
    const INTEL: u32 = u32::from_le_bytes(*b"Genu");
    const COUNTING: u32 = 1 << 7;
    const NO_BRANCHES: u32 = 1 << 11;
    const NO_PRECISE_EVENTS: u32 = 1 << 12;
    const DEBUG_STORE: u32 = 1 << 21;
    let vendor = host_bits((0, 1, u32::MAX));
    if vendor != INTEL {
        let vendor = vendor.to_le_bytes();
        let vendor = String::from_utf8_lossy(&vendor);
        return println!(
            "SKIPPED: the processor is of {vendor:?}: only Intel's have IA32_MISC_ENABLE and a \
             leaf 0xa to compare it with"
        );
    }
    let rows = [(COUNTERS, 0, 0xff), (1, 3, DEBUG_STORE)];
    for pmu in [true, false] {
        let mut g = Asm::new();
        read(&mut g, &rows);
        g.mov_ecx(MISC_ENABLE).code(|a| a.rdmsr());
        g.print_eax().power_off();
        let [version, store, misc] = Vm::new(g).switches(false, pmu).run().numbers()[..] else {
            panic!("three numbers");
        };
        let bits = misc & (COUNTING | NO_BRANCHES | NO_PRECISE_EVENTS);
        println!("pmu={pmu}: version {version}, debug store {store:#x}, MISC_ENABLE {misc:#x}");
        assert_eq!(bits & COUNTING != 0, version != 0, "{misc:#x}");
        assert!(pmu || version == 0, "{version}");
        let none = NO_BRANCHES | NO_PRECISE_EVENTS;
        assert_eq!(bits & none, of_new_vcpu(MISC_ENABLE) & none, "{misc:#x}");
    }
}
