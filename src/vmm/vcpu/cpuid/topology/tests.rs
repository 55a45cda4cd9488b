//! A guest's view: computes the position of a vCPU in each way that the manuals describe.

use crate::config::topology::{Topology, Wish};
use crate::vcpu::cpuid::tests::{host, make, regs};
use crate::vcpu::cpuid::topology::VcpuPosition;
use crate::vcpu::cpuid::{Leaves, Traits};

/// Socket, core of the socket, thread of the core.
type At = [u32; 3];

/// The least number of bits that can number `count` things.
fn width(count: u32) -> u32 {
    (0..32).find(|bits| 1u64 << bits >= count.into()).unwrap()
}

fn split(id: u32, thread_bits: u32, socket_shift: u32) -> At {
    let within = id & ((1 << socket_shift) - 1);
    let thread = id & ((1 << thread_bits) - 1);
    [id >> socket_shift, within >> thread_bits, thread]
}

/// SDM volume 3A, 9.9.5: leaf 0xB or 0x1F, whose levels are threads and cores.
fn by_x2apic(leaves: &Leaves, function: u32, topology: &Topology) -> At {
    let [thread_bits, threads, kind, id] = regs(leaves, function, 0);
    assert_eq!((threads, kind), (topology.threads(), 0x100));
    let [socket_shift, threads, kind, same] = regs(leaves, function, 1);
    assert_eq!((threads, kind), (topology.threads_per_socket(), 0x201));
    let [_, end, kind, last] = regs(leaves, function, 2);
    assert_eq!((end, kind, same, last), (0, 2, id, id));
    split(id, thread_bits, socket_shift)
}

/// The same chapter, for processors without these leaves: leaf 1 and leaf 4.
fn by_initial_id(leaves: &Leaves) -> At {
    let [_, ebx, _, edx] = regs(leaves, 1, 0);
    let ids = match edx & 1 << 28 {
        0 => 1,
        _ => ebx >> 16 & 0xff,
    };
    let cores = (regs(leaves, 4, 0)[0] >> 26) + 1;
    let socket_shift = width(ids);
    let thread_bits = socket_shift.checked_sub(width(cores)).unwrap();
    split(ebx >> 24, thread_bits, socket_shift)
}

/// AMD APM volume 3, E.5.2, and leaf 0x8000001E.
fn by_amd(leaves: &Leaves, topology: &Topology) -> At {
    let sizes = regs(leaves, 0x8000_0008, 0)[2];
    let threads = (sizes & 0xff) + 1;
    assert_eq!(threads, topology.threads_per_socket());
    let socket_shift = match sizes >> 12 & 0xf {
        0 => width(threads),
        bits => bits,
    };
    let [id, core, node, _] = regs(leaves, 0x8000_001e, 0);
    let at = split(id, width((core >> 8) + 1), socket_shift);
    assert_eq!(at[..2], [node, core & 0xff]);
    let [_, ebx, _, edx] = regs(leaves, 1, 0);
    let (has_many, count) = (edx & 1 << 28 != 0, ebx >> 16 & 0xff);
    assert_eq!((has_many, count), (threads > 1, threads));
    let legacy = regs(leaves, 0x8000_0001, 0)[2] & 2 != 0;
    assert_eq!((legacy, ebx >> 24), (threads > 1, id));
    at
}

/// The group of processors that share a subleaf's cache: the APIC ID, shifted right.
fn shares(leaves: &Leaves, function: u32, index: u32, id: u32) -> u32 {
    let ids = (regs(leaves, function, index)[0] >> 14 & 0xfff) + 1;
    id >> width(ids)
}

/// Checks the position of each vCPU in every way.
fn check(name: &[u8; 12], topology: Topology) {
    let topology = &topology;
    let entries = host(name);
    let tell = |vcpu| {
        let mut leaves = Leaves::new(&entries);
        VcpuPosition { topology, vcpu }.describe(&mut leaves, 0x1f, name == b"AuthenticAMD");
        leaves
    };
    let all: Vec<_> = (0..topology.cpus()).map(tell).collect();
    let mut owners = Vec::new();
    for (vcpu, leaves) in (0..).zip(&all) {
        let at = [
            topology.socket(vcpu),
            topology.core(vcpu),
            topology.thread(vcpu),
        ];
        let id = topology.apic_id(vcpu).into();
        assert_eq!(by_x2apic(leaves, 0xb, topology), at);
        assert_eq!(by_x2apic(leaves, 0x1f, topology), at);
        let function = if name == b"AuthenticAMD" {
            assert_eq!(by_amd(leaves, topology), at);
            0x8000_001d
        } else {
            // The field in leaf 4 ends at 64 cores.
            if topology.core_bits() <= 6 {
                assert_eq!(by_initial_id(leaves), at);
            }
            4
        };
        let caches = [0, 3].map(|index| shares(leaves, function, index, id));
        owners.push((at, caches));
    }
    for (a, [a1, a3]) in &owners {
        for (b, [b1, b3]) in &owners {
            assert_eq!(
                a1 == b1,
                a[..2] == b[..2],
                "the first cache of {a:?}, {b:?}"
            );
            assert_eq!(a3 == b3, a[0] == b[0], "the last cache of {a:?}, {b:?}");
        }
    }
}

#[test]
fn all_leaves_agree() {
    /// vCPUs of the largest topology. Every topology up to 255 would take minutes.
    const LARGEST: u32 = 64;
    let mut shapes = 0;
    for cores in 1..=LARGEST {
        for threads in 1..=LARGEST / cores {
            // One socket, two sockets, and as many as possible.
            let most = LARGEST / (cores * threads);
            for sockets in [1, 2, most] {
                let wish = Wish {
                    sockets: Some(sockets),
                    cores: Some(cores),
                    threads: Some(threads),
                };
                if let Ok(topology) = Topology::new(sockets * cores * threads, wish) {
                    check(b"GenuineIntel", topology);
                    check(b"AuthenticAMD", topology);
                    shapes += 1;
                }
            }
        }
    }
    assert!(shapes > 500, "{shapes}");
}

/// Up to 255 processors, with and without gaps between their IDs.
#[test]
fn all_leaves_of_many_agree() {
    for (cpus, sockets, cores) in [(255, 1, 255), (255, 255, 1), (255, 5, 51), (254, 1, 127)] {
        let wish = Wish {
            sockets: Some(sockets),
            cores: Some(cores),
            threads: None,
        };
        let topology = Topology::new(cpus, wish);
        // IDs of 5 sockets of 51 cores go up to 306.
        assert_eq!(topology.is_ok(), sockets != 5);
        if let Ok(topology) = topology {
            check(b"GenuineIntel", topology);
            check(b"AuthenticAMD", topology);
        }
    }
}

/// An old AMD processor, which has no leaf for threads.
#[test]
fn threads_without_topoext() {
    let mut old = Leaves(host(b"AuthenticAMD"));
    old.change(0x8000_0000, 0, |e| e.eax = 0x8000_000a);
    old.change(0x8000_0001, 0, |e| e.ecx &= !(1 << 22));
    old.remove(0x8000_001e);
    let make = |threads| {
        let wish = Wish {
            threads: Some(threads),
            ..Wish::default()
        };
        let topology = Topology::new(4, wish).unwrap();
        let traits = Traits {
            topology,
            ..Traits::default()
        };
        (make(&old.0, 3, &traits), topology)
    };
    let (cores, _) = make(1);
    assert!(cores.get(0x8000_001e, 0).is_none());
    assert_eq!(regs(&cores, 0x8000_0000, 0)[0], 0x8000_000a);
    assert_eq!(regs(&cores, 0x8000_0001, 0)[2] & 1 << 22, 0);
    let (threads, topology) = make(2);
    assert_eq!(by_amd(&threads, &topology), [0, 1, 1]);
    assert_eq!(regs(&threads, 0x8000_0000, 0)[0], 0x8000_001e);
    assert_ne!(regs(&threads, 0x8000_0001, 0)[2] & 1 << 22, 0);
}
