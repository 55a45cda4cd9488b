//! CPUID of made-up hosts, and in `parts` of real ones.

pub(crate) mod parts;

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::config::topology::Wish;

fn entry(function: u32, index: u32, r: [u32; 4]) -> kvm_cpuid_entry2 {
    let mut e = kvm_cpuid_entry2 {
        function,
        index,
        flags: match function {
            4 | 7 | 0xb | 0xd | 0x1d | 0x1f | 0x8000_001d => KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            _ => 0,
        },
        ..Default::default()
    };
    set(&mut e, r);
    e
}

/// A host with AVX-512, PKRU, MPX, XSAVES and CET, as KVM reports it; `vendor` in leaf 0.
pub(super) fn host(name: &[u8; 12]) -> Vec<kvm_cpuid_entry2> {
    let [b, d, c] = vendor(name);
    let size = 2688 + 8;
    vec![
        entry(0, 0, [0x1f, b, c, d]),
        entry(
            1,
            0,
            [0x806f8, 0x0710_0800, 0xfffa_b223 | 1 << 3, 0x0f8b_fbff],
        ),
        entry(4, 0, [0x7c00_4121, 0x02c0_003f, 63, 0]),
        entry(4, 3, [0x7c0f_c163, 0x0380_003f, 0xffff, 4]),
        entry(4, 4, [0; 4]),
        entry(5, 0, [0x40, 0x40, 3, 0x20]),
        entry(7, 0, [1, 0xf1bf_47ef, 0x1b41_5fde | 1 << 7, 0xffd1_4412]),
        entry(7, 1, [0x0020_1c30, 0, 0, 0x100]),
        entry(0xb, 0, [1, 2, 0x100, 7]),
        entry(0xd, 0, [0x2ff, 576, size, 0]),
        entry(0xd, 1, [0x1f, compacted(), 0x1800, 0]),
        entry(0xd, 2, [256, 576, 0, 0]),
        entry(0xd, 3, [64, 960, 0, 0]),
        entry(0xd, 4, [64, 1024, 0, 0]),
        entry(0xd, 5, [64, 1088, 0, 0]),
        entry(0xd, 6, [512, 1152, 0, 0]),
        entry(0xd, 7, [1024, 1664, 0, 0]),
        entry(0xd, 9, [8, 2688, 0, 0]),
        entry(0xd, 11, [16, 0, 1, 0]),
        entry(0xd, 12, [24, 0, 1, 0]),
        entry(0x12, 0, [1, 0, 0, 0]),
        entry(0x15, 0, [2, 100, 0, 0]),
        entry(0x1d, 0, [1, 0, 0, 0]),
        entry(0x1f, 0, [0; 4]),
        entry(LEAF_KVM, 0, [LEAF_KVM_FEATURES, 1, 2, 3]),
        entry(LEAF_KVM_FEATURES, 0, [0x0100_7efb, 0, 0, 0]),
        entry(0x8000_0000, 0, [0x8000_001f, 0, 0, 0]),
        entry(0x8000_0001, 0, [0, 0, 0x121 | 1 << 22, 0x2c10_0800]),
        entry(0x8000_0008, 0, [0x3034, 0, 0x7fff, 0]),
        entry(0x8000_001d, 0, [0x121, 0x02c0_003f, 63, 0]),
        entry(0x8000_001d, 3, [0x7_c163, 0x0380_003f, 0xffff, 4]),
        entry(0x8000_001e, 0, [0; 4]),
        entry(0x8000_001f, 0, [0xb, 0x33, 0, 0]),
    ]
}

/// The sum over everything that [`host`] has: 576 to 2688 without gaps in this format.
fn compacted() -> u32 {
    576 + 256 + 64 + 64 + 64 + 512 + 1024 + 8 + 16 + 24
}

/// The leaves of a vCPU.
pub(super) fn make(entries: &[kvm_cpuid_entry2], vcpu: u32, traits: &Traits) -> Leaves {
    let supported = CpuId::from_entries(entries).unwrap();
    let made = for_vcpu(&supported, vcpu, traits).unwrap();
    Leaves(made.as_slice().to_vec())
}

fn cores(count: u32) -> Topology {
    Topology::new(count, Wish::default()).unwrap()
}

fn traits(cpus: u32) -> Traits {
    Traits {
        topology: cores(cpus),
        tsc_khz: Some(2_500_000),
        tsc_deadline: true,
        pmu: true,
        ..Traits::default()
    }
}

/// A host with virtualisation and counters of both makers.
fn all_switched(name: &[u8; 12]) -> Vec<kvm_cpuid_entry2> {
    let mut entries = host(name);
    for e in &mut entries {
        match (e.function, e.index) {
            (1, 0) => e.ecx |= 1 << 5 | 1 << 15,
            (7, 0) => e.edx |= 1 << 19,
            (0x8000_0001, 0) => e.ecx |= 1 << 2 | 1 << 10 | 1 << 23 | 1 << 24 | 1 << 28,
            _ => {}
        }
    }
    entries.extend([
        entry(0xa, 0, [0x0730_0605, 0, 7, 0x8603]),
        entry(0x1c, 0, [1, 2, 3, 0]),
        entry(0x23, 0, [0xf, 0, 0, 0]),
        entry(0x8000_000a, 0, [1, 8, 0, 0xff]),
        entry(0x8000_001b, 0, [0x3ff, 0, 0, 0]),
        entry(0x8000_0022, 0, [1, 6, 0, 0]),
    ]);
    entries
}

/// Each switch takes what it names, and nothing of the other's.
#[test]
fn virtualisation_and_counters_are_switched() {
    for name in [b"GenuineIntel", b"AuthenticAMD"] {
        let supported = all_switched(name);
        for (nested, pmu) in [(false, true), (true, false), (true, true), (false, false)] {
            let traits = Traits {
                nested,
                pmu,
                ..traits(1)
            };
            let made = make(&supported, 0, &traits);
            let bit = |function, register: usize, bit: u32| {
                regs(&made, function, 0)[register] & 1 << bit != 0
            };
            assert_eq!(bit(1, 2, 5), nested, "VMX");
            assert_eq!(bit(0x8000_0001, 2, 2), nested, "SVM");
            assert_eq!(regs(&made, 0x8000_000a, 0) != [0; 4], nested);
            assert_eq!(bit(1, 2, 15), pmu, "PDCM");
            assert_eq!(bit(7, 3, 19), pmu, "architectural LBR");
            for feature in [10, 23, 24, 28] {
                assert_eq!(bit(0x8000_0001, 2, feature), pmu, "{feature}");
            }
            for function in [0xa, 0x8000_001b, 0x8000_0022] {
                assert_eq!(regs(&made, function, 0) != [0; 4], pmu, "{function:#x}");
            }
            for function in [0x1c, 0x23] {
                assert_eq!(made.get(function, 0).is_some(), pmu, "{function:#x}");
            }
            assert_eq!(has_pmu(&CpuId::from_entries(&made.0).unwrap()), pmu);
        }
    }
}

pub(super) fn regs(leaves: &Leaves, function: u32, index: u32) -> [u32; 4] {
    let e = leaves.get(function, index).unwrap();
    [e.eax, e.ebx, e.ecx, e.edx]
}

#[test]
fn the_first_leaf_names_the_vcpu() {
    let made = make(&host(b"GenuineIntel"), 3, &traits(4));
    let [_, ebx, ecx, edx] = regs(&made, 1, 0);
    assert_eq!(ebx, 0x0304_0800);
    assert_eq!(
        ecx & (1 << 31 | 1 << 27 | 1 << 24 | 1 << 21 | 1 << 3),
        1 << 31 | 1 << 24 | 1 << 21
    );
    assert_ne!(edx & 1 << 28, 0);
    let alone = make(&host(b"GenuineIntel"), 0, &traits(1));
    assert_eq!(regs(&alone, 1, 0)[3] & 1 << 28, 0);
}

#[test]
fn topology_is_one_package() {
    for (cpus, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (64, 6), (255, 8)] {
        let made = make(&host(b"GenuineIntel"), cpus - 1, &traits(cpus));
        for function in [0xb, 0x1f] {
            assert_eq!(regs(&made, function, 0), [0, 1, 0x100, cpus - 1]);
            assert_eq!(regs(&made, function, 1), [bits, cpus, 0x201, cpus - 1]);
            assert_eq!(regs(&made, function, 2)[1..3], [0, 2]);
        }
        let ids = (1 << bits) - 1;
        let [_, ebx, ..] = regs(&made, 1, 0);
        assert_eq!(
            (ebx >> 24, ebx >> 16 & 0xff),
            (cpus - 1, (ids + 1).min(0xff))
        );
        let cores = ids.min(0x3f) << 26;
        assert_eq!(regs(&made, 4, 0)[0], 0x121 | cores);
        assert_eq!(regs(&made, 4, 3)[0], 0x163 | ids << 14 | cores);
    }
}

#[test]
fn amd_has_leaves_of_its_own() {
    let made = make(&host(b"AuthenticAMD"), 2, &traits(3));
    assert_eq!(regs(&made, 0x8000_0008, 0), [0x3034, 0, 0x2f02, 0]);
    assert_eq!(regs(&made, 0x8000_001e, 0), [2, 2, 0, 0]);
    assert_eq!(regs(&made, 0x8000_001f, 0), [0; 4]);
    assert_eq!(regs(&made, 0x8000_0001, 0)[2] & 2, 2);
    // On AMD the VMM adds no Intel leaf: KVM's leaves stay.
    assert_eq!(regs(&made, 0x15, 0), [2, 100, 0, 0]);
}

#[test]
fn time_is_told() {
    let made = make(&host(b"GenuineIntel"), 0, &traits(1));
    assert_eq!(regs(&made, 0x15, 0), [2, 5, 1_000_000_000, 0]);
    assert_eq!(regs(&made, LEAF_TIMING, 0), [2_500_000, 1_000_000, 0, 0]);
    let [last, b, c, d] = regs(&made, LEAF_KVM, 0);
    let name: Vec<u8> = [b, c, d].iter().flat_map(|r| r.to_le_bytes()).collect();
    assert_eq!((last, &name[..]), (LEAF_TIMING, &b"KVMKVMKVM\0\0\0"[..]));
    assert_eq!(regs(&made, LEAF_KVM_FEATURES, 0)[0], 0x0100_3aeb);
}

#[test]
fn what_the_vm_has_not_is_gone() {
    let made = make(&host(b"GenuineIntel"), 0, &traits(1));
    assert!(made.get(0x12, 0).is_none());
    assert_eq!(regs(&made, 7, 0)[1] & EBX7_SGX, 0);
    assert_eq!(regs(&made, 5, 0), [0; 4]);
}

#[test]
fn idling_is_as_asked_for() {
    for mwait in [None, Some([0x40, 0x40, 3, 0x1120])] {
        for dedicated in [false, true] {
            let traits = Traits {
                mwait,
                dedicated,
                ..traits(1)
            };
            let made = make(&host(b"GenuineIntel"), 0, &traits);
            let monitor = regs(&made, 1, 0)[2] & ECX1_MONITOR != 0;
            assert_eq!(monitor, mwait.is_some());
            assert_eq!(regs(&made, LEAF_MWAIT, 0), mwait.unwrap_or_default());
            let hints = regs(&made, LEAF_KVM_FEATURES, 0)[3];
            assert_eq!(hints, u32::from(dedicated));
        }
    }
}

#[test]
fn xsave_keeps_what_agrees() {
    let made = make(&host(b"GenuineIntel"), 0, &traits(1));
    // MPX is dropped with its feature; the other components stay.
    assert_eq!(regs(&made, 0xd, 0), [0x2e7, 576, 2696, 0]);
    assert_eq!(regs(&made, 0xd, 1), [0xf, 576, 0x1800, 0]);
    let kept: Vec<u32> = made
        .0
        .iter()
        .filter(|e| e.function == 0xd)
        .map(|e| e.index)
        .collect();
    assert_eq!(kept.len(), 9);
    assert!(!kept.contains(&3) && kept.contains(&9) && kept.contains(&12));
    assert_eq!(regs(&made, 7, 0)[1] & (1 << 14 | 1 << 16), 1 << 16);
    // AMX's permission was never requested.
    assert!(made.get(0x1d, 0).is_none());
    assert_eq!(regs(&made, 7, 0)[3] & (1 << 22 | 1 << 24 | 1 << 25), 0);
    assert_eq!(regs(&made, 7, 1)[0] & (1 << 21 | 1 << 4), 1 << 4);
}

#[test]
fn xsave_drops_what_does_not() {
    let change = |function, index, f: fn(&mut kvm_cpuid_entry2)| {
        let mut leaves = Leaves(host(b"GenuineIntel"));
        leaves.change(function, index, f);
        make(&leaves.0, 0, &traits(1))
    };
    // The sum differs from KVM's: no extended component remains, and no feature that needs one.
    let made = change(0xd, 0, |e| e.ecx += 64);
    assert_eq!(regs(&made, 0xd, 0), [3, 576, 576, 0]);
    assert_eq!(regs(&made, 1, 0)[2] & 1 << 28, 0);
    assert_eq!(regs(&made, 7, 0)[1] & (1 << 5 | 1 << 16), 0);
    // The compacted sum differs from KVM's: only the standard format remains.
    let made = change(0xd, 1, |e| e.ebx += 64);
    assert_eq!(regs(&made, 0xd, 1), [0x5, 0, 0, 0]);
    assert_eq!(regs(&made, 0xd, 0)[0], 0x2e7);
    assert_eq!(regs(&made, 7, 0)[2] & 1 << 7, 0);
    // Without PKU there is no PKRU.
    let made = change(7, 0, |e| e.ecx &= !(1 << 3));
    assert_eq!(regs(&made, 0xd, 0), [0xe7, 576, 2688, 0]);
    // Without AVX-512F its three components are dropped.
    let made = change(7, 0, |e| e.ebx &= !(1 << 16));
    assert_eq!(regs(&made, 0xd, 0), [0x207, 576, 2696, 0]);
    assert_eq!(regs(&made, 7, 0)[1] & 1 << 31, 0);
    // Without XSAVE the leaf is dropped.
    let made = change(1, 0, |e| e.ecx &= !(1 << 26));
    assert!(made.get(0xd, 0).is_none());
    assert_eq!(regs(&made, 1, 0)[2] & 1 << 28, 0);
}

#[test]
fn tcg_gets_no_xsave() {
    let mut leaves = Leaves(host(b"AuthenticAMD"));
    leaves.change(1, 0, |e| e.eax = 0x6_0fb1);
    let made = make(&leaves.0, 0, &traits(1));
    assert!(made.get(0xd, 0).is_none());
    assert_eq!(regs(&made, 1, 0)[2] & (1 << 26 | 1 << 28), 0);
    // SSE stays, and features that need only SSE.
    assert_ne!(regs(&made, 1, 0)[2] & 1 << 20, 0);
}

#[test]
fn a_missing_leaf_is_an_error() {
    let empty = CpuId::from_entries(&[]).unwrap();
    assert_eq!(
        for_vcpu(&empty, 0, &traits(1)).err(),
        Some(CpuidError::MissingLeaf(0))
    );
    let supported = CpuId::from_entries(&host(b"GenuineIntel")).unwrap();
    for (vcpu, cpus) in [(1, 1), (4, 4), (300, 64)] {
        let error = for_vcpu(&supported, vcpu, &traits(cpus)).err();
        assert_eq!(error, Some(CpuidError::NoSuchCpu { vcpu, cpus }));
    }
}

fn any_entry() -> impl Strategy<Value = kvm_cpuid_entry2> {
    let function = prop_oneof![
        0u32..0x20,
        Just(0xd),
        Just(7),
        0x4000_0000u32..0x4000_0011,
        0x8000_0000u32..0x8000_0027,
        any::<u32>()
    ];
    (
        function,
        prop_oneof![0u32..20, any::<u32>()],
        any::<[u32; 4]>(),
    )
        .prop_map(|(function, index, registers)| entry(function, index, registers))
}

proptest! {
    #[test]
    fn any_host_gives_unique_entries(
        extra in proptest::collection::vec(any_entry(), 0..60),
        whole in any::<bool>(), cpus in 1u32..=255, vcpu in 0u32..255,
        khz in any::<Option<u32>>(), deadline in any::<bool>(),
        mwait in any::<Option<[u32; 4]>>(), dedicated in any::<bool>(),
    ) {
        let mut entries = extra;
        if whole {
            entries.splice(0..0, host(b"GenuineIntel"));
        }
        let supported = CpuId::from_entries(&entries).unwrap();
        let traits = Traits {
            topology: cores(cpus),
            tsc_khz: khz,
            tsc_deadline: deadline,
            mwait,
            dedicated,
            ..traits(1)
        };
        if let Ok(made) = for_vcpu(&supported, vcpu, &traits) {
            let mut seen = HashSet::new();
            for e in made.as_slice() {
                prop_assert!(seen.insert((e.function, e.index)));
            }
            let leaves = Leaves(made.as_slice().to_vec());
            prop_assert_eq!(regs(&leaves, 1, 0)[1] >> 24, vcpu);
            if let Some(main) = leaves.get(0xd, 0) {
                // Every offered component has a subleaf, and no other component has one.
                let one = leaves.get(0xd, 1).unwrap();
                let kept = main.eax & !3 | one.ecx;
                for i in 2..32 {
                    prop_assert_eq!(kept & 1 << i != 0, leaves.get(0xd, i).is_some());
                }
            }
        }
    }
}

#[test]
fn the_tsc_ratio_is_near_and_small() {
    for khz in [
        1, 999_999, 1_000_000, 2_399_987, 2_600_123, 4_200_000, 5_800_017,
    ] {
        let (denominator, numerator) = tsc_ratio(khz);
        // Linux: crystal kHz times the numerator in 32 bits.
        let product = 1_000_000u32.checked_mul(numerator);
        let told = f64::from(product.unwrap()) / f64::from(denominator);
        let error = (told - f64::from(khz)).abs() / f64::from(khz);
        assert!(error < 1e-3 || khz < 1000, "{khz}: {told}");
    }
    assert_eq!(tsc_ratio(2_400_000), (5, 12));
}
