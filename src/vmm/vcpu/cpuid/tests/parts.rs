//! CPUID of real processors, from published dumps (the files in `parts/` name their sources). What
//! a guest must find is written from the SDM and from Linux's checks, not from the code under test.

use std::collections::BTreeMap;

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

use super::entry;
use crate::config::topology::{Topology, Wish};
use crate::vcpu::cpuid::{Traits, for_vcpu};

/// Names and texts of the dumps.
const PARTS: &[(&str, &str)] = &[
    ("skylake-sp", include_str!("parts/skylake-sp.txt")),
    ("ice-lake-sp", include_str!("parts/ice-lake-sp.txt")),
    ("sapphire-rapids", include_str!("parts/sapphire-rapids.txt")),
    ("granite-rapids", include_str!("parts/granite-rapids.txt")),
    ("alder-lake", include_str!("parts/alder-lake.txt")),
    (
        "cascade-lake-guest",
        include_str!("parts/cascade-lake-guest.txt"),
    ),
    ("ice-lake-guest", include_str!("parts/ice-lake-guest.txt")),
    (
        "sapphire-rapids-guest",
        include_str!("parts/sapphire-rapids-guest.txt"),
    ),
    (
        "granite-rapids-guest",
        include_str!("parts/granite-rapids-guest.txt"),
    ),
    ("milan-guest", include_str!("parts/milan-guest.txt")),
    ("genoa-guest", include_str!("parts/genoa-guest.txt")),
];

/// eax, ebx, ecx, edx.
type Registers = [u32; 4];

/// A guest's processor: what CPUID gives for a function and an index.
pub(crate) struct Processor(BTreeMap<(u32, u32), Registers>);

impl Processor {
    fn new(entries: &[kvm_cpuid_entry2]) -> Self {
        let of = |e: &kvm_cpuid_entry2| ((e.function, e.index), [e.eax, e.ebx, e.ecx, e.edx]);
        Self(entries.iter().map(of).collect())
    }

    /// An absent function reads as zero here, as an absent index does on a processor.
    pub(crate) fn cpuid(&self, function: u32, index: u32) -> Registers {
        self.0.get(&(function, index)).copied().unwrap_or_default()
    }

    fn is_intel(&self) -> bool {
        self.cpuid(0, 0)[1..] == [0x756e_6547, 0x6c65_746e, 0x4965_6e69]
    }

    /// The components in XCR0 and in IA32_XSS that the processor offers.
    fn components(&self) -> (u64, u64) {
        let wide = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let [user, _, _, user_high] = self.cpuid(0xd, 0);
        let [_, _, supervisor, supervisor_high] = self.cpuid(0xd, 1);
        (wide(user, user_high), wide(supervisor, supervisor_high))
    }

    fn has_xsave(&self) -> bool {
        self.cpuid(1, 0)[2] & 1 << 26 != 0
    }
}

fn parse(text: &str) -> Vec<kvm_cpuid_entry2> {
    let numbers = |line: &str| -> Vec<u32> {
        let words = line.split(' ');
        words
            .map(|word| u32::from_str_radix(word, 16).unwrap())
            .collect()
    };
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| match numbers(line)[..] {
            [function, index, eax, ebx, ecx, edx] => entry(function, index, [eax, ebx, ecx, edx]),
            _ => panic!("not an entry: {line}"),
        })
        .collect()
}

/// Leaf 0xd as KVM_GET_SUPPORTED_CPUID reports it for the same processor. The dumps were read in a
/// running system, where ebx of both subleaves tells the size of the components that are enabled.
/// KVM offers fewer components of IA32_XSS, and reports sizes for all components that it offers.
fn as_kvm_reports(entries: &mut [kvm_cpuid_entry2]) {
    const CET: u32 = 1 << 11 | 1 << 12;
    let offered = |entries: &[kvm_cpuid_entry2]| {
        let find = |index| {
            entries
                .iter()
                .find(|e| e.function == 0xd && e.index == index)
        };
        let user = find(0).map_or(0, |e| e.eax);
        user | find(1).map_or(0, |e| e.ecx & CET)
    };
    let offered = offered(entries);
    let mut compacted = 576;
    let mut sizes: Vec<_> = entries
        .iter()
        .filter(|e| e.function == 0xd && e.index >= 2 && offered & 1 << e.index != 0)
        .map(|e| (e.index, e.eax, e.ecx & 2 != 0))
        .collect();
    sizes.sort_unstable();
    for (_, size, aligned) in sizes {
        if aligned {
            compacted = u32::next_multiple_of(compacted, 64);
        }
        compacted += size;
    }
    for e in entries.iter_mut().filter(|e| e.function == 0xd) {
        match e.index {
            0 => e.ebx = e.ecx,
            1 => (e.ebx, e.ecx) = (compacted, e.ecx & CET),
            _ => (),
        }
    }
}

fn topologies() -> Vec<Topology> {
    let wish = |sockets, cores, threads| Wish {
        sockets: Some(sockets),
        cores: Some(cores),
        threads: Some(threads),
    };
    let mut list: Vec<_> = [1, 2, 3, 6, 64]
        .into_iter()
        .map(|cpus| Topology::new(cpus, Wish::default()).unwrap())
        .collect();
    list.push(Topology::new(12, wish(2, 3, 2)).unwrap());
    list.push(Topology::new(8, wish(1, 4, 2)).unwrap());
    list
}

fn traits(topology: Topology) -> Traits {
    Traits {
        topology,
        tsc_khz: Some(2_593_907),
        tsc_deadline: true,
        pmu: true,
        ..Traits::default()
    }
}

/// A part, and the leaves of a guest's only vCPU on that part. `change` changes what the user asked
/// for.
pub(crate) fn host_and_guest(
    part: &str,
    change: impl FnOnce(&mut Traits),
) -> (Processor, CpuId, Processor) {
    let (_, text) = PARTS.iter().find(|(name, _)| *name == part).unwrap();
    let mut entries = parse(text);
    as_kvm_reports(&mut entries);
    let mut traits = traits(Topology::new(1, Wish::default()).unwrap());
    change(&mut traits);
    let supported = CpuId::from_entries(&entries).unwrap();
    let made = for_vcpu(&supported, 0, &traits).unwrap();
    let guest = Processor::new(made.as_slice());
    (Processor::new(&entries), made, guest)
}

/// Gives `check` each part with each topology and vCPU: the host's entries, the guest's processor,
/// the topology and the vCPU's number.
fn each(check: impl Fn(&Processor, &Processor, &Topology, u32)) {
    for (name, text) in PARTS {
        let mut entries = parse(text);
        as_kvm_reports(&mut entries);
        let supported = CpuId::from_entries(&entries).unwrap();
        let host = Processor::new(&entries);
        for topology in topologies() {
            let traits = traits(topology);
            for vcpu in 0..topology.cpus() {
                eprintln!("{name}, vCPU {vcpu} of {}", topology.cpus());
                let made = for_vcpu(&supported, vcpu, &traits).unwrap();
                check(&host, &Processor::new(made.as_slice()), &topology, vcpu);
            }
        }
    }
}

/// The SDM's description of CPUID, leaf 4: subleaves of caches, up to one of type 0. The sizes of
/// the caches stay; who shares a cache is the guest's topology.
#[test]
fn caches_are_the_hosts_and_sharing_is_the_guests() {
    each(|host, guest, topology, _| {
        if !guest.is_intel() {
            return;
        }
        for index in 0.. {
            let [eax, ebx, ecx, edx] = guest.cpuid(4, index);
            let [host_eax, host_sizes @ ..] = host.cpuid(4, index);
            assert_eq!(eax & 0x3fff, host_eax & 0x3fff, "type and level");
            assert_eq!([ebx, ecx, edx], host_sizes, "size");
            if eax & 0x1f == 0 {
                return;
            }
            let sharing = (eax >> 14 & 0xfff) + 1;
            let own = topology.threads().next_power_of_two();
            // Linux shifts APIC ids by the order of this number (`cacheinfo`).
            match eax >> 5 & 7 {
                1 | 2 => assert_eq!(sharing, own),
                _ => assert!(sharing.is_power_of_two() && sharing >= topology.threads_per_socket()),
            }
        }
    });
}

/// Leaf 7: eax is the last subleaf. A feature that needs state which XSAVE keeps is there only with
/// that state (SDM volume 1, 13.1), and Linux turns such features off otherwise.
#[test]
fn features_have_their_state() {
    each(|_, guest, _, _| {
        let [last, ebx, ecx, edx] = guest.cpuid(7, 0);
        let past = guest.0.keys().filter(|(function, _)| *function == 7);
        assert!(past.max().is_none_or(|(_, index)| *index <= last));
        let (user, supervisor) = guest.components();
        let has = |bits: u64| guest.has_xsave() && (user | supervisor) & bits == bits;
        let avx = guest.cpuid(1, 0)[2] & 1 << 28 != 0;
        let avx512 = ebx & 1 << 16 != 0;
        assert!(!avx || has(0b111), "AVX");
        assert!(ebx & 1 << 5 == 0 || avx, "AVX2 without AVX");
        assert!(!avx512 || has(0xe7), "AVX512F");
        assert!(avx512 || ebx & 0xdc23_0000 & !(1 << 29) & !(1 << 16) & !(3 << 19) == 0);
        assert!(ecx & 1 << 3 == 0 || has(1 << 9), "PKU");
        assert!(edx & 1 << 24 == 0 || has(3 << 17), "AMX");
        assert!(
            edx & 1 << 24 != 0 || guest.cpuid(0x1d, 0) == [0; 4],
            "tiles without AMX"
        );
        assert!(ecx & 1 << 7 == 0 || has(3 << 11), "CET");
        assert_eq!(ebx & 1 << 14, 0, "MPX");
        assert_eq!((ebx & 1 << 2, ecx & 1 << 30), (0, 0), "SGX");
    });
}

/// Leaf 0xA stays as KVM reports it, and describes counters that can be (SDM volume 3B, 20.2): a
/// version has counters of at most 64 bits, and no version has none.
#[test]
fn the_pmu_is_kvms() {
    let mut versions = 0;
    for (_, text) in PARTS {
        versions += parse(text)
            .iter()
            .filter(|e| e.function == 0xa && e.eax & 0xff > 0)
            .count();
    }
    assert_eq!(versions, 5, "dumps with a PMU");
    each(|host, guest, _, _| {
        let [eax, ebx, ecx, edx] = guest.cpuid(0xa, 0);
        assert_eq!([eax, ebx, ecx, edx], host.cpuid(0xa, 0));
        let (version, counters, width) = (eax & 0xff, eax >> 8 & 0xff, eax >> 16 & 0xff);
        match version {
            0 => assert_eq!((counters, width), (0, 0)),
            _ => assert!((1..=8).contains(&counters) && (32..=64).contains(&width)),
        }
    });
}

/// Leaves 0xB and 0x1F give one APIC id, that of leaf 1, and shifts by which it falls apart into
/// socket, core and thread. Linux takes leaf 0x1F before leaf 0xB (`cpu_parse_topology_ext`).
#[test]
fn the_topology_is_told_alike() {
    each(|host, guest, topology, vcpu| {
        let initial = guest.cpuid(1, 0)[1] >> 24;
        let host_has = |function| host.cpuid(function, 0)[1] != 0;
        let mut shifts = Vec::new();
        for function in [0x1f, 0xb] {
            if guest.cpuid(function, 0)[1] == 0 {
                assert!(
                    function == 0x1f && !host_has(0x1f),
                    "leaf {function:#x} is gone"
                );
                continue;
            }
            assert!(
                guest.cpuid(0, 0)[0] >= function,
                "leaf {function:#x} is past the last"
            );
            let [thread_shift, threads, thread_level, id] = guest.cpuid(function, 0);
            let [socket_shift, all, core_level, same] = guest.cpuid(function, 1);
            assert_eq!([thread_level, core_level], [0x100, 0x201]);
            assert_eq!([id & 0xff, id], [initial, same]);
            assert_eq!(
                [threads, all],
                [topology.threads(), topology.threads_per_socket()]
            );
            assert_eq!(guest.cpuid(function, 2)[1..], [0, 2, id]);
            assert_eq!(id >> socket_shift, topology.socket(vcpu));
            assert!(1 << thread_shift >= threads && 1 << socket_shift >= all);
            shifts.push([thread_shift, socket_shift]);
        }
        shifts.dedup();
        assert_eq!(shifts.len(), 1);
        let many = guest.cpuid(1, 0)[3] & 1 << 28 != 0;
        assert_eq!(many, topology.threads_per_socket() > 1);
    });
}

/// Linux compares the sizes of leaf 0xD with the sum over the components, and disables XSAVE if
/// they differ (`paranoid_xstate_size_valid`). Each component has a subleaf (SDM volume 1, 13.2).
#[test]
fn the_sizes_of_xsave_agree() {
    each(|host, guest, _, _| {
        assert!(guest.has_xsave(), "all these processors have XSAVE");
        let (user, supervisor) = guest.components();
        let (host_user, _) = host.components();
        assert_eq!(user & !host_user, 0, "components that the host has not");
        assert_eq!((user & 3, user & supervisor), (3, 0));
        let (mut standard, mut compacted) = (576, 576);
        for index in 2..63 {
            let [size, offset, flags, _] = guest.cpuid(0xd, index);
            let kept = (user | supervisor) & 1 << index != 0;
            assert_eq!(size != 0, kept, "component {index}");
            if !kept {
                continue;
            }
            assert_eq!(guest.cpuid(0xd, index), host.cpuid(0xd, index));
            assert_eq!(flags & 1 != 0, supervisor & 1 << index != 0);
            if flags & 1 == 0 {
                standard = standard.max(offset + size);
            }
            if flags & 2 != 0 {
                compacted = u32::next_multiple_of(compacted, 64);
            }
            compacted += size;
        }
        let [_, current, all, _] = guest.cpuid(0xd, 0);
        assert_eq!(
            (current, all),
            (576, standard),
            "XCR0 has only x87 at first"
        );
        // AVX-512 is kept where the processor has it, and AMX never.
        assert_eq!(user & 0xe0, host_user & 0xe0);
        assert_eq!(user & 3 << 17, 0);
        let [instructions, current, _, _] = guest.cpuid(0xd, 1);
        assert_eq!(
            instructions & 0xf,
            host.cpuid(0xd, 1)[0] & 0xf,
            "XSAVEC and XSAVES stay"
        );
        assert_eq!(current, 576);
        assert!(compacted >= 576);
    });
}

/// Leaf 0x15 on Intel: a ratio and a crystal from which Linux computes the TSC's frequency
/// (`native_calibrate_tsc`), within its tolerance of 500 ppm, and the timer of the local APIC.
#[test]
fn the_crystal_gives_the_frequency() {
    each(|host, guest, _, _| {
        if !guest.is_intel() {
            assert_eq!(guest.cpuid(0x15, 0), host.cpuid(0x15, 0));
            return;
        }
        let [denominator, numerator, crystal_hz, _] = guest.cpuid(0x15, 0);
        assert!(denominator != 0 && numerator != 0);
        assert_eq!(
            crystal_hz, 1_000_000_000,
            "KVM's APIC timer counts nanoseconds"
        );
        let khz = u64::from(crystal_hz / 1000) * u64::from(numerator) / u64::from(denominator);
        assert!(khz.abs_diff(2_593_907) * 2000 < 2_593_907, "{khz} kHz");
        assert!(guest.cpuid(0, 0)[0] >= 0x15);
    });
}

/// Leaf 0x80000008: the address widths stay, since KVM's page tables follow them.
#[test]
fn the_address_widths_stay() {
    each(|host, guest, _, _| {
        let [widths, ..] = guest.cpuid(0x8000_0008, 0);
        assert_eq!(widths, host.cpuid(0x8000_0008, 0)[0]);
        let (physical, linear) = (widths & 0xff, widths >> 8 & 0xff);
        assert!((36..=52).contains(&physical) && matches!(linear, 48 | 57));
    });
}

/// A processor has no leaf after its last one, which leaves 0, 0x40000000 and 0x80000000 name.
#[test]
fn no_leaf_is_past_the_last() {
    each(|_, guest, _, _| {
        for base in [0, 0x4000_0000, 0x8000_0000] {
            let [last, ..] = guest.cpuid(base, 0);
            let in_range = |function: &u32| *function >> 28 == base >> 28;
            let functions = guest.0.keys().map(|(function, _)| function);
            assert!(
                functions.filter(|f| in_range(f)).all(|f| *f <= last),
                "{base:#x}"
            );
        }
    });
}
