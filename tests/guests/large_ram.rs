//! More RAM than any host here has, of which the guest touches a few pages.

use iced_x86::code_asm::{cr0, cr3, cr4, eax, ecx, edx};
use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::Kvm;
use vmm::config::memory::MemoryConfig;
use vmm::layout::Layout;
use vmm::vcpu;

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![first_and_last_bytes_of_1_1_tib];

/// The tables of 4-level paging (SDM volume 3A, 4.5), which 32-bit code has in compatibility mode:
/// the first GiB shows the first 4 MiB, where the code is, and the second shows any 2 MiB.
const TOP: u32 = 0x5_0000;
const POINTERS: u32 = TOP + 0x1000;
const FIRST: u32 = POINTERS + 0x1000;
const SECOND: u32 = POINTERS + 0x2000;
const WINDOW: u32 = 1 << 30;
/// Present and writable, and for an entry of a directory 2 MiB large.
const PRESENT: u32 = 0x3;
const PAGE: u32 = 0x83;
const PAGE_SIZE: u64 = 2 << 20;

fn paging_on(g: &mut Asm) {
    g.store32(TOP, POINTERS | PRESENT);
    g.store32(POINTERS, FIRST | PRESENT)
        .store32(POINTERS + 8, SECOND | PRESENT);
    g.store32(FIRST, PAGE)
        .store32(FIRST + 8, PAGE_SIZE as u32 | PAGE);
    g.code(|a| {
        a.mov(eax, cr4)?;
        a.or(eax, 1 << 5)?;
        a.mov(cr4, eax)?;
        a.mov(eax, TOP)?;
        a.mov(cr3, eax)?;
        // EFER.LME (SDM volume 3A, 2.2.1).
        a.mov(ecx, 0xc000_0080u32)?;
        a.mov(eax, 1 << 8)?;
        a.mov(edx, 0)?;
        a.wrmsr()?;
        a.mov(eax, cr0)?;
        a.or(eax, 1 << 31)?;
        a.mov(cr0, eax)
    });
}

/// Shows a physical address; returns where the guest sees it.
fn show(g: &mut Asm, address: u64) -> u32 {
    let page = address & !(PAGE_SIZE - 1);
    g.store32(SECOND, page as u32 | PAGE)
        .store32(SECOND + 4, (page >> 32) as u32);
    g.code(|a| {
        a.mov(eax, cr3)?;
        a.mov(cr3, eax)
    });
    WINDOW + (address - page) as u32
}

/// Every region of RAM has memory of its own, from its first byte to its last.
fn first_and_last_bytes_of_1_1_tib() {
    let size = ((11 << 40) / 10) & !0xfff;
    let supported = Kvm::new()
        .unwrap()
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
    let reach = vcpu::reach(&supported.unwrap());
    let Ok(layout) = Layout::new(size, 0, reach) else {
        let why = format!("this host's processor has {} bits of address", reach.bits);
        assert!(std::env::var_os("MINI_VMM_REQUIRE").is_none(), "{why}");
        println!("SKIPPED: {why}");
        return;
    };
    let ends: Vec<_> = layout.ram().flat_map(|r| [r.start, r.end() - 1]).collect();
    assert_eq!(ends.len(), if reach.amd { 6 } else { 4 });
    let mut g = Asm::new();
    paging_on(&mut g);
    for (value, address) in (1..).zip(&ends) {
        let at = show(&mut g, *address);
        g.load(Width::Byte, at)
            .print_eax()
            .store(Width::Byte, at, value);
    }
    for address in &ends {
        let at = show(&mut g, *address);
        g.load(Width::Byte, at).print_eax();
    }
    g.power_off();
    let memory = MemoryConfig {
        check: false,
        ..MemoryConfig::new(size)
    };
    let numbers = Vm::new(g).memory(memory).no_reboot().run().numbers();
    let (before, after) = numbers.split_at(ends.len());
    assert!(before.iter().all(|n| *n == 0), "{before:?}");
    assert_eq!(after, (1..=ends.len() as u32).collect::<Vec<_>>());
}
