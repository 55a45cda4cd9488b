//! What the user can take from a guest: virtualisation and performance counters.

use kvm_bindings::CpuId;

use crate::vcpu::cpuid::leaves::{Leaves, set};

// Leaf 1 (SDM volume 2A, CPUID).
const ECX1_DTES64: u32 = 1 << 2;
const ECX1_DS_CPL: u32 = 1 << 4;
const ECX1_VMX: u32 = 1 << 5;
const ECX1_PDCM: u32 = 1 << 15;
const EDX1_DS: u32 = 1 << 21;
// Leaf 7.
const EDX7_ARCH_LBR: u32 = 1 << 19;
/// Index 1: leaf 0x23 has more about the counters.
const EAX7_1_PERFMON_EXT: u32 = 1 << 8;
/// Intel's counters, branch records, and more about counters.
const LEAF_COUNTERS: u32 = 0xa;
const LEAF_LBR: u32 = 0x1c;
const LEAF_PERFMON_EXT: u32 = 0x23;
// AMD (APM volume 3, E.4).
const LEAF_AMD_FEATURES: u32 = 0x8000_0001;
const ECX_SVM: u32 = 1 << 2;
const ECX_IBS: u32 = 1 << 10;
const ECX_SKINIT: u32 = 1 << 12;
const ECX_PERFCTR_CORE: u32 = 1 << 23;
const ECX_PERFCTR_NB: u32 = 1 << 24;
const ECX_PERF_TSC: u32 = 1 << 27;
const ECX_PERFCTR_LLC: u32 = 1 << 28;
const LEAF_SVM: u32 = 0x8000_000a;
const LEAF_IBS: u32 = 0x8000_001b;
const LEAF_AMD_COUNTERS: u32 = 0x8000_0022;

/// Takes VMX and SVM away. KVM then refuses the MSRs of VMX, and the bits of IA32_FEATURE_CONTROL
/// and EFER that turn virtualisation on (arch/x86/kvm/vmx/vmx.c, x86.c, guest_cpu_cap_has).
pub(super) fn without_nested(leaves: &mut Leaves) {
    leaves.change(1, 0, |e| e.ecx &= !ECX1_VMX);
    leaves.change(LEAF_AMD_FEATURES, 0, |e| e.ecx &= !(ECX_SVM | ECX_SKINIT));
    leaves.change(LEAF_SVM, 0, |e| set(e, [0; 4]));
}

/// Takes the performance counters away, with what depends on them.
pub(super) fn without_pmu(leaves: &mut Leaves) {
    leaves.change(1, 0, |e| {
        e.ecx &= !(ECX1_DTES64 | ECX1_DS_CPL | ECX1_PDCM);
        e.edx &= !EDX1_DS;
    });
    leaves.change(7, 0, |e| e.edx &= !EDX7_ARCH_LBR);
    leaves.change(7, 1, |e| e.eax &= !EAX7_1_PERFMON_EXT);
    leaves.change(LEAF_AMD_FEATURES, 0, |e| {
        e.ecx &= !(ECX_IBS | ECX_PERFCTR_CORE | ECX_PERFCTR_NB | ECX_PERF_TSC | ECX_PERFCTR_LLC);
    });
    for function in [LEAF_COUNTERS, LEAF_IBS, LEAF_AMD_COUNTERS] {
        leaves.change(function, 0, |e| set(e, [0; 4]));
    }
    leaves.remove(LEAF_LBR);
    leaves.remove(LEAF_PERFMON_EXT);
}

/// Whether the leaves that KVM supports show performance counters.
pub fn has_pmu(supported: &CpuId) -> bool {
    let find = |function| {
        let mut entries = supported.as_slice().iter();
        entries.find(|e| e.function == function && e.index == 0)
    };
    find(LEAF_COUNTERS).is_some_and(|e| e.eax & 0xff != 0)
        || find(LEAF_AMD_FEATURES).is_some_and(|e| e.ecx & ECX_PERFCTR_CORE != 0)
        || find(LEAF_AMD_COUNTERS).is_some_and(|e| e.eax & 1 != 0)
}
