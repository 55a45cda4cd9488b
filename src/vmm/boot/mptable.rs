//! The table of the MultiProcessor Specification 1.4, for a kernel that does not use ACPI
//! (`acpi=off`).
//!
//! Without this table and without ACPI, Linux knows no IOAPIC, routes no interrupt of a pin, and
//! does not use the timers of the local APICs (`apic_intr_mode_select`): the kernel then waits for
//! a timer that the machine does not have. A kernel with ACPI ignores the table.
//!
//! Section numbers are the specification's. GSI and IOAPIC pin are the same number, as in the MADT.

use vm_memory::{Bytes, GuestAddress};

use crate::boot::aml::{OEM_ID, OEM_TABLE_ID};
use crate::boot::error::BootError;
use crate::config::topology::Topology;
use crate::layout::{INTX_PINS, IOAPIC_ADDR, LAPIC_ADDR, MP_TABLE, gsi_of_pin};
use crate::memory::guest_memory::GuestMemory;

/// Bytes of the floating pointer structure (4.1). A kernel looks for the structure in the BIOS's
/// segment.
const POINTER: usize = 16;
/// Bytes of the table's header (4.2).
const HEADER: usize = 44;
/// Revision 1.4.
const REVISION: u8 = 4;

// The types of entries (table 4-3).
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IOAPIC: u8 = 2;
const INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

/// The numbers of the buses. The PCI bus has its own number, which tells a kernel the bus of an
/// interrupt entry.
const PCI: u8 = 0;
const ISA: u8 = 1;
const LEGACY_IRQS: u8 = 16;
/// The cascade of the two 8259, which is no interrupt.
const CASCADE: u8 = 2;
/// Device numbers with interrupt pins; 0 is the host bridge.
const DEVICES: std::ops::Range<u8> = 1..32;

/// Interrupt types (table 4-10).
const INT: u8 = 0;
const NMI: u8 = 1;
const EXTINT: u8 = 3;
/// Polarity and trigger mode as on the source bus: edge on ISA, level on PCI.
const CONFORMS: [u8; 2] = [0, 0];
/// All local APICs.
const EVERY_APIC: u8 = 0xff;
const IOAPIC_ID: u8 = 0;

/// Writes the floating pointer structure and the table.
///
/// # Errors
/// The first megabyte is not RAM.
pub fn write(memory: &GuestMemory, topology: &Topology) -> Result<(), BootError> {
    let mut bytes = pointer();
    bytes.extend(table(topology));
    memory
        .write_slice(&bytes, GuestAddress(MP_TABLE))
        .map_err(|source| BootError::Memory {
            what: "MP table",
            source,
        })
}

/// Sets the byte at `at` so that all bytes add up to zero.
fn set_checksum(bytes: &mut [u8], at: usize) {
    let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(byte) = bytes.get_mut(at) {
        *byte = byte.wrapping_sub(sum);
    }
}

/// The floating pointer structure. Feature byte 1 is 0: there is a table. Feature byte 2 is 0: no
/// IMCR, because the interrupts of the 8259 reach no processor.
fn pointer() -> Vec<u8> {
    let mut bytes = b"_MP_".to_vec();
    bytes.extend((MP_TABLE as u32 + POINTER as u32).to_le_bytes());
    bytes.extend([1, REVISION, 0, 0, 0, 0, 0, 0]);
    set_checksum(&mut bytes, 10);
    bytes
}

fn table(topology: &Topology) -> Vec<u8> {
    let entries = entries(topology);
    let size = HEADER + entries.iter().map(Vec::len).sum::<usize>();
    let mut bytes = b"PCMP".to_vec();
    bytes.extend((size as u16).to_le_bytes());
    bytes.extend([REVISION, 0]);
    bytes.extend(OEM_ID);
    bytes.extend(*b"  ");
    bytes.extend(OEM_TABLE_ID);
    bytes.extend(*b"    ");
    // No table of the OEM's.
    bytes.extend([0; 6]);
    bytes.extend((entries.len() as u16).to_le_bytes());
    bytes.extend(LAPIC_ADDR.to_le_bytes());
    // No extended entries.
    bytes.extend([0; 4]);
    bytes.extend(entries.concat());
    set_checksum(&mut bytes, 7);
    bytes
}

/// The entries, in the order of their types (4.3).
fn entries(topology: &Topology) -> Vec<Vec<u8>> {
    let mut entries: Vec<Vec<u8>> = (0..).zip(topology.apic_ids()).map(processor).collect();
    for (number, name) in [(PCI, b"PCI   "), (ISA, b"ISA   ")] {
        entries.push([&[BUS, number], &name[..]].concat());
    }
    let mut ioapic = vec![IOAPIC, IOAPIC_ID, 0x11, 1];
    ioapic.extend(IOAPIC_ADDR.to_le_bytes());
    entries.push(ioapic);
    for device in DEVICES {
        for pin in 0..INTX_PINS {
            // Bits 0 and 1 are the pin, the next five the device (D.3).
            let source = device << 2 | pin;
            entries.push(interrupt(PCI, source, gsi_of_pin(device, pin) as u8));
        }
    }
    for irq in (0..LEGACY_IRQS).filter(|irq| *irq != CASCADE) {
        entries.push(interrupt(ISA, irq, irq));
    }
    for (kind, pin) in [(EXTINT, 0), (NMI, 1)] {
        let [low, high] = CONFORMS;
        entries.push(vec![
            LOCAL_INTERRUPT,
            kind,
            low,
            high,
            ISA,
            0,
            EVERY_APIC,
            pin,
        ]);
    }
    entries
}

/// A processor (4.3.1): the first one boots. Signature and features are CPUID's to tell.
fn processor((number, apic_id): (u32, u8)) -> Vec<u8> {
    const ENABLED: u8 = 1;
    const BOOT: u8 = 2;
    const APIC_VERSION: u8 = 0x14;
    let flags = if number == 0 { ENABLED | BOOT } else { ENABLED };
    let mut entry = vec![PROCESSOR, apic_id, APIC_VERSION, flags];
    entry.extend([0; 16]);
    entry
}

/// An interrupt of a bus, and its IOAPIC pin (4.3.4).
fn interrupt(bus: u8, source: u8, pin: u8) -> Vec<u8> {
    let [low, high] = CONFORMS;
    vec![INTERRUPT, INT, low, high, bus, source, IOAPIC_ID, pin]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::topology::Wish;
    use crate::layout::{HIGH_MEMORY_START, REBOOT_VECTOR};
    use crate::memory::guest_memory::test_memory;

    fn cores(count: u32) -> Topology {
        Topology::new(count, Wish::default()).unwrap()
    }

    fn sums_to_zero(bytes: &[u8]) -> bool {
        bytes.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)) == 0
    }

    /// The bytes as a kernel finds them in memory.
    fn read(topology: &Topology) -> (Vec<u8>, Vec<u8>) {
        let ranges = [(GuestAddress(0), HIGH_MEMORY_START as usize)];
        let memory = test_memory(&ranges);
        write(&memory, topology).unwrap();
        let take = |at: u64, size: usize| {
            let mut bytes = vec![0; size];
            memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
            bytes
        };
        let pointer = take(MP_TABLE, POINTER);
        let at = u32::from_le_bytes(pointer[4..8].try_into().unwrap());
        let header = take(at.into(), HEADER);
        let size = u16::from_le_bytes([header[4], header[5]]);
        (pointer, take(at.into(), size.into()))
    }

    #[test]
    fn the_pointer_leads_to_the_table() {
        for cpus in [1, 255] {
            let (pointer, table) = read(&cores(cpus));
            assert!(pointer.starts_with(b"_MP_") && sums_to_zero(&pointer));
            assert!(table.starts_with(b"PCMP") && sums_to_zero(&table));
            assert_eq!(table[36..40], [0, 0, 0xe0, 0xfe]);
            let end = MP_TABLE + (POINTER + table.len()) as u64;
            assert!(end <= REBOOT_VECTOR, "{end:#x}");
        }
    }

    #[test]
    fn entries_are_counted_and_in_order() {
        let (_, table) = read(&cores(3));
        let count = u16::from_le_bytes([table[34], table[35]]);
        let (mut rest, mut kinds, mut pins) = (&table[HEADER..], Vec::new(), Vec::new());
        while let Some(kind) = rest.first() {
            let size = if *kind == PROCESSOR { 20 } else { 8 };
            let (entry, next) = rest.split_at(size);
            kinds.push(*kind);
            if *kind == INTERRUPT {
                pins.push((entry[4], entry[5], entry[7]));
            }
            rest = next;
        }
        assert_eq!(kinds.len(), usize::from(count));
        assert!(kinds.is_sorted());
        assert_eq!(kinds.iter().filter(|kind| **kind == PROCESSOR).count(), 3);
        // The serial port's interrupt; INTA of device 1, and INTD of device 31.
        for wanted in [(ISA, 4, 4), (PCI, 4, 17), (PCI, 0x7f, 21)] {
            assert!(pins.contains(&wanted), "{wanted:?} in {pins:?}");
        }
        assert!(!pins.iter().any(|(bus, irq, _)| (*bus, *irq) == (ISA, 2)));
    }

    #[test]
    fn the_first_processor_boots() {
        let threes = Wish {
            cores: Some(3),
            ..Wish::default()
        };
        let (_, table) = read(&Topology::new(6, threes).unwrap());
        let processors = table[HEADER..].chunks(20).take(6);
        let found: Vec<_> = processors.map(|entry| (entry[1], entry[3])).collect();
        assert_eq!(found, [(0, 3), (1, 1), (2, 1), (4, 1), (5, 1), (6, 1)]);
    }
}
