//! The guest's memory map, in the form that both boot protocols use.
//!
//! A pure function of the [`Layout`].
//! Types are those of ACPI 6.5, 15.4 ("Address Range Types"), which e820 and PVH share.

use pci::addr::Range;

use crate::layout::{
    ACPI_END, ACPI_START, HIGH_MEMORY_START, HYPERTRANSPORT_END, HYPERTRANSPORT_START,
    KVM_IDENTITY_MAP_ADDR, KVM_TSS_ADDR, LOW_RAM_END, Layout,
};

/// The end of KVM's own pages: one for the identity map, and three for the TSS above it.
const KVM_PAGES_END: u64 = KVM_TSS_ADDR + 0x3000;

/// The type of a range of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// AddressRangeMemory: the guest may use it.
    Ram = 1,
    /// AddressRangeReserved: neither RAM nor free for devices.
    Reserved = 2,
    /// AddressRangeACPI: holds ACPI tables.
    Acpi = 3,
}

/// One entry of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// First address.
    pub start: u64,
    /// Length in bytes, never zero.
    pub size: u64,
    /// The type of the range.
    pub kind: Kind,
}

/// The map for a layout: in address order, without overlaps, at most ten entries.
///
/// | from | to | is |
/// | --- | --- | --- |
/// | 0 | `LOW_RAM_END` | RAM: boot structures, then free |
/// | `LOW_RAM_END` | `ACPI_START` | reserved: the EBDA and video memory of PCs |
/// | `ACPI_START` | `ACPI_END` | ACPI: the tables |
/// | `ACPI_END` | `HIGH_MEMORY_START` | reserved: the BIOS's segment: MP table, reboot stub |
/// | 1 MiB | low RAM's end | RAM |
/// | `ECAM_START` | ECAM's end | reserved: Linux trusts MCFG only for a reserved range |
/// | KVM's four pages | | reserved: on older Intel hosts KVM itself uses them |
/// | 4 GiB | high RAM's end | RAM |
/// | the HyperTransport range, below far RAM | | reserved: no address for devices |
/// | 1 TiB | far RAM's end | RAM |
pub fn e820(layout: &Layout) -> Vec<Entry> {
    let low_end = layout.low_ram.end();
    let mut map = Vec::with_capacity(10);
    let mut push = |start: u64, end: u64, kind| {
        if end > start {
            map.push(Entry {
                start,
                size: end - start,
                kind,
            });
        }
    };
    push(layout.low_ram.start, low_end.min(LOW_RAM_END), Kind::Ram);
    push(LOW_RAM_END, ACPI_START, Kind::Reserved);
    push(ACPI_START, ACPI_END, Kind::Acpi);
    push(ACPI_END, HIGH_MEMORY_START, Kind::Reserved);
    push(HIGH_MEMORY_START, low_end, Kind::Ram);
    let ecam = layout.ecam();
    push(ecam.start, ecam.end(), Kind::Reserved);
    push(KVM_IDENTITY_MAP_ADDR, KVM_PAGES_END, Kind::Reserved);
    if let Some(Range { start, size }) = layout.high_ram {
        push(start, start.saturating_add(size), Kind::Ram);
    }
    if let Some(far) = layout.far_ram {
        push(HYPERTRANSPORT_START, HYPERTRANSPORT_END, Kind::Reserved);
        push(far.start, far.end(), Kind::Ram);
    }
    map
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::memory::MIN_MEMORY;

    fn check(map: &[Entry]) {
        for pair in map.windows(2) {
            assert!(pair[0].start + pair[0].size <= pair[1].start, "{pair:x?}");
        }
        assert!(map.iter().all(|e| e.size > 0));
    }

    fn ram(map: &[Entry]) -> u64 {
        map.iter()
            .filter(|e| e.kind == Kind::Ram)
            .map(|e| e.size)
            .sum()
    }

    #[test]
    fn a_small_guest() {
        let map = e820(&Layout::new(64 << 20, 0, 40).unwrap());
        check(&map);
        assert_eq!(
            map[0],
            Entry {
                start: 0,
                size: 0x9_fc00,
                kind: Kind::Ram
            }
        );
        assert_eq!(
            map[4],
            Entry {
                start: 1 << 20,
                size: 63 << 20,
                kind: Kind::Ram
            }
        );
        assert_eq!(map.len(), 7);
    }

    #[test]
    fn the_configuration_space_of_all_buses_is_reserved() {
        let layout = Layout::new(64 << 20, 0, 40).unwrap();
        for (last, mib) in [(0, 1), (1, 2), (255, 256)] {
            let map = e820(&layout.with_last_bus(last));
            check(&map);
            let wanted = Entry {
                start: 0xe000_0000,
                size: mib << 20,
                kind: Kind::Reserved,
            };
            assert!(map.contains(&wanted), "{map:x?}");
        }
    }

    #[test]
    fn ram_on_both_sides_of_the_hole() {
        let map = e820(&Layout::new(8 << 30, 0, 40).unwrap());
        check(&map);
        assert_eq!(
            map.last(),
            Some(&Entry {
                start: 4 << 30,
                size: 5 << 30,
                kind: Kind::Ram
            })
        );
    }

    proptest! {
        #[test]
        fn sorted_and_complete(memory in MIN_MEMORY..(900u64 << 30)) {
            if let Ok(layout) = Layout::new(memory, 0, 46) {
                let map = e820(&layout);
                check(&map);
                prop_assert_eq!(ram(&map), memory - (HIGH_MEMORY_START - LOW_RAM_END));
            }
        }

        #[test]
        fn even_less_ram_than_the_first_megabyte(size in 0u64..(2 << 20)) {
            let mut layout = Layout::new(MIN_MEMORY, 0, 40).unwrap();
            layout.low_ram.size = size;
            let map = e820(&layout);
            check(&map);
            let hole = size.min(HIGH_MEMORY_START).saturating_sub(LOW_RAM_END);
            prop_assert_eq!(ram(&map), size - hole);
        }
    }
}
