//! The state of vCPU 0 at the kernel's entry, and the state that firmware sets on every vCPU.
//!
//! Registers are those of Documentation/arch/x86/boot.rst, "64-bit Boot Protocol", or of Xen's
//! docs/misc/pvh.pandoc. This file does not call KVM: the vCPU's owner gets `kvm_sregs` from KVM,
//! lets [`CpuState::apply`] change them, and sets them again.

use kvm_bindings::{
    CpuId, kvm_dtable, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs,
};
use vm_memory::{Bytes, GuestAddress};

use crate::boot::entry::Entry;
use crate::boot::error::BootError;
use crate::layout::{LOW_GDT, LOW_IDT, LOW_PAGE_TABLES};
use crate::memory::guest_memory::GuestMemory;

// Intel SDM volume 3A, 2.5 (control registers) and 2.2.1 (EFER).
const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// RFLAGS with only the bit set that is always one: interrupts are off.
const RFLAGS_FIXED: u64 = 1 << 1;

/// `__BOOT_CS`, which the 64-bit protocol prescribes.
const BOOT_CS: u16 = 0x10;
/// `__BOOT_DS`, likewise for ds, es and ss.
const BOOT_DS: u16 = 0x18;
/// Segment types: SDM volume 3A, table 3-1.
const TYPE_CODE: u8 = 0xb;
const TYPE_DATA: u8 = 0x3;
/// A busy 32- or 64-bit TSS: SDM volume 3A, table 3-2.
const TYPE_TSS_BUSY: u8 = 0xb;
/// A TSS without an I/O bitmap: its 104 bytes.
const TSS_LIMIT: u32 = 0x67;

const PAGE: u64 = 4096;
/// Page table entries: SDM volume 3A, 4.5.
const PTE_PRESENT_WRITABLE: u64 = 0x3;
const PTE_LARGE: u64 = 1 << 7;
/// GiB that the identity map covers: all that a kernel or its parameters can be loaded into.
const MAPPED_GIB: u64 = 4;
const ENTRIES: u64 = 512;

/// vCPU 0 at its first instruction.
#[derive(Clone, Copy, Debug)]
pub struct CpuState {
    /// For KVM_SET_REGS.
    pub regs: kvm_regs,
    long_mode: bool,
}

impl CpuState {
    /// The state for an entry.
    pub fn new(entry: &Entry) -> Self {
        let regs = kvm_regs {
            rflags: RFLAGS_FIXED,
            ..Default::default()
        };
        match *entry {
            Entry::Linux64 { rip, zero_page } => Self {
                regs: kvm_regs {
                    rip,
                    rsi: zero_page,
                    ..regs
                },
                long_mode: true,
            },
            Entry::Pvh { eip, start_info } => Self {
                regs: kvm_regs {
                    rip: eip,
                    rbx: start_info,
                    ..regs
                },
                long_mode: false,
            },
        }
    }

    /// Changes the special registers that KVM returned; the APIC base and the rest stay.
    pub fn apply(&self, sregs: &mut kvm_sregs) {
        let (cs, ds) = self.segments();
        sregs.cs = cs;
        for segment in [
            &mut sregs.ds,
            &mut sregs.es,
            &mut sregs.fs,
            &mut sregs.gs,
            &mut sregs.ss,
        ] {
            *segment = ds;
        }
        // A VM entry in protected mode needs a usable, busy TSS (SDM volume 3C, 26.3.1.2). There
        // are no task switches, so the TSS needs no descriptor.
        sregs.tr = kvm_segment {
            limit: TSS_LIMIT,
            type_: TYPE_TSS_BUSY,
            present: 1,
            ..Default::default()
        };
        sregs.gdt = kvm_dtable {
            base: LOW_GDT,
            limit: (size_of::<[u64; 4]>() - 1) as u16,
            ..Default::default()
        };
        // No vectors: a fault before the kernel has its own table is a triple fault.
        sregs.idt = kvm_dtable {
            base: LOW_IDT,
            limit: 0,
            ..Default::default()
        };
        (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = if self.long_mode {
            (
                CR0_PE | CR0_ET | CR0_PG,
                LOW_PAGE_TABLES,
                CR4_PAE,
                EFER_LME | EFER_LMA,
            )
        } else {
            // pvh.pandoc: "bit 0 (PE) must be set. All the other writeable bits are cleared";
            // ET is not writable.
            (CR0_PE | CR0_ET, 0, 0, 0)
        };
    }

    /// Flat 4 GiB code and data segments.
    fn segments(&self) -> (kvm_segment, kvm_segment) {
        let data = kvm_segment {
            base: 0,
            limit: u32::MAX,
            selector: BOOT_DS,
            type_: TYPE_DATA,
            present: 1,
            s: 1,
            db: 1,
            g: 1,
            ..Default::default()
        };
        let code = kvm_segment {
            selector: BOOT_CS,
            type_: TYPE_CODE,
            // L and D exclude each other: SDM volume 3A, 3.4.5.
            l: self.long_mode.into(),
            db: (!self.long_mode).into(),
            ..data
        };
        (code, data)
    }

    /// The GDT that matches the segment registers: null, unused, `__BOOT_CS`, `__BOOT_DS`.
    fn gdt(&self) -> [u64; 4] {
        let (code, data) = self.segments();
        [0, 0, descriptor(&code), descriptor(&data)]
    }
}

/// The descriptor that a segment register would be loaded from: SDM volume 3A, figure 3-8.
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g != 0 {
        segment.limit >> 12
    } else {
        segment.limit
    });
    let base = segment.base;
    let access = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7;
    let flags = u64::from(segment.avl)
        | u64::from(segment.l) << 1
        | u64::from(segment.db) << 2
        | u64::from(segment.g) << 3;
    (limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (base >> 24 & 0xff) << 56
}

/// Writes the GDT, an empty IDT, and for a 64-bit entry the identity page tables of the first
/// 4 GiB in 2 MiB pages.
///
/// # Errors
///
/// The first megabyte is not RAM.
pub fn write_tables(memory: &GuestMemory, entry: &Entry) -> Result<(), BootError> {
    let state = CpuState::new(entry);
    let write = |words: &[u64], at: u64| {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        memory
            .write_slice(&bytes, GuestAddress(at))
            .map_err(|source| BootError::Memory {
                what: "boot tables",
                source,
            })
    };
    write(&state.gdt(), LOW_GDT)?;
    write(&[0], LOW_IDT)?;
    if state.long_mode {
        let pdpt = LOW_PAGE_TABLES + PAGE;
        let first_pd = pdpt + PAGE;
        write(&[pdpt | PTE_PRESENT_WRITABLE], LOW_PAGE_TABLES)?;
        let pds: Vec<u64> = (0..MAPPED_GIB)
            .map(|i| (first_pd + i * PAGE) | PTE_PRESENT_WRITABLE)
            .collect();
        write(&pds, pdpt)?;
        let pages: Vec<u64> = (0..MAPPED_GIB * ENTRIES)
            .map(|i| (i << 21) | PTE_LARGE | PTE_PRESENT_WRITABLE)
            .collect();
        write(&pages, first_pd)?;
    }
    Ok(())
}

/// IA32_MTRR_DEF_TYPE: SDM volume 3A, 12.11.2.1.
pub const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE: u64 = 1 << 11;
const MTRR_WRITE_BACK: u64 = 6;
/// IA32_MISC_ENABLE: SDM volume 4, table 2-2.
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_FAST_STRING: u64 = 1 << 0;
const MISC_COUNTERS: u64 = 1 << 7;
const MISC_MONITOR: u64 = 1 << 18;

/// What CPUID offers and an MSR enables.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offered {
    /// Performance counters: leaf 0xA.
    pub counters: bool,
    /// MONITOR and MWAIT: leaf 1, ecx bit 3.
    pub monitor: bool,
}

impl Offered {
    /// Reads the leaves of a vCPU.
    pub fn by(cpuid: &CpuId) -> Self {
        let find = |function| {
            let mut entries = cpuid.as_slice().iter();
            entries.find(|e| e.function == function && e.index == 0)
        };
        Self {
            counters: find(0xa).is_some_and(|e| e.eax & 0xff != 0),
            monitor: find(1).is_some_and(|e| e.ecx & 1 << 3 != 0),
        }
    }
}

/// Changes an MSR from KVM's reset value to the value that a PC's firmware leaves.
///
/// - MTRRdefType is enabled and write-back, as firmware would set it. With a device whose DMA is
///   not coherent, KVM honours the guest's MTRRs. The MTRRs of the reset state make all memory
///   uncached, and a boot 20 times slower. Device memory is uncached by the page tables (PAT).
/// - MISC_ENABLE has fast strings on: without the bit Linux does not use `rep movs` on Intel
///   (`early_init_intel`). The bits for performance counters and for MONITOR say what CPUID says;
///   KVM sets neither (arch/x86/kvm/x86.c, `kvm_vcpu_reset`). Its other bits stay: they tell that
///   BTS and PEBS are not offered.
pub fn as_firmware_leaves(msr: &mut kvm_msr_entry, offered: Offered) {
    match msr.index {
        MSR_MTRR_DEF_TYPE => msr.data = MTRR_ENABLE | MTRR_WRITE_BACK,
        MSR_MISC_ENABLE => {
            msr.data |= MISC_FAST_STRING;
            for (is_offered, bit) in [
                (offered.counters, MISC_COUNTERS),
                (offered.monitor, MISC_MONITOR),
            ] {
                msr.data = msr.data & !bit | if is_offered { bit } else { 0 };
            }
        }
        _ => (),
    }
}

/// The MSRs that [`as_firmware_leaves`] changes.
pub const FIRMWARE_MSRS: [u32; 2] = [MSR_MTRR_DEF_TYPE, MSR_MISC_ENABLE];

/// The FPU after FNINIT and a reset of MXCSR (SDM volume 1, 8.1.5 and 10.2.3): all exceptions are
/// masked. KVM's own state is the power-on state, with the x87 control word 0x40.
pub fn fpu() -> kvm_fpu {
    kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    }
}

// The local vector table: SDM volume 3A, 11.5.1.
const APIC_LVT0: usize = 0x350;
const APIC_LVT1: usize = 0x360;
const LVT_DELIVERY_EXTINT: u32 = 0b111 << 8;
const LVT_DELIVERY_NMI: u32 = 0b100 << 8;
const LVT_MASKED: u32 = 1 << 16;

/// Sets the two local interrupt pins, on every vCPU.
///
/// A PC connects its 8259 to LINT0, and in KVM's reset state LINT0 of vCPU 0 is unmasked. No guest
/// needs interrupts of the 8259: its inputs are masked, and hardware-reduced ACPI declares no such
/// controller. Linux keeps the mask bit of LINT0 (`setup_local_APIC`), so LINT0 is set to ExtINT
/// and masked. LINT1 is set to NMI and unmasked, as in the MADT.
pub fn set_lint(lapic: &mut kvm_lapic_state) {
    let mut set = |offset: usize, value: u32| {
        if let Some(register) = lapic.regs.get_mut(offset..offset + 4) {
            for (to, from) in register.iter_mut().zip(value.to_le_bytes()) {
                *to = from.cast_signed();
            }
        }
    };
    set(APIC_LVT0, LVT_DELIVERY_EXTINT | LVT_MASKED);
    set(APIC_LVT1, LVT_DELIVERY_NMI);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::guest_memory::test_memory;

    const LINUX: Entry = Entry::Linux64 {
        rip: 0x100_0200,
        zero_page: 0x7000,
    };
    const PVH: Entry = Entry::Pvh {
        eip: 0x100_0000,
        start_info: 0x6000,
    };

    fn memory() -> GuestMemory {
        test_memory(&[(GuestAddress(0), 1 << 20)])
    }

    fn words(memory: &GuestMemory, at: u64, n: usize) -> Vec<u64> {
        (0..n)
            .map(|i| memory.read_obj(GuestAddress(at + 8 * i as u64)).unwrap())
            .collect()
    }

    #[test]
    fn linux_starts_in_long_mode() {
        let state = CpuState::new(&LINUX);
        let mut sregs = kvm_sregs {
            apic_base: 0xfee0_0900,
            ..Default::default()
        };
        state.apply(&mut sregs);
        assert_eq!(
            (state.regs.rip, state.regs.rsi, state.regs.rflags),
            (0x100_0200, 0x7000, 2)
        );
        assert_eq!(sregs.cr0, 0x8000_0011);
        assert_eq!((sregs.cr3, sregs.cr4, sregs.efer), (0x9000, 0x20, 0x500));
        assert_eq!((sregs.cs.selector, sregs.cs.l, sregs.cs.db), (0x10, 1, 0));
        for s in [sregs.ds, sregs.es, sregs.ss] {
            assert_eq!((s.selector, s.limit, s.g), (0x18, u32::MAX, 1));
        }
        assert_eq!(
            (sregs.tr.type_, sregs.tr.limit, sregs.tr.unusable),
            (0xb, 0x67, 0)
        );
        assert_eq!((sregs.gdt.base, sregs.gdt.limit), (0x500, 31));
        assert_eq!(sregs.apic_base, 0xfee0_0900);
    }

    #[test]
    fn pvh_starts_in_protected_mode() {
        let state = CpuState::new(&PVH);
        let mut sregs = kvm_sregs::default();
        state.apply(&mut sregs);
        assert_eq!(
            (state.regs.rip, state.regs.rbx, state.regs.rflags),
            (0x100_0000, 0x6000, 2)
        );
        assert_eq!((sregs.cr0, sregs.cr4, sregs.efer), (0x11, 0, 0));
        assert_eq!((sregs.cs.l, sregs.cs.db, sregs.cs.limit), (0, 1, u32::MAX));
    }

    #[test]
    fn tables_match_the_registers() {
        let memory = memory();
        write_tables(&memory, &LINUX).unwrap();
        assert_eq!(
            words(&memory, LOW_GDT, 4),
            [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff]
        );
        write_tables(&memory, &PVH).unwrap();
        assert_eq!(words(&memory, LOW_GDT, 4)[2], 0x00cf_9b00_0000_ffff);
    }

    #[test]
    fn the_first_4_gib_are_mapped_to_themselves() {
        let memory = memory();
        write_tables(&memory, &LINUX).unwrap();
        let walk = |address: u64| {
            let mut table = LOW_PAGE_TABLES;
            for shift in [39, 30] {
                let entry = words(&memory, table + (address >> shift & 511) * 8, 1)[0];
                assert_eq!(entry & 3, 3);
                table = entry & !0xfff;
            }
            let entry = words(&memory, table + (address >> 21 & 511) * 8, 1)[0];
            assert_eq!(entry & 0x83, 0x83);
            (entry & !0x1f_ffff) | (address & 0x1f_ffff)
        };
        for address in [0, 0x7123, 0x20_0000, 0x3fff_ffff, 0xbfff_f000, 0xffff_ffff] {
            assert_eq!(walk(address), address);
        }
    }

    #[test]
    fn too_little_ram_for_the_tables_is_an_error() {
        let tiny = test_memory(&[(GuestAddress(0), 0x9000)]);
        assert!(write_tables(&tiny, &LINUX).is_err());
    }

    #[test]
    fn local_pins() {
        let mut lapic = kvm_lapic_state::default();
        set_lint(&mut lapic);
        assert_eq!(lapic.regs[0x350..0x354], [0, 7, 1, 0]);
        assert_eq!(lapic.regs[0x360..0x364], [0, 4, 0, 0]);
        assert_eq!(lapic.regs.iter().filter(|&&b| b != 0).count(), 3);
    }

    #[test]
    fn memory_is_write_back_and_strings_are_fast() {
        let left = |index, data, offered| {
            let mut msr = kvm_msr_entry {
                index,
                data,
                ..Default::default()
            };
            as_firmware_leaves(&mut msr, offered);
            msr.data
        };
        let nothing = Offered::default();
        let all = Offered {
            counters: true,
            monitor: true,
        };
        assert_eq!(left(0x2ff, 0, nothing), 0x806);
        // KVM's value says that neither BTS nor PEBS is there.
        assert_eq!(left(0x1a0, 0x1800, nothing), 0x1801);
        assert_eq!(left(0x1a0, 0x1800, all), 0x4_1881);
        assert_eq!(left(0x1a0, 0x1880, nothing), 0x1801);
        assert_eq!(left(0x10, 7, all), 7);
    }
}
