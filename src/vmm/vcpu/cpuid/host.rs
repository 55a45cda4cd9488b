//! CPUID of the host's own processor.

use std::arch::x86_64::{__cpuid, CpuidResult};

use crate::vcpu::cpuid::leaves::{AMD, HYGON};

/// MONITOR and MWAIT.
pub(super) const LEAF_MWAIT: u32 = 5;
/// Leaf 1: the processor has MONITOR and MWAIT (SDM volume 2A, CPUID).
pub(super) const ECX1_MONITOR: u32 = 1 << 3;

/// Whether AMD or Hygon made the host's processor. The guest's own leaf 0 may name somebody else.
pub fn is_amd() -> bool {
    let zero = leaf(0);
    let made_by = [zero.ebx, zero.edx, zero.ecx];
    made_by == *AMD || made_by == *HYGON
}

/// eax to edx of the host's leaf 5, if the processor has MONITOR and MWAIT. KVM reports neither the
/// leaf nor the feature.
pub fn mwait() -> Option<[u32; 4]> {
    if leaf(0).eax < LEAF_MWAIT || leaf(1).ecx & ECX1_MONITOR == 0 {
        return None;
    }
    let five = leaf(LEAF_MWAIT);
    Some([five.eax, five.ebx, five.ecx, five.edx])
}

#[allow(
    unused_unsafe,
    reason = "the intrinsic is safe in newer compilers alone"
)]
fn leaf(number: u32) -> CpuidResult {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { __cpuid(number) }
}
