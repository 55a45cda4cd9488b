//! The CPUID of a vCPU: the leaves that KVM supports, made consistent for one vCPU of this VM.
//!
//! A pure function over the entries of KVM_GET_SUPPORTED_CPUID (Documentation/virt/kvm/api.rst,
//! 4.46). These entries list what KVM can pass on; they do not describe a processor: the topology
//! is the host's, and some features need help from userspace. The following leaves are changed, in
//! this order:
//!
//! - Leaf 1: HYPERVISOR is on, so that the guest looks for KVM's leaves; x2APIC is on, which KVM
//!   emulates. MONITOR is off unless the user wants it, since MWAIT in the guest keeps a host CPU
//!   busy. OSXSAVE is off, because it mirrors CR4. TSC_DEADLINE follows KVM's capability, because
//!   KVM does not report it in CPUID.
//! - Leaves 1, 4, 0xB, 0x1F, 0x80000001, 0x80000008, 0x8000001D and 0x8000001E: sockets, cores,
//!   threads and the caches that they share, see `topology`. The guest's topology differs from the
//!   host's, and all leaves that Linux may read must agree. Leaf 0x80000026, AMD's newest topology
//!   leaf, is removed; the older ones suffice.
//! - Leaves 7 and 0x12: no SGX, since the guest gets no enclave memory.
//! - Leaf 0x8000001F: zero. No guest of this VMM has encrypted memory, so there is no encryption
//!   bit.
//! - Leaf 5: the host's leaf if MONITOR is on, zero if MONITOR is off.
//! - Leaf 0xD and the features that need XSAVE: components, sizes and features must agree, see
//!   `xsave`.
//! - Leaf 0x15, on Intel: a crystal of 1 GHz and the TSC's ratio. The local APIC's timer runs at
//!   1 GHz in KVM, and Linux takes that frequency from this leaf.
//! - Leaves 0x40000000 and 0x40000001: KVM's signature and features, without asynchronous page
//!   faults. Pinned guest RAM never faults in the host. KVM_HINTS_REALTIME is on if each vCPU has a
//!   host CPU of its own: then spinning is better than yielding.
//! - Leaf 0x40000010: the frequencies of TSC and APIC bus in kHz, so that a guest need not
//!   calibrate.
//!
//! - Virtualisation and performance counters, if the user does not want them, see `switches`.
//!
//! All other leaves, the physical address bits among them, stay as KVM reports them.

pub mod host;
mod leaves;
mod switches;
mod topology;
mod xsave;

use kvm_bindings::CpuId;
pub use switches::has_pmu;

use crate::config::topology::Topology;
use crate::vcpu::cpuid::host::{ECX1_MONITOR, LEAF_MWAIT};
use crate::vcpu::cpuid::leaves::{AMD, HYGON, INTEL, Leaves, set, vendor};
use crate::vcpu::cpuid::topology::VcpuPosition;

/// The reason why the CPUID of a vCPU cannot be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CpuidError {
    /// The VM has no such vCPU.
    #[error("there is no vCPU {vcpu} among {cpus}")]
    NoSuchCpu {
        /// The index that was given.
        vcpu: u32,
        /// The number of vCPUs.
        cpus: u32,
    },
    /// KVM does not report a leaf that every x86-64 processor has.
    #[error("KVM_GET_SUPPORTED_CPUID has no leaf {0:#x}")]
    MissingLeaf(u32),
    /// More entries than KVM_SET_CPUID2 takes.
    #[error("{0} CPUID entries are more than KVM takes")]
    TooMany(usize),
}

const LEAF_TSC: u32 = 0x15;
const LEAF_KVM: u32 = 0x4000_0000;
const LEAF_KVM_FEATURES: u32 = 0x4000_0001;
/// The timing leaf, which VMware defined and other hypervisors adopted.
const LEAF_TIMING: u32 = 0x4000_0010;

/// Frequency of the APIC bus: KVM's local APIC timer counts nanoseconds
/// (APIC_BUS_CYCLE_NS_DEFAULT).
const APIC_BUS_KHZ: u32 = 1_000_000;

// Leaf 1 (SDM volume 2A, CPUID).
const ECX1_X2APIC: u32 = 1 << 21;
const ECX1_TSC_DEADLINE: u32 = 1 << 24;
const ECX1_OSXSAVE: u32 = 1 << 27;
const ECX1_HYPERVISOR: u32 = 1 << 31;
// Leaf 7.
const EBX7_SGX: u32 = 1 << 2;
const ECX7_SGX_LC: u32 = 1 << 30;
/// AMD's leaf of power management and of reliability (AMD64 manual volume 3, E.4.6), with the
/// recovery of an overflow of the machine-check banks and of uncorrected errors.
const LEAF_POWER_RAS: u32 = 0x8000_0007;
const EBX_MCA_RECOVERY: u32 = 1 << 0 | 1 << 1;
/// KVM_HINTS_REALTIME, in edx of the same leaf.
const KVM_HINTS_REALTIME: u32 = 1 << 0;
/// KVM_FEATURE_ASYNC_PF, _VMEXIT and _INT (Documentation/virt/kvm/x86/cpuid.rst).
const KVM_ASYNC_PF: u32 = 1 << 4 | 1 << 10 | 1 << 14;

/// The facts that all vCPUs of a VM have in common.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traits {
    /// The number of vCPUs, and their sockets, cores and threads.
    pub topology: Topology,
    /// The answer of KVM_GET_TSC_KHZ.
    pub tsc_khz: Option<u32>,
    /// Whether KVM has KVM_CAP_TSC_DEADLINE_TIMER.
    pub tsc_deadline: bool,
    /// eax to edx of the host's leaf 5, if MWAIT runs in the guest.
    pub mwait: Option<[u32; 4]>,
    /// Whether each vCPU has a host CPU to itself.
    pub dedicated: bool,
    /// Whether the guest can be a host of guests itself.
    pub nested: bool,
    /// Whether the guest has performance counters.
    pub pmu: bool,
}

/// The CPUID of one vCPU, for KVM_SET_CPUID2.
///
/// `vcpu` counts from 0; its APIC ID is the topology's.
///
/// # Errors
///
/// There is no such vCPU; `supported` lacks leaf 0 or 1, or is too long for the added leaves.
pub fn for_vcpu(supported: &CpuId, vcpu: u32, traits: &Traits) -> Result<CpuId, CpuidError> {
    let Traits {
        topology, tsc_khz, ..
    } = traits;
    let cpus = topology.cpus();
    if vcpu >= cpus {
        return Err(CpuidError::NoSuchCpu { vcpu, cpus });
    }
    let mut leaves = Leaves::new(supported.as_slice());
    let Some(zero) = leaves.get(0, 0) else {
        return Err(CpuidError::MissingLeaf(0));
    };
    let (max_leaf, made_by) = (zero.eax, [zero.ebx, zero.edx, zero.ecx]);
    if leaves.get(1, 0).is_none() {
        return Err(CpuidError::MissingLeaf(1));
    }
    basic_features(&mut leaves, traits);
    let amd = made_by == *AMD || made_by == *HYGON;
    VcpuPosition { topology, vcpu }.describe(&mut leaves, max_leaf, amd);
    // No enclaves.
    leaves.remove(0x12);
    leaves.change(7, 0, |e| {
        e.ebx &= !EBX7_SGX;
        e.ecx &= !ECX7_SGX_LC;
    });
    leaves.change(0x8000_001f, 0, |e| set(e, [0; 4]));
    // A machine check for a lost page names the page, and the processor goes on. Without these
    // bits Linux takes each uncorrected error on AMD as fatal (`mce_severity_amd`).
    if amd {
        leaves.change(LEAF_POWER_RAS, 0, |e| e.ebx |= EBX_MCA_RECOVERY);
    }
    match traits.mwait {
        Some(registers) => leaves.put(LEAF_MWAIT, None, registers),
        None => leaves.change(LEAF_MWAIT, 0, |e| set(e, [0; 4])),
    }
    xsave::fix(&mut leaves);
    if let (&Some(khz), true) = (tsc_khz, made_by == *INTEL && max_leaf >= LEAF_TSC) {
        let (denominator, numerator) = tsc_ratio(khz);
        leaves.put(
            LEAF_TSC,
            None,
            [denominator, numerator, APIC_BUS_KHZ * 1000, 0],
        );
    }
    if !traits.nested {
        switches::without_nested(&mut leaves);
    }
    if !traits.pmu {
        switches::without_pmu(&mut leaves);
    }
    hypervisor(&mut leaves, traits);
    let entries = leaves.0;
    CpuId::from_entries(&entries).map_err(|_| CpuidError::TooMany(entries.len()))
}

/// Returns the ratio of TSC to crystal, as (denominator, numerator), that comes nearest to a TSC of
/// `khz`: TSC in Hz = ecx * ebx / eax. Linux multiplies the crystal's kHz by the numerator in 32
/// bits (`native_calibrate_tsc`), which bounds the numerator.
fn tsc_ratio(khz: u32) -> (u32, u32) {
    const CRYSTAL: u64 = APIC_BUS_KHZ as u64;
    const MAX_NUMERATOR: u64 = u32::MAX as u64 / CRYSTAL;
    let khz = u64::from(khz);
    let candidates = (1..=CRYSTAL).map(|d| (d, (khz * d + CRYSTAL / 2) / CRYSTAL));
    let best = candidates
        .take_while(|(_, n)| *n <= MAX_NUMERATOR)
        .filter(|(_, n)| *n > 0)
        // Compares |n * CRYSTAL - khz * d| / d without dividing.
        .min_by(|(d1, n1), (d2, n2)| {
            let error = |d: u64, n: u64| (n * CRYSTAL).abs_diff(khz * d);
            (error(*d1, *n1) * d2).cmp(&(error(*d2, *n2) * d1))
        });
    best.map_or((1, 1), |(d, n)| (d as u32, n as u32))
}

/// Leaf 1.
fn basic_features(leaves: &mut Leaves, traits: &Traits) {
    leaves.change(1, 0, |e| {
        e.ecx &= !(ECX1_MONITOR | ECX1_OSXSAVE | ECX1_TSC_DEADLINE);
        e.ecx |= ECX1_HYPERVISOR | ECX1_X2APIC;
        if traits.tsc_deadline {
            e.ecx |= ECX1_TSC_DEADLINE;
        }
        if traits.mwait.is_some() {
            e.ecx |= ECX1_MONITOR;
        }
    });
}

/// The hypervisor's own leaves.
fn hypervisor(leaves: &mut Leaves, traits: &Traits) {
    let tsc_khz = traits.tsc_khz;
    let [ebx, ecx, edx] = vendor(b"KVMKVMKVM\0\0\0");
    let last = match tsc_khz {
        Some(_) => LEAF_TIMING,
        None => LEAF_KVM_FEATURES,
    };
    leaves.put(LEAF_KVM, None, [last, ebx, ecx, edx]);
    let mut features = leaves.get(LEAF_KVM_FEATURES, 0).map_or([0; 4], |e| {
        [
            e.eax & !KVM_ASYNC_PF,
            e.ebx,
            e.ecx,
            e.edx & !KVM_HINTS_REALTIME,
        ]
    });
    if traits.dedicated {
        features[3] |= KVM_HINTS_REALTIME;
    }
    leaves.put(LEAF_KVM_FEATURES, None, features);
    leaves.remove(LEAF_TIMING);
    if let Some(khz) = tsc_khz {
        leaves.put(LEAF_TIMING, None, [khz, APIC_BUS_KHZ, 0, 0]);
    }
}

#[cfg(test)]
pub(crate) mod tests;
