//! The map of guest-physical addresses, and the ranges that devices can reach by DMA.

use pci::addr::Range;
use vmm::layout::{
    ACPI_END, ACPI_START, HYPERTRANSPORT_END, HYPERTRANSPORT_START, IOAPIC_ADDR,
    KVM_IDENTITY_MAP_ADDR, LAPIC_ADDR, Layout,
};

use crate::explain::report::{Area, Extent};

/// Bytes of an interrupt controller's registers.
const CONTROLLER_SIZE: u64 = 0x1000;
/// Bytes of KVM's own pages: one for the identity map, three for the TSS
/// (Documentation/virt/kvm/api.rst, 4.40 and 4.36).
const KVM_PAGES: u64 = 0x4000;

/// A BAR: its name and its first range.
pub type FirstBar = (String, Range);

/// All ranges in order of address. A BAR follows the window that contains it.
pub fn areas(layout: &Layout, bars: &[FirstBar]) -> Vec<Area> {
    let fixed = |start: u64, size: u64, what: &str| (Range { start, size }, what.to_string(), 0);
    let mut all: Vec<(Range, String, u8)> = layout
        .ram()
        .map(|range| (range, "RAM".to_string(), 0))
        .collect();
    all.push((
        Range {
            start: ACPI_START,
            size: ACPI_END - ACPI_START,
        },
        "ACPI tables".into(),
        1,
    ));
    if layout.far_ram.is_some() {
        let size = HYPERTRANSPORT_END - HYPERTRANSPORT_START;
        all.push(fixed(
            HYPERTRANSPORT_START,
            size,
            "HyperTransport (AMD), reserved",
        ));
    }
    all.push((layout.mmio32, "PCI window below 4 GiB".into(), 0));
    all.push((layout.mmio64, "PCI window above RAM".into(), 0));
    all.push((layout.ecam(), "configuration space (ECAM)".into(), 0));
    all.extend([
        fixed(IOAPIC_ADDR.into(), CONTROLLER_SIZE, "IOAPIC"),
        fixed(LAPIC_ADDR.into(), CONTROLLER_SIZE, "local APICs, MSI"),
        fixed(KVM_IDENTITY_MAP_ADDR, KVM_PAGES, "KVM's own pages"),
    ]);
    all.extend(bars.iter().map(|(name, range)| (*range, name.clone(), 1)));
    all.sort_by_key(|(range, _, depth)| (range.start, *depth));
    all.into_iter()
        .map(|(range, what, depth)| Area {
            start: hex(range.start),
            last: hex(range.end() - 1),
            size: range.size,
            what,
            depth,
        })
        .collect()
}

/// A range as first and last address.
pub fn extent(range: &Range) -> Extent {
    Extent {
        start: hex(range.start),
        last: hex(range.end() - 1),
    }
}

/// The gaps between the ranges.
pub fn gaps(ranges: &[Range]) -> Vec<Range> {
    let mut sorted = ranges.to_vec();
    sorted.sort_by_key(|range| range.start);
    let mut gaps = Vec::new();
    let mut at = 0;
    for range in sorted {
        if range.start > at {
            gaps.push(Range {
                start: at,
                size: range.start - at,
            });
        }
        at = at.max(range.end());
    }
    gaps
}

/// An address in hexadecimal.
pub fn hex(address: u64) -> String {
    format!("{address:#x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_in_order() {
        let layout = Layout::new(4 << 30, 0, 40).unwrap();
        let bar = Range {
            start: layout.mmio64.start,
            size: 0x4000,
        };
        let areas = areas(&layout, &[("01.0 BAR 0".into(), bar)]);
        let names: Vec<_> = areas.iter().map(|a| (a.depth, a.what.as_str())).collect();
        assert_eq!(
            names,
            [
                (0, "RAM"),
                (1, "ACPI tables"),
                (0, "PCI window below 4 GiB"),
                (0, "configuration space (ECAM)"),
                (0, "IOAPIC"),
                (0, "local APICs, MSI"),
                (0, "KVM's own pages"),
                (0, "RAM"),
                (0, "PCI window above RAM"),
                (1, "01.0 BAR 0"),
            ]
        );
        assert_eq!(
            (areas[0].start.as_str(), areas[0].last.as_str()),
            ("0x0", "0xbfffffff")
        );
    }

    #[test]
    fn ram_on_both_sides_of_amds_range() {
        for (amd, after) in [
            (true, ["HyperTransport (AMD), reserved", "RAM"]),
            (false, ["", ""]),
        ] {
            let layout = Layout::new(2 << 40, 0, vmm::layout::Reach { bits: 48, amd }).unwrap();
            let areas = areas(&layout, &[]);
            let high = areas.iter().position(|a| a.start == "0x100000000").unwrap();
            let next: Vec<_> = areas[high + 1..].iter().map(|a| a.what.as_str()).collect();
            let wanted = after.iter().copied().filter(|what| !what.is_empty());
            let wanted: Vec<_> = wanted.chain(["PCI window above RAM"]).collect();
            assert_eq!(next, wanted);
        }
    }

    #[test]
    fn gaps_are_what_the_iommu_keeps() {
        let ranges = [(0x1000, 0x1fff), (0, 0xfff), (0x3000, 0x3fff)]
            .map(|(start, last)| Range::inclusive(start, last).unwrap());
        let found = gaps(&ranges);
        assert_eq!(found.iter().map(extent).collect::<Vec<_>>().len(), 1);
        assert_eq!((found[0].start, found[0].size), (0x2000, 0x1000));
        assert!(gaps(&[]).is_empty());
    }
}
