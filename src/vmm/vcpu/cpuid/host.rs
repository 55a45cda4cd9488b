//! CPUID of the host's own processor.

use crate::vcpu::cpuid::leaves::{AMD, HYGON};

/// MONITOR and MWAIT.
pub(super) const LEAF_MWAIT: u32 = 5;
/// Leaf 1: the processor has MONITOR and MWAIT (SDM volume 2A, CPUID).
pub(super) const ECX1_MONITOR: u32 = 1 << 3;

/// eax to edx of the host's leaf 5, if the processor has MONITOR and MWAIT. KVM reports neither the
/// leaf nor the feature.
#[allow(
    unused_unsafe,
    reason = "the intrinsic is safe in newer compilers alone"
)]
pub fn mwait() -> Option<[u32; 4]> {
    // SAFETY: every x86-64 processor has the instruction.
    let leaf = |n| unsafe { std::arch::x86_64::__cpuid(n) };
    if leaf(0).eax < LEAF_MWAIT || leaf(1).ecx & ECX1_MONITOR == 0 {
        return None;
    }
    let five = leaf(LEAF_MWAIT);
    Some([five.eax, five.ebx, five.ecx, five.edx])
}

/// Whether the processor is AMD's, or Hygon's of AMD's design.
#[allow(
    unused_unsafe,
    reason = "the intrinsic is safe in newer compilers alone"
)]
pub fn is_amd() -> bool {
    // SAFETY: every x86-64 processor has the instruction.
    let zero = unsafe { std::arch::x86_64::__cpuid(0) };
    let made_by = [zero.ebx, zero.edx, zero.ecx];
    made_by == *AMD || made_by == *HYGON
}
