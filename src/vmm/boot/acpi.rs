//! The ACPI tables of a hardware-reduced machine.
//!
//! ACPI 6.5, chapter 5 (tables) and 4.1 (the hardware-reduced model); PCI Firmware 3.3, 4.1.2
//! (MCFG). The DSDT is in `dsdt`. The tables report which legacy devices are absent (8259, 8042,
//! RTC, VGA, ACPI mode, SCI), so that a guest does not look for them.

use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink, aml_as_bytes};
use vm_memory::{Bytes, GuestAddress};
use zerocopy::little_endian::U16;
use zerocopy::{Immutable, IntoBytes};

use crate::boot::aml::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, bytes};
use crate::boot::dsdt;
use crate::config::topology::Topology;
use crate::devices::pm_timer;
use crate::layout::{
    ACPI_END, ACPI_START, IOAPIC_ADDR, LAPIC_ADDR, Layout, PORT_PM_TIMER, PORT_RESET,
    PORT_SLEEP_CONTROL, PORT_SLEEP_STATUS, RESET_VALUE,
};
use crate::memory::guest_memory::GuestMemory;

/// Tables are aligned to this. The RSDP must be aligned to 16 bytes (5.2.5.1), a FACS to 64.
const ALIGNMENT: u64 = 64;

/// FADT, IAPC_BOOT_ARCH (ACPI 6.5, 5.2.9.3). The bits that stay clear: legacy devices on an ISA
/// bus, an 8042, "MSI not supported".
const BOOT_ARCH: u16 = BOOT_NO_VGA | BOOT_NO_ASPM | BOOT_NO_CMOS_RTC;
const BOOT_NO_VGA: u16 = 1 << 2;
/// The links belong to the host; the guest must not change their power states.
const BOOT_NO_ASPM: u16 = 1 << 4;
const BOOT_NO_CMOS_RTC: u16 = 1 << 5;

/// The tables of a machine, each with its guest-physical address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiTables {
    /// Guest-physical address of the RSDP.
    pub rsdp: u64,
    /// Guest-physical address and bytes of each table, all between `ACPI_START` and `ACPI_END`.
    pub tables: Vec<(u64, Vec<u8>)>,
}

/// The reason why the tables cannot be made or written.
#[derive(Debug, thiserror::Error)]
pub enum AcpiError {
    /// The area below 1 MiB is too small.
    #[error(
        "the ACPI tables need {0} bytes, and the area for them has {area}",
        area = ACPI_END - ACPI_START
    )]
    TooLarge(u64),
    /// The first megabyte is not RAM.
    #[error("cannot write an ACPI table of {size} bytes at {address:#x}")]
    Write {
        /// Guest-physical.
        address: u64,
        /// Bytes.
        size: usize,
        /// The reason.
        source: vm_memory::GuestMemoryError,
    },
}

/// Builds the tables for a machine with the vCPUs of `topology` and the windows of `layout`.
///
/// # Errors
/// [`AcpiError::TooLarge`].
pub fn build(layout: &Layout, topology: &Topology) -> Result<AcpiTables, AcpiError> {
    // The RSDP has the first address, but is built last: it points at the XSDT, which points at the
    // other tables.
    let mut area = TableArea::after(ACPI_START + Rsdp::len() as u64);
    let dsdt = area.add(dsdt::build(layout, topology.cpus()));
    let entries = [
        area.add(bytes(&fadt(dsdt))),
        area.add(bytes(&madt(topology))),
        area.add(bytes(&mcfg(layout))),
    ];
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for entry in entries {
        xsdt.add_entry(entry);
    }
    let xsdt = area.add(bytes(&xsdt));
    let mut tables = area.tables;
    tables.insert(0, (ACPI_START, bytes(&Rsdp::new(OEM_ID, xsdt))));
    if area.next > ACPI_END {
        return Err(AcpiError::TooLarge(area.next - ACPI_START));
    }
    Ok(AcpiTables {
        rsdp: ACPI_START,
        tables,
    })
}

impl AcpiTables {
    /// Writes the tables to guest memory.
    ///
    /// # Errors
    /// [`AcpiError::Write`], if the first megabyte is not RAM.
    pub fn write(&self, memory: &GuestMemory) -> Result<(), AcpiError> {
        for (address, table) in &self.tables {
            memory
                .write_slice(table, GuestAddress(*address))
                .map_err(|source| AcpiError::Write {
                    address: *address,
                    size: table.len(),
                    source,
                })?;
        }
        Ok(())
    }
}

/// Gives each table the next address.
struct TableArea {
    next: u64,
    tables: Vec<(u64, Vec<u8>)>,
}

impl TableArea {
    fn after(end: u64) -> Self {
        Self {
            next: end.next_multiple_of(ALIGNMENT),
            tables: Vec::new(),
        }
    }

    /// Adds a table and returns its guest-physical address.
    fn add(&mut self, bytes: Vec<u8>) -> u64 {
        let address = self.next;
        self.next = (address + bytes.len() as u64).next_multiple_of(ALIGNMENT);
        self.tables.push((address, bytes));
        address
    }
}

/// I/O ports as a Generic Address Structure (ACPI 6.5, 5.2.3.2).
fn ports(first: u16, bits: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bits, 0, access, first.into())
}

/// An 8-bit I/O port.
fn port(number: u16) -> GAS {
    ports(number, 8, AccessSize::ByteAccess)
}

/// FADT (ACPI 6.5, 5.2.9): the fixed hardware, of which the hardware-reduced model has little. The
/// PM timer is extra: guests without another clock look for the timer here ([`crate::devices`]).
fn fadt(dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        // No fixed power and sleep buttons.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        // The PM timer has 32 bits, not 24.
        .flag(Flags::TmrValExt)
        // No keyboard, no display.
        .flag(Flags::Headless);
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.reset_reg = port(PORT_RESET);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = port(PORT_SLEEP_CONTROL);
    fadt.sleep_status_reg = port(PORT_SLEEP_STATUS);
    fadt.pm_tmr_blk = u32::from(PORT_PM_TIMER).into();
    fadt.pm_tmr_len = pm_timer::PORTS as u8;
    fadt.x_pm_tmr_blk = ports(PORT_PM_TIMER, 32, AccessSize::DwordAccess);
    fadt.finalize()
}

/// Local APIC NMI (ACPI 6.5, 5.2.12.7), which acpi_tables does not have.
#[repr(C, packed)]
#[derive(Clone, Copy, IntoBytes, Immutable)]
struct LocalApicNmi {
    kind: u8,
    length: u8,
    processor: u8,
    flags: U16,
    pin: u8,
}

aml_as_bytes!(LocalApicNmi);

/// MADT (ACPI 6.5, 5.2.12): the local APICs, the IOAPIC, and LINT1 as NMI, which is how
/// [`set_lint`](super::cpu_state::set_lint) sets it. PCAT_COMPAT is clear: no 8259 to disable. GSI
/// and IOAPIC pin are the same number, so there are no interrupt source overrides.
///
/// A processor's `_UID` is its number; the topology gives its APIC ID.
fn madt(topology: &Topology) -> impl Aml {
    const EVERY_PROCESSOR: u8 = 0xff;
    let mut madt = MADT::new(
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
        LocalInterruptController::Address(LAPIC_ADDR),
    );
    // No ID is above 254, so each processor has the entry that every guest knows (5.2.12.12: the
    // entry for an x2APIC is for IDs of 255 and above), and `_UID` is below 255, which means all.
    for (apic_id, uid) in topology.apic_ids().zip(0u8..) {
        madt.add_structure(ProcessorLocalApic::new(
            uid,
            apic_id,
            EnabledStatus::Enabled,
        ));
    }
    madt.add_structure(IoApic::new(0, IOAPIC_ADDR, 0));
    madt.add_structure(LocalApicNmi {
        kind: 4,
        length: size_of::<LocalApicNmi>() as u8,
        processor: EVERY_PROCESSOR,
        flags: 0.into(),
        pin: 1,
    });
    madt
}

/// MCFG (PCI Firmware 3.3, 4.1.2): configuration space of all buses of segment 0.
fn mcfg(layout: &Layout) -> impl Aml {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(layout.ecam().start, 0, 0, layout.last_bus);
    mcfg
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::topology::Wish;
    use crate::memory::guest_memory::test_memory;

    fn cores(count: u32) -> Topology {
        Topology::new(count, Wish::default()).unwrap()
    }

    fn tables(cpus: u32) -> AcpiTables {
        tables_for(&cores(cpus))
    }

    fn tables_for(topology: &Topology) -> AcpiTables {
        build(&Layout::new(8 << 30, 32 << 30, 46).unwrap(), topology).unwrap()
    }

    fn table(all: &AcpiTables, signature: &[u8; 4]) -> (u64, Vec<u8>) {
        all.tables
            .iter()
            .find(|(_, t)| t.starts_with(signature))
            .cloned()
            .unwrap()
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    fn sums_to_zero(bytes: &[u8]) -> bool {
        bytes.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)) == 0
    }

    #[test]
    fn the_rsdp_leads_to_every_table() {
        let all = tables(2);
        let rsdp = &all.tables[0];
        assert_eq!((all.rsdp, rsdp.0), (0xe_0000, 0xe_0000));
        assert_eq!(&rsdp.1[..8], b"RSD PTR ");
        assert!(sums_to_zero(&rsdp.1[..20]) && sums_to_zero(&rsdp.1));
        let (at, xsdt) = table(&all, b"XSDT");
        assert_eq!(u64_at(&rsdp.1, 24), at);
        let entries: Vec<u64> = xsdt[36..].chunks(8).map(|e| u64_at(e, 0)).collect();
        let expected: Vec<u64> = [b"FACP", b"APIC", b"MCFG"]
            .map(|s| table(&all, s).0)
            .to_vec();
        assert_eq!(entries, expected);
        assert_eq!(u64_at(&table(&all, b"FACP").1, 140), table(&all, b"DSDT").0);
    }

    #[test]
    fn the_fadt_declares_no_legacy() {
        let (_, fadt) = table(&tables(1), b"FACP");
        let flags = u32::from_le_bytes(fadt[112..116].try_into().unwrap());
        assert_eq!(flags & (1 << 20 | 1 << 10), 1 << 20 | 1 << 10);
        assert_eq!(u16::from_le_bytes([fadt[109], fadt[110]]), 0b11_0100);
        // Reset register: one byte of I/O space, and its value.
        assert_eq!(fadt[116..120], [1, 8, 0, 1]);
        assert_eq!((u64_at(&fadt, 120), fadt[128]), (0x602, 1));
        assert_eq!((u64_at(&fadt, 248), u64_at(&fadt, 260)), (0x600, 0x601));
    }

    /// Linux takes the port from the extended field, and FreeBSD asks for the length.
    #[test]
    fn the_fadt_names_the_pm_timer() {
        let (_, fadt) = table(&tables(1), b"FACP");
        let flags = u32::from_le_bytes(fadt[112..116].try_into().unwrap());
        assert_eq!(flags & 1 << 8, 1 << 8);
        assert_eq!(fadt[76..80], [8, 6, 0, 0]);
        assert_eq!(fadt[91], 4);
        assert_eq!(fadt[208..212], [1, 32, 0, 3]);
        assert_eq!(u64_at(&fadt, 212), 0x608);
    }

    /// `_UID`, APIC ID and flags of each processor; how many IOAPICs and NMIs there are.
    fn in_madt(all: &AcpiTables) -> (Vec<(u8, u8, u8)>, u32, u32) {
        let (_, madt) = table(all, b"APIC");
        assert_eq!(madt[36..44], [0, 0, 0xe0, 0xfe, 0, 0, 0, 0]);
        let (mut rest, mut cpus, mut ioapics, mut nmis) = (&madt[44..], Vec::new(), 0, 0);
        while !rest.is_empty() {
            let (this, next) = rest.split_at(rest[1].into());
            match this[0] {
                0 => cpus.push((this[2], this[3], this[4])),
                1 => ioapics += 1,
                4 => nmis += 1,
                other => panic!("MADT entry of type {other}"),
            }
            rest = next;
        }
        (cpus, ioapics, nmis)
    }

    #[test]
    fn the_madt_has_every_cpu_once() {
        for cpus in [1, 64, 255] {
            let all: Vec<_> = (0..cpus).map(|i| (i, i, 1)).collect();
            assert_eq!(in_madt(&tables(cpus.into())), (all, 1, 1));
        }
        let threes = Wish {
            cores: Some(3),
            ..Wish::default()
        };
        let (cpus, ..) = in_madt(&tables_for(&Topology::new(6, threes).unwrap()));
        let ids = [(0, 0), (1, 1), (2, 2), (3, 4), (4, 5), (5, 6)];
        assert_eq!(cpus, ids.map(|(uid, id)| (uid, id, 1)));
    }

    #[test]
    fn the_mcfg_has_one_bus() {
        let (_, mcfg) = table(&tables(1), b"MCFG");
        assert_eq!(u64_at(&mcfg, 44), 0xe000_0000);
        assert_eq!(mcfg[52..56], [0, 0, 0, 0]);
        assert_eq!(mcfg.len(), 60);
    }

    #[test]
    fn the_mcfg_has_the_buses_of_all_ports() {
        let layout = Layout::new(64 << 20, 0, 40).unwrap();
        for last in [1, 8, 255] {
            let all = build(&layout.with_last_bus(last), &cores(1)).unwrap();
            let (_, mcfg) = table(&all, b"MCFG");
            assert_eq!(u64_at(&mcfg, 44), 0xe000_0000);
            assert_eq!(mcfg[52..56], [0, 0, 0, last]);
        }
    }

    #[test]
    fn no_ram_there_is_an_error() {
        let small = test_memory(&[(GuestAddress(0), 0x1000)]);
        assert!(matches!(
            tables(1).write(&small),
            Err(AcpiError::Write { .. })
        ));
    }

    /// iasl, where it is installed, reads every table without a complaint.
    #[test]
    fn iasl_agrees() {
        use std::process::Command;
        if Command::new("iasl").arg("-v").output().is_err() {
            let why = "iasl is not installed (package acpica-tools)";
            assert!(std::env::var_os("MINI_VMM_REQUIRE").is_none(), "{why}");
            eprintln!("SKIPPED: {why}");
            return;
        }
        let layout = Layout::new(8 << 30, 32 << 30, 46).unwrap();
        for last_bus in [0, 3, 255] {
            let all = build(&layout.with_last_bus(last_bus), &cores(4)).unwrap();
            iasl_reads(&all);
        }
    }

    fn iasl_reads(all: &AcpiTables) {
        use std::process::Command;
        let dir = std::env::temp_dir().join(format!("mini-vmm-acpi-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for signature in [b"DSDT", b"FACP", b"APIC", b"MCFG", b"XSDT"] {
            let name = String::from_utf8_lossy(signature).to_string();
            let file = dir.join(format!("{name}.dat"));
            std::fs::write(&file, table(all, signature).1).unwrap();
            let run = |args: &[&str], file: &std::path::Path| {
                let out = Command::new("iasl").args(args).arg(file).output().unwrap();
                let text = String::from_utf8_lossy(&out.stdout).to_string()
                    + &String::from_utf8_lossy(&out.stderr);
                assert!(out.status.success(), "{name}: {text}");
                assert!(!text.contains("checksum"), "{name}: {text}");
                text
            };
            run(&["-d"], &file);
            if signature == b"DSDT" {
                let text = run(&[], &file.with_extension("dsl"));
                assert!(text.contains(" 0 Errors, 0 Warnings"), "{text}");
            }
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    proptest! {
        #[test]
        fn tables_are_sound(
            memory in (64u64 << 20)..(800 << 30),
            bars in 0u64..(64 << 30),
            cpus in 1u32..=255,
        ) {
            if let Ok(layout) = Layout::new(memory, bars, 46) {
                let all = build(&layout, &cores(cpus)).unwrap();
                let mut end = ACPI_START;
                let mut sorted = all.tables.clone();
                sorted.sort();
                for (at, table) in &sorted {
                    prop_assert!(*at >= end && at % 16 == 0);
                    end = at + table.len() as u64;
                    prop_assert!(sums_to_zero(table));
                    if *at != all.rsdp {
                        let length = u32::from_le_bytes(table[4..8].try_into().unwrap());
                        prop_assert_eq!(length as usize, table.len());
                    }
                }
                prop_assert!(end <= ACPI_END);
            }
        }
    }
}
