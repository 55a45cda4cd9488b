//! The MSRs of a vCPU at power-on and after a reset, on Intel's processors. The parts are real: the
//! files in `parts/` name the published lists, and those of CPUID's tests the leaves. What a guest
//! must find is written from the SDM (volume 4, table 2-2) and from what Linux reads
//! (arch/x86/kernel/cpu/intel.c, arch/x86/events/intel/ds.c), not from the code under test.

use std::collections::BTreeMap;

use kvm_bindings::kvm_msr_entry;

use super::{at_power_on, restored};
use crate::vcpu::cpuid::Traits;
use crate::vcpu::cpuid::tests::parts::{Processor, host_and_guest};

/// Names and texts of the lists of processors, which have a part of the same name in CPUID's tests.
const PROCESSORS: &[(&str, &str)] = &[
    ("skylake-sp", include_str!("tests/parts/skylake-sp.txt")),
    (
        "sapphire-rapids",
        include_str!("tests/parts/sapphire-rapids.txt"),
    ),
    (
        "granite-rapids",
        include_str!("tests/parts/granite-rapids.txt"),
    ),
    ("alder-lake", include_str!("tests/parts/alder-lake.txt")),
];

/// The lists of KVM's guests.
const GUESTS: &[(&str, &str)] = &[
    (
        "cascade-lake-guest",
        include_str!("tests/parts/cascade-lake-guest.txt"),
    ),
    (
        "ice-lake-guest",
        include_str!("tests/parts/ice-lake-guest.txt"),
    ),
    (
        "sapphire-rapids-guest",
        include_str!("tests/parts/sapphire-rapids-guest.txt"),
    ),
    (
        "granite-rapids-guest",
        include_str!("tests/parts/granite-rapids-guest.txt"),
    ),
];

const FEATURE_CONTROL: u32 = 0x3a;
const MTRR_CAP: u32 = 0xfe;
const ARCH_CAPABILITIES: u32 = 0x10a;
const TSX_CTRL: u32 = 0x122;
const MISC_ENABLE: u32 = 0x1a0;
const MTRR_DEF_TYPE: u32 = 0x2ff;
const PERF_CAPABILITIES: u32 = 0x345;
const TSC_DEADLINE: u32 = 0x6e0;
const XSS: u32 = 0xda0;

/// MSRs that KVM 6.12 names on any Intel host (arch/x86/kvm/x86.c, `msrs_to_save_base` and
/// `emulated_msrs_all`), first and last of each range. XSS is named since Linux 6.18.
const LISTED: &[(u32, u32)] = &[
    (0x10, 0x12),
    (0x34, 0x34),
    (0x3a, 0x3b),
    (0x48, 0x48),
    (0x8b, 0x8b),
    (0x9e, 0x9e),
    (0xce, 0xce),
    (0xe1, 0xe1),
    (0x10a, 0x10a),
    (0x122, 0x122),
    (0x140, 0x140),
    (0x174, 0x176),
    (0x17a, 0x17b),
    (0x1a0, 0x1a0),
    (0x1c4, 0x1c5),
    (0x1d9, 0x1d9),
    (0x1db, 0x1de),
    (0x1fc, 0x1fc),
    (0x277, 0x277),
    (0x345, 0x345),
    (0x6e0, 0x6e0),
    (0xd90, 0xd90),
    (0xda0, 0xda0),
    (0x4b56_4d00, 0x4b56_4d07),
    (0xc000_0081, 0xc000_0084),
    (0xc000_0102, 0xc000_0103),
    (0xc001_0015, 0xc001_0015),
    (0xc001_0117, 0xc001_0117),
];

/// MSRs that a guest can read, and that a reset need not write as MSRs, with the reason: KVM writes
/// them with other registers, or a guest's write has no effect (arch/x86/kvm/x86.c,
/// `kvm_set_msr_common`, and vmx/vmx.c, `vmx_set_msr`).
const NOT_WRITTEN: &[(u32, u32, &str)] = &[
    (0x0, 0x1, "KVM has no value: P5_MC_ADDR and P5_MC_TYPE"),
    (0x10, 0x10, "the time-stamp counter goes on, see tsc.rs"),
    (0x17, 0x17, "KVM has no value: PLATFORM_ID"),
    (0x1b, 0x1b, "KVM_SET_SREGS writes APIC_BASE"),
    (0x2a, 0x2a, "read-only: EBL_CR_POWERON"),
    (0x2c, 0x2c, "read-only: EBC_FREQUENCY_ID"),
    (0x3b, 0x3b, "tsc.rs writes TSC_ADJUST"),
    (0xc1, 0xc2, "no counters, so writes are refused or ignored"),
    (0xcd, 0xcd, "read-only: FSB_FREQ"),
    (0xfe, 0xfe, "read-only: MTRRcap"),
    (0x11e, 0x11e, "a write is ignored: BBL_CR_CTL3"),
    (0x179, 0x179, "KVM_X86_SETUP_MCE sets MCG_CAP"),
    (
        0x186,
        0x187,
        "no counters, so writes are refused or ignored",
    ),
    (0x198, 0x199, "KVM has no value: PERF_STATUS and PERF_CTL"),
    (0x428, 0x47f, "our vCPUs have 10 banks, not 32"),
    (0x606, 0x641, "KVM has no value: RAPL"),
    (0x800, 0x8ff, "KVM_SET_LAPIC writes the x2APIC"),
    (0xc000_0080, 0xc000_0080, "KVM_SET_SREGS writes EFER"),
    (0xc000_0100, 0xc000_0101, "KVM_SET_SREGS writes the bases"),
    (0xc001_0000, 0xc001_0007, "AMD's counters; this is Intel"),
    (0xc001_0010, 0xc001_0010, "KVM has no value: SYSCFG"),
    (
        0xc001_001b,
        0xc001_001f,
        "KVM has no value: NB_CFG and K8's",
    ),
    (0xc001_0055, 0xc001_0058, "KVM has no value: AMD's"),
    (0xc001_0112, 0xc001_0113, "KVM has no value: TSEG"),
    (
        0xc001_1022,
        0xc001_102c,
        "KVM has no value: DC_CFG, BU_CFG2",
    ),
];

type Msrs = BTreeMap<u32, u64>;

fn parse(text: &str) -> Msrs {
    let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .flat_map(|line| {
            let (range, value) = line.split_once(' ').unwrap();
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let index = |text| u32::try_from(hex(text)).unwrap();
            (index(first)..=index(last)).map(move |msr| (msr, hex(value)))
        })
        .collect()
}

fn listed() -> Vec<u32> {
    LISTED.iter().flat_map(|&(a, b)| a..=b).collect()
}

/// The MSRs of a new vCPU that a reset restores: the values are those after `kvm_vcpu_reset` and
/// `kvm_arch_vcpu_create` of arch/x86/kvm/x86.c, where the part has the MSR.
fn new_vcpu(part: &Msrs) -> Vec<kvm_msr_entry> {
    let known = restored(&listed())
        .into_iter()
        .filter_map(|index| Some((index, *part.get(&index)?)));
    let mut entries: Vec<_> = known
        .map(|(index, data)| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        })
        .collect();
    for entry in &mut entries {
        match entry.index {
            // BTS and PEBS are unavailable, and nothing else is set.
            MISC_ENABLE => entry.data = 0x1800,
            ARCH_CAPABILITIES => (),
            _ => entry.data = 0,
        }
    }
    entries
}

/// The MSRs with the values after power-on, and those that firmware sets.
fn power_on(part: &Msrs, cpuid: &kvm_bindings::CpuId) -> Msrs {
    let (firmware, others) = at_power_on(new_vcpu(part), cpuid);
    let all = firmware.into_iter().chain(others);
    all.map(|msr| (msr.index, msr.data)).collect()
}

/// Gives `check` a name, the part's MSRs and leaves, and the guest's MSRs and leaves, on each part
/// in each list, for each wish of the user.
fn each(lists: &[&[(&str, &str)]], check: impl Fn(&str, (&Msrs, &Processor), (&Msrs, &Processor))) {
    let wishes: [fn(&mut Traits); 3] = [
        |_| (),
        |traits| traits.pmu = false,
        |traits| traits.mwait = Some([0x40, 0x40, 3, 0x20]),
    ];
    for (name, text) in lists.iter().copied().flatten() {
        let part = parse(text);
        for wish in wishes {
            let (host, cpuid, guest) = host_and_guest(name, wish);
            check(name, (&part, &host), (&power_on(&part, &cpuid), &guest));
        }
    }
}

fn bit(value: u64, bit: u32) -> bool {
    value >> bit & 1 != 0
}

fn flag(register: u32, at: u32) -> bool {
    register >> at & 1 != 0
}

/// IA32_MISC_ENABLE: bit 7 says that there are counters, bit 18 that there is MONITOR. Bits 11 and
/// 12 say that BTS and PEBS are missing; Linux reads them where CPUID has DS. Bit 22 hides leaves
/// above 2, and bit 34 NX: Linux clears both.
fn misc_enable_agrees(value: u64, processor: &Processor) {
    let [version, ..] = processor.cpuid(0xa, 0);
    let [_, _, ecx, edx] = processor.cpuid(1, 0);
    assert_eq!(bit(value, 7), version & 0xff != 0, "counters: {value:#x}");
    assert_eq!(bit(value, 18), flag(ecx, 3), "MONITOR: {value:#x}");
    assert!(!bit(value, 22) && !bit(value, 34), "{value:#x}");
    let [.., no_execute] = processor.cpuid(0x8000_0001, 0);
    assert!(flag(no_execute, 20), "NX");
    // Without counters there is nothing that PEBS could sample.
    assert!(version & 0xff != 0 || bit(value, 12) || !flag(ecx, 2) || !flag(edx, 21));
}

#[test]
fn misc_enable_says_what_cpuid_says() {
    let counters = std::cell::Cell::new(0);
    each(
        &[PROCESSORS, GUESTS],
        |name, (part, host), (guest, leaves)| {
            eprintln!("{name}");
            // The processor itself agrees with this reading of the SDM.
            if PROCESSORS.iter().any(|(processor, _)| *processor == name) {
                misc_enable_agrees(part[&MISC_ENABLE], host);
            }
            let value = guest[&MISC_ENABLE];
            misc_enable_agrees(value, leaves);
            assert!(bit(value, 0), "fast strings, which Linux looks for");
            // KVM has neither (vmx.c refuses DEBUGCTL.BTS), and says so in a new vCPU.
            assert!(bit(value, 11) && bit(value, 12), "BTS and PEBS: {value:#x}");
            counters.set(counters.get() + u32::from(bit(value, 7)));
        },
    );
    assert_eq!(
        counters.get(),
        8,
        "four parts have a PMU; one wish is for none"
    );
}

/// DS, the performance MSRs of leaf 1, go with the counters. Linux reads PERF_CAPABILITIES only
/// where CPUID has PDCM (`intel_pmu_init`).
#[test]
fn perf_capabilities_go_with_their_flag() {
    each(&[PROCESSORS, GUESTS], |_, (part, host), (guest, leaves)| {
        let pdcm = |processor: &Processor| flag(processor.cpuid(1, 0)[2], 15);
        assert!(pdcm(host) || !part.contains_key(&PERF_CAPABILITIES));
        assert!(!pdcm(leaves) || leaves.cpuid(0xa, 0)[0] & 0xff != 0);
        assert!(pdcm(leaves) || !guest.contains_key(&PERF_CAPABILITIES));
        if leaves.cpuid(0xa, 0)[0] == 0 && host.cpuid(0xa, 0)[0] != 0 {
            let [_, _, ecx, edx] = leaves.cpuid(1, 0);
            assert!(!flag(ecx, 2) && !flag(edx, 21), "DTES64 and DS");
        }
        assert!(restored(&listed()).contains(&PERF_CAPABILITIES));
    });
}

/// MTRRcap's count of variable ranges, two MSRs each, and the fixed ranges (SDM volume 3A, 12.11).
/// The default type is one that memory can have.
#[test]
fn all_mtrrs_are_restored_and_memory_is_write_back() {
    each(&[GUESTS], |_, (part, _), (guest, leaves)| {
        assert!(flag(leaves.cpuid(1, 0)[3], 12), "MTRR");
        let capabilities = part[&MTRR_CAP];
        let variable = 0x200..0x200 + 2 * (capabilities & 0xff) as u32;
        let fixed = [0x250, 0x258, 0x259].into_iter().chain(0x268..=0x26f);
        assert!(bit(capabilities, 8), "fixed ranges");
        for index in variable.chain(fixed) {
            assert_eq!(guest.get(&index), Some(&0), "{index:#x}");
        }
        assert_eq!(guest[&MTRR_DEF_TYPE] & 0xff, 6);
        assert!(bit(guest[&MTRR_DEF_TYPE], 11));
        assert_eq!(guest[&MTRR_DEF_TYPE] & !0xcff, 0, "reserved bits");
    });
}

/// ARCH_CAPABILITIES is there with leaf 7's edx bit 29, and its value stays; its bit 7 says that
/// TSX_CTRL is there. Linux reads both so (`x86_read_arch_cap_msr`, `tsx_init`).
#[test]
fn arch_capabilities_go_with_their_flag() {
    let seen = std::cell::Cell::new(0);
    each(
        &[PROCESSORS, GUESTS],
        |name, (part, host), (guest, leaves)| {
            let has = |processor: &Processor| flag(processor.cpuid(7, 0)[3], 29);
            assert_eq!(part.contains_key(&ARCH_CAPABILITIES), has(host), "{name}");
            assert_eq!(
                guest.contains_key(&ARCH_CAPABILITIES),
                has(leaves),
                "{name}"
            );
            let value = guest.get(&ARCH_CAPABILITIES);
            assert_eq!(value, part.get(&ARCH_CAPABILITIES), "{name}");
            if GUESTS.iter().any(|(guest, _)| *guest == name) {
                let control = value.is_some_and(|value| bit(*value, 7));
                assert_eq!(guest.contains_key(&TSX_CTRL), control, "{name}");
            }
            seen.set(seen.get() + u32::from(value.is_some()));
        },
    );
    assert_eq!(seen.get(), 7 * 3, "all but Skylake");
}

/// A reset writes XSS as zero wherever a guest can have set one of the bits that leaf 0xD names.
#[test]
fn supervisor_state_is_off_after_a_reset() {
    each(&[PROCESSORS, GUESTS], |_, _, (_, leaves)| {
        let [instructions, _, low, high] = leaves.cpuid(0xd, 1);
        let offers = low | high != 0;
        assert!(!offers || flag(instructions, 3), "XSS needs XSAVES");
        assert!(!offers || restored(&listed()).contains(&XSS));
    });
}

/// The timer's deadline is there with leaf 1's ecx bit 24, TSC_ADJUST with leaf 7's ebx bit 1.
#[test]
fn the_time_stamp_counters_msrs_go_with_their_flags() {
    const TSC_ADJUST: u32 = 0x3b;
    each(&[GUESTS], |_, (part, host), (guest, leaves)| {
        let deadline = |processor: &Processor| flag(processor.cpuid(1, 0)[2], 24);
        let adjust = |processor: &Processor| flag(processor.cpuid(7, 0)[1], 1);
        assert_eq!(part.contains_key(&TSC_DEADLINE), deadline(host));
        assert_eq!(part.contains_key(&TSC_ADJUST), adjust(host));
        assert_eq!((deadline(leaves), adjust(leaves)), (true, adjust(host)));
        assert_eq!(guest.get(&TSC_DEADLINE), Some(&0), "no deadline");
        assert!(!guest.contains_key(&TSC_ADJUST), "tsc.rs has the counters");
    });
}

/// Virtualisation is off: FEATURE_CONTROL is zero until the guest writes it.
#[test]
fn feature_control_is_unlocked() {
    each(&[GUESTS], |_, _, (guest, _)| {
        assert_eq!(guest.get(&FEATURE_CONTROL), Some(&0));
    });
}

/// Each MSR that a guest on these parts can read is written back by a reset, or cannot change.
#[test]
fn a_reset_forgets_no_msr() {
    let written = restored(&listed());
    let excused = |index: u32| {
        let mut all = NOT_WRITTEN.iter();
        all.any(|&(first, last, _)| (first..=last).contains(&index))
    };
    for (name, text) in GUESTS {
        let part = parse(text);
        assert!(part.len() > 480, "{name} is a whole list");
        let forgotten: Vec<_> = part
            .keys()
            .filter(|index| written.contains(index) == excused(**index))
            .map(|index| format!("{index:#x}"))
            .collect();
        assert!(forgotten.is_empty(), "{name}: {forgotten:?}");
    }
}
