//! What a reset undoes in a vCPU: every register that KVM lets somebody write is written, the vCPU
//! is reset, and the registers must be as in a new vCPU.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;

use iced_x86::code_asm::{eax, edx};
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, KVMIO, kvm_debugregs, kvm_msr_entry, kvm_vcpu_events};
use kvm_ioctls::Kvm;
use vmm::vcpu::Vcpu;
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref};
use vmm_sys_util::{ioctl_ior_nr, ioctl_iow_nr, ioctl_iowr_nr};

use crate::Test;
use crate::common::asm::Asm;
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![
    a_reset_undoes_every_msr,
    a_reset_undoes_debug_registers_and_events,
    mtrrs_and_banks_of_the_guests,
];

/// `struct kvm_msrs` with one entry.
#[repr(C)]
#[derive(Default)]
struct OneMsr {
    count: u32,
    pad: u32,
    entry: kvm_msr_entry,
}

/// The header, which the number of the ioctl names.
#[repr(C)]
struct Header {
    _count: u32,
    _pad: u32,
}

ioctl_iowr_nr!(KVM_GET_MSRS, KVMIO, 0x88, Header);
ioctl_iow_nr!(KVM_SET_MSRS, KVMIO, 0x89, Header);
ioctl_ior_nr!(KVM_GET_DEBUGREGS, KVMIO, 0xa1, kvm_debugregs);
ioctl_iow_nr!(KVM_SET_DEBUGREGS, KVMIO, 0xa2, kvm_debugregs);
ioctl_ior_nr!(KVM_GET_VCPU_EVENTS, KVMIO, 0x9f, kvm_vcpu_events);
ioctl_iow_nr!(KVM_SET_VCPU_EVENTS, KVMIO, 0xa0, kvm_vcpu_events);

/// All indexes in the ranges where processors, KVM and other hypervisors have their MSRs.
const RANGES: [(u32, u32); 5] = [
    (0, 0x1fff),
    (0x4000_0000, 0x4000_01ff),
    (0x4b56_4d00, 0x4b56_4dff),
    (0xc000_0000, 0xc000_03ff),
    (0xc001_0000, 0xc001_1fff),
];

/// MSRs that time or the host's program changes, and no guest: the time-stamp counters and the
/// deadline in it; what KVM lets only a VMM write (SDM volume 4, 2.1: read-only for software).
const EXEMPT: &[(u32, &str)] = &[
    (0x10, "the time-stamp counter"),
    (0x3b, "its adjustment, which has a test of its own"),
    (0xe7, "counts"),
    (0xe8, "counts"),
    (0x8b, "the microcode's revision, for the VMM alone"),
    (0xce, "PLATFORM_INFO, for the VMM alone"),
    (0x10a, "ARCH_CAPABILITIES, for the VMM alone"),
    (0x345, "PERF_CAPABILITIES, for the VMM alone"),
    (0x34, "the count of SMIs, for the VMM alone"),
];

fn vcpu() -> Vcpu {
    let kvm = Kvm::new().unwrap();
    let vm = kvm.create_vm().unwrap();
    vm.create_irq_chip().unwrap();
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
    let msrs = kvm.get_msr_index_list().unwrap();
    Vcpu::new(&vm, (0, 0), |_| Ok(cpuid), msrs.as_slice(), None).unwrap()
}

fn read(vcpu: &Vcpu, index: u32) -> Option<u64> {
    let mut msr = OneMsr {
        count: 1,
        ..OneMsr::default()
    };
    msr.entry.index = index;
    // SAFETY: KVM reads and writes one entry after the header.
    let done = unsafe { ioctl_with_mut_ref(vcpu, KVM_GET_MSRS(), &mut msr) };
    (done == 1).then_some(msr.entry.data)
}

fn write(vcpu: &Vcpu, index: u32, data: u64) -> bool {
    let mut msr = OneMsr {
        count: 1,
        ..OneMsr::default()
    };
    (msr.entry.index, msr.entry.data) = (index, data);
    // SAFETY: KVM reads one entry after the header.
    unsafe { ioctl_with_ref(vcpu, KVM_SET_MSRS(), &msr) == 1 }
}

fn all(vcpu: &Vcpu) -> BTreeMap<u32, u64> {
    let indexes = RANGES.into_iter().flat_map(|(first, last)| first..=last);
    indexes
        .filter_map(|index| Some((index, read(vcpu, index)?)))
        .collect()
}

/// KVM takes more values from a VMM than from a guest, so the test writes more than a guest can.
fn a_reset_undoes_every_msr() {
    let vcpu = vcpu();
    // Some MSRs differ between a new vCPU and a vCPU after firmware's part.
    vcpu.reset().unwrap();
    let before = all(&vcpu);
    let mut changed = 0;
    for (&index, &old) in &before {
        if EXEMPT.iter().any(|(exempt, _)| *exempt == index) {
            continue;
        }
        // A single bit, a memory type, all but reserved bits, an address.
        for data in [
            old ^ 1,
            6,
            0x0606_0606_0606_0606,
            0x800,
            0x1000,
            old ^ 2,
            !0,
            0xff,
        ] {
            if data != old && write(&vcpu, index, data) && read(&vcpu, index) == Some(data) {
                changed += 1;
                break;
            }
        }
    }
    vcpu.reset().unwrap();
    let after = all(&vcpu);
    let differ = |(index, old): (&u32, &u64)| {
        let exempt = EXEMPT.iter().any(|(exempt, _)| exempt == index);
        let new = after.get(index);
        (!exempt && new != Some(old)).then(|| format!("{index:#x}: {old:#x} became {new:x?}"))
    };
    let different: Vec<_> = before.iter().filter_map(differ).collect();
    println!("{} MSRs, of which {changed} were changed", before.len());
    assert!(changed > 20, "{changed} of {} MSRs", before.len());
    assert_eq!(different, [] as [String; 0]);
    // The variable and fixed MTRRs are no part of KVM's list.
    for index in [0x200, 0x201, 0x250, 0x26f, 0x401] {
        assert!(after.contains_key(&index), "{index:#x} cannot be read");
    }
}

fn a_reset_undoes_debug_registers_and_events() {
    let vcpu = vcpu();
    let state = |vcpu: &Vcpu| {
        let (mut debug, mut events) = (kvm_debugregs::default(), kvm_vcpu_events::default());
        // SAFETY: KVM fills the structures.
        unsafe {
            assert_eq!(ioctl_with_mut_ref(vcpu, KVM_GET_DEBUGREGS(), &mut debug), 0);
            assert_eq!(
                ioctl_with_mut_ref(vcpu, KVM_GET_VCPU_EVENTS(), &mut events),
                0
            );
        }
        (debug, events)
    };
    let (debug, events) = state(&vcpu);
    let other = kvm_debugregs {
        db: [0x1000; 4],
        dr7: 0x401,
        ..debug
    };
    let mut pending = events;
    pending.nmi.pending = 1;
    pending.nmi.masked = 1;
    pending.interrupt.shadow = 1;
    pending.flags = 0x1f & !8;
    // SAFETY: KVM reads the structures.
    unsafe {
        assert_eq!(ioctl_with_ref(&vcpu, KVM_SET_DEBUGREGS(), &other), 0);
        ioctl_with_ref(&vcpu, KVM_SET_VCPU_EVENTS(), &pending);
    }
    assert_eq!(state(&vcpu).0.db, [0x1000; 4]);
    vcpu.reset().unwrap();
    let (debug_now, events_now) = state(&vcpu);
    assert_eq!((debug_now.db, debug_now.dr7), (debug.db, debug.dr7));
    assert_eq!(
        (events_now.nmi.pending, events_now.nmi.masked),
        (events.nmi.pending, events.nmi.masked)
    );
    assert_eq!(events_now.interrupt.shadow, events.interrupt.shadow);
    assert!(vcpu.as_raw_fd() > 0);
}

/// A dword of RAM that no boot overwrites.
const BOOTS: u32 = 0x6_0000;
/// A variable MTRR's base and mask, fixed MTRRs, and the control of a machine-check bank.
const WRITTEN: [(u32, u32); 5] = [
    (0x200, 0xc000_0006),
    (0x201, 0xf000_0800),
    (0x250, 0x0606_0606),
    (0x26f, 0x0505_0505),
    (0x400, 0),
];

fn mtrrs_and_banks_of_the_guests() {
    let mut g = Asm::new();
    let again = g.label();
    let show = |g: &mut Asm| {
        for (msr, _) in WRITTEN {
            g.mov_ecx(msr).code(|a| a.rdmsr()).print_eax();
        }
    };
    show(&mut g);
    g.inc32(BOOTS).load32(BOOTS).cmp_eax(2).je(again);
    for (msr, value) in WRITTEN {
        g.mov_ecx(msr).code(|a| {
            a.mov(eax, value)?;
            a.xor(edx, edx)?;
            a.wrmsr()
        });
    }
    show(&mut g);
    g.reset();
    g.bind(again).power_off();
    let numbers = Vm::new(g).run().numbers();
    let [first, written, second] = [0, 1, 2].map(|n| &numbers[n * 5..n * 5 + 5]);
    assert_eq!(written, WRITTEN.map(|(_, value)| value));
    assert_eq!(first, second);
    assert_ne!(first, written);
}
