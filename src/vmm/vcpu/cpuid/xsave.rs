//! Leaf 0xD: the state components that XSAVE handles, their offsets, and the features that need
//! them.
//!
//! SDM volume 1, chapter 13. Linux adds up the components' sizes and compares the sum with the size
//! that CPUID reports (`paranoid_xstate_size_valid`). If they differ, Linux disables XSAVE, and AVX
//! with it. Whenever the guest sets XCR0 or XSS, KVM recomputes the reported sizes out of the
//! host's subleaves. So subleaves are passed on unchanged or not at all. A component is kept only
//! if its subleaf and its features exist and Linux would compute the same sum as KVM.
//!
//! x87, SSE, AVX, AVX-512, PKRU and both components of CET are kept. The others are dropped, with
//! the features that need them: AMX needs a permission that the VMM does not request
//! (arch_prctl(2), ARCH_REQ_XCOMP_GUEST_PERM), Linux no longer supports MPX and LWP, and no host
//! has APX yet.
//!
//! If QEMU's TCG emulates the host, XSAVE is removed, see [`is_tcg`].

use crate::vcpu::cpuid::leaves::{AMD, Leaves};

const FUNCTION: u32 = 0xd;
const ECX1_XSAVE: u32 = 1 << 26;

const X87: u64 = 1 << 0;
const SSE: u64 = 1 << 1;
const AVX: u64 = 1 << 2;
const MPX: u64 = 1 << 3 | 1 << 4;
const AVX512: u64 = 1 << 5 | 1 << 6 | 1 << 7;
const PKRU: u64 = 1 << 9;
const CET: u64 = 1 << 11 | 1 << 12;
const AMX: u64 = 1 << 17 | 1 << 18;
const APX: u64 = 1 << 19;
const LWP: u64 = 1 << 62;

/// Components that may be offered in XCR0 (`USER`) and in IA32_XSS (`SUPERVISOR`).
const USER: u64 = X87 | SSE | AVX | AVX512 | PKRU;
const SUPERVISOR: u64 = CET;

/// Bytes before the first extended component: the legacy area and the XSAVE header.
const BASE_SIZE: u32 = 512 + 64;

// Subleaf 1, eax.
const XSAVEC: u32 = 1 << 1;
const XSAVES: u32 = 1 << 3;
const XFD: u32 = 1 << 4;

#[derive(Clone, Copy)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}
use Register::{Eax, Ebx, Ecx, Edx};

/// Feature bits and the components that they need: components, function, index, register, bits.
const NEEDS: &[(u64, u32, u32, Register, u32)] = &[
    // FMA, AVX, F16C
    (AVX, 1, 0, Ecx, 1 << 12 | 1 << 28 | 1 << 29),
    // AVX2
    (AVX, 7, 0, Ebx, 1 << 5),
    // VAES, VPCLMULQDQ
    (AVX, 7, 0, Ecx, 1 << 9 | 1 << 10),
    // SHA512, SM3, SM4, AVX-VNNI, AVX-IFMA
    (AVX, 7, 1, Eax, 1 << 0 | 1 << 1 | 1 << 2 | 1 << 4 | 1 << 23),
    // AVX-VNNI-INT8, AVX-NE-CONVERT, AVX-VNNI-INT16
    (AVX, 7, 1, Edx, 1 << 4 | 1 << 5 | 1 << 10),
    // XOP, FMA4
    (AVX, 0x8000_0001, 0, Ecx, 1 << 11 | 1 << 16),
    // AVX512F, DQ, IFMA, PF, ER, CD, BW, VL
    (
        AVX | AVX512,
        7,
        0,
        Ebx,
        1 << 16 | 1 << 17 | 1 << 21 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 30 | 1 << 31,
    ),
    // AVX512_VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ
    (
        AVX | AVX512,
        7,
        0,
        Ecx,
        1 << 1 | 1 << 6 | 1 << 11 | 1 << 12 | 1 << 14,
    ),
    // AVX512_4VNNIW, 4FMAPS, VP2INTERSECT, FP16
    (AVX | AVX512, 7, 0, Edx, 1 << 2 | 1 << 3 | 1 << 8 | 1 << 23),
    // AVX512_BF16
    (AVX | AVX512, 7, 1, Eax, 1 << 5),
    // AVX10
    (AVX | AVX512, 7, 1, Edx, 1 << 19),
    // PKU; OSPKE mirrors CR4
    (PKRU, 7, 0, Ecx, 1 << 3 | 1 << 4),
    // CET_SS; CET_IBT
    (CET, 7, 0, Ecx, 1 << 7),
    (CET, 7, 0, Edx, 1 << 20),
    (MPX, 7, 0, Ebx, 1 << 14),
    // AMX-BF16, -TILE, -INT8; -FP16; -COMPLEX
    (AMX, 7, 0, Edx, 1 << 22 | 1 << 24 | 1 << 25),
    (AMX, 7, 1, Eax, 1 << 21),
    (AMX, 7, 1, Edx, 1 << 8),
    (APX, 7, 1, Edx, 1 << 21),
    (LWP, 0x8000_0001, 0, Ecx, 1 << 15),
];

/// Groups of components, each with a feature bit that it requires. A component without its feature
/// must be dropped, because Linux would not count it.
const FEATURE_OF: &[(u64, u32, u32, Register, u32)] = &[
    (AVX | AVX512, 1, 0, Ecx, 1 << 28),
    (AVX512, 7, 0, Ebx, 1 << 16),
    (PKRU, 7, 0, Ecx, 1 << 3),
];

/// A component's subleaf.
#[derive(Clone, Copy)]
struct Component {
    size: u32,
    /// Offset in the standard format.
    offset: u32,
    supervisor: bool,
    /// Whether the component is aligned to 64 bytes in the compacted format.
    aligned: bool,
}

/// Makes leaf 0xD and the features that need it agree.
pub(super) fn fix(leaves: &mut Leaves) {
    let main = leaves.get(FUNCTION, 0).copied();
    let has_xsave = register(leaves, 1, 0, Ecx) & ECX1_XSAVE != 0 && !is_tcg(leaves);
    let Some(main) = main.filter(|_| has_xsave) else {
        leaves.change(1, 0, |e| e.ecx &= !ECX1_XSAVE);
        leaves.remove(FUNCTION);
        drop_features(leaves, 0);
        return;
    };
    let one = leaves.get(FUNCTION, 1).copied().unwrap_or_default();
    let offered = u64::from(main.eax) | u64::from(main.edx) << 32;
    let offered_xss = u64::from(one.ecx) | u64::from(one.edx) << 32;

    let mut user = offered & USER & (X87 | SSE | subleaves(leaves, false)) | X87 | SSE;
    // The size that KVM reports for all offered components must agree with KVM's subleaves.
    if standard_size(leaves, offered & (X87 | SSE | subleaves(leaves, false))) != Some(main.ecx) {
        user &= X87 | SSE;
    }
    for &(components, function, index, reg, bit) in FEATURE_OF {
        if register(leaves, function, index, reg) & bit == 0 {
            user &= !components;
        }
    }
    if user & AVX512 != AVX512 || user & AVX == 0 {
        user &= !AVX512;
    }

    let mut instructions = one.eax & !XFD;
    let compacted = instructions & (XSAVEC | XSAVES) != 0;
    let all = subleaves(leaves, false) | subleaves(leaves, true) | X87 | SSE;
    let sum = compacted_size(leaves, (offered | offered_xss) & all);
    if compacted && sum != Some(one.ebx) {
        instructions &= !(XSAVEC | XSAVES);
    }
    let mut supervisor = offered_xss & SUPERVISOR & subleaves(leaves, true);
    let has_cet =
        register(leaves, 7, 0, Ecx) & 1 << 7 != 0 || register(leaves, 7, 0, Edx) & 1 << 20 != 0;
    if instructions & XSAVES == 0 || supervisor != CET || !has_cet {
        supervisor = 0;
    }

    let kept = user | supervisor;
    let size = standard_size(leaves, user).unwrap_or(BASE_SIZE);
    // XCR0 has only x87 when a vCPU starts. From then on KVM updates ebx of both subleaves.
    leaves.put(
        FUNCTION,
        Some(0),
        [user as u32, BASE_SIZE, size, (user >> 32) as u32],
    );
    let current = if instructions & (XSAVEC | XSAVES) == 0 {
        0
    } else {
        BASE_SIZE
    };
    leaves.put(
        FUNCTION,
        Some(1),
        [
            instructions,
            current,
            supervisor as u32,
            (supervisor >> 32) as u32,
        ],
    );
    leaves
        .0
        .retain(|e| e.function != FUNCTION || e.index < 2 || kept & bit(e.index) != 0);
    drop_features(leaves, kept);
}

/// Whether QEMU's TCG emulates the host's processor (`-cpu max`). TCG reports an AMD K8 (family
/// 0xF, APM volume 3, E.3.2) with XSAVE, and no real K8 has XSAVE. KVM does not pass on the brand
/// string.
///
/// Before QEMU 8.2, TCG's SVM executes the guest's XSETBV without an exit, so KVM never learns
/// XCR0. Leaf 0xD goes on reporting 576 bytes, and Linux reports an "XSAVE consistency problem".
/// The next VM entry sets XCR0 to the value that KVM knows, although the guest relies on its own
/// value to save registers.
fn is_tcg(leaves: &Leaves) -> bool {
    const FAMILY: u32 = 0x0ff0_0f00;
    const K8: u32 = 0x0000_0f00;
    let zero = leaves.get(0, 0).map(|e| [e.ebx, e.edx, e.ecx]);
    zero.as_ref() == Some(AMD) && register(leaves, 1, 0, Eax) & FAMILY == K8
}

/// Clears the features that need a dropped component, and AMX's own leaves.
fn drop_features(leaves: &mut Leaves, kept: u64) {
    for &(components, function, index, reg, bits) in NEEDS {
        if components & !kept != 0 {
            leaves.change(function, index, |e| match reg {
                Eax => e.eax &= !bits,
                Ebx => e.ebx &= !bits,
                Ecx => e.ecx &= !bits,
                Edx => e.edx &= !bits,
            });
        }
    }
    if kept & AMX != AMX {
        leaves.remove(0x1d);
        leaves.remove(0x1e);
    }
}

fn bit(index: u32) -> u64 {
    1u64.checked_shl(index).unwrap_or(0)
}

/// A register of an entry; zero if the entry is missing.
fn register(leaves: &Leaves, function: u32, index: u32, reg: Register) -> u32 {
    leaves.get(function, index).map_or(0, |e| match reg {
        Eax => e.eax,
        Ebx => e.ebx,
        Ecx => e.ecx,
        Edx => e.edx,
    })
}

/// A component's subleaf, if there is one and its size is not zero.
fn component(leaves: &Leaves, index: u32) -> Option<Component> {
    let e = leaves.get(FUNCTION, index).filter(|e| e.eax != 0)?;
    Some(Component {
        size: e.eax,
        offset: e.ebx,
        supervisor: e.ecx & 1 != 0,
        aligned: e.ecx & 2 != 0,
    })
}

/// The extended components that have a subleaf: those of XSS if `supervisor`, or else those of
/// XCR0.
fn subleaves(leaves: &Leaves, supervisor: bool) -> u64 {
    (2..63)
        .filter(|&i| component(leaves, i).is_some_and(|c| c.supervisor == supervisor))
        .fold(0, |mask, i| mask | bit(i))
}

/// Bytes in the standard format: the end of the component that ends last. None on overflow.
fn standard_size(leaves: &Leaves, mask: u64) -> Option<u32> {
    let mut size = BASE_SIZE;
    for i in (2..63).filter(|&i| mask & bit(i) != 0) {
        let c = component(leaves, i)?;
        size = size.max(c.offset.checked_add(c.size)?);
    }
    Some(size)
}

/// Bytes in the compacted format: components one after the other. None on overflow.
fn compacted_size(leaves: &Leaves, mask: u64) -> Option<u32> {
    let mut size = BASE_SIZE;
    for i in (2..63).filter(|&i| mask & bit(i) != 0) {
        let c = component(leaves, i)?;
        if c.aligned {
            size = size.checked_next_multiple_of(64)?;
        }
        size = size.checked_add(c.size)?;
    }
    Some(size)
}
