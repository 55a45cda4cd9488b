//! RAM on both sides of 1 TiB, for both makers: layout, memory map, slots and DMA maps agree.
//! The host's addresses are reserved, but no page is present.

use std::io;
use std::sync::{Arc, Mutex};

use pci::addr::Range;

use crate::boot::e820::{Kind, e820};
use crate::config::memory::Pages;
use crate::layout::{HYPERTRANSPORT_END, HYPERTRANSPORT_START, Layout, MMIO32_START, Reach};
use crate::memory::address_space::AddressSpace;
use crate::memory::dma::Dma;
use crate::memory::dma_mapper::DmaMapper;
use crate::memory::error::MemoryError;
use crate::memory::listener::MemoryListener;
use crate::memory::prefault::Prefault;
use crate::memory::ram::Ram;
use crate::memory::region::Region;

const GIB: u64 = 1 << 30;
/// The most pages of a memory slot (KVM_MEM_MAX_NR_PAGES).
const SLOT_PAGES: u64 = (1 << 31) - 1;
/// The most maps of a container (`dma_entry_limit` of vfio_iommu_type1).
const MOST_MAPS: usize = 65_535;

/// Takes slots as KVM does.
#[derive(Default)]
struct Slots(Mutex<Vec<Range>>);

impl MemoryListener for Slots {
    fn add(&self, region: &Region) -> Result<(), MemoryError> {
        assert!(region.size / 4096 <= SLOT_PAGES, "{:#x}", region.size);
        let Region { start, size, .. } = *region;
        self.0.lock().unwrap().push(Range { start, size });
        // Huge pages in the guest's page tables need this.
        assert_eq!((start ^ region.host_address()) % GIB, 0, "{start:#x}");
        Ok(())
    }

    fn remove(&self, _: &Region) -> Result<(), crate::memory::error::StillUsed> {
        Ok(())
    }
}

/// An IOMMU that maps as this maker's does.
struct Iommu {
    ranges: Vec<Range>,
    maps: Mutex<Vec<Range>>,
}

impl DmaMapper for Iommu {
    fn map(&self, start: u64, size: u64, _: u64) -> io::Result<()> {
        assert!(
            self.ranges.iter().any(|r| r.contains(start, size)),
            "{start:#x}+{size:#x}"
        );
        self.maps.lock().unwrap().push(Range { start, size });
        Ok(())
    }

    fn unmap(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn iova_ranges(&self) -> &[Range] {
        &self.ranges
    }
}

/// What AMD's IOMMU reports, or Intel's: all but the MSI range, and AMD's range below 1 TiB.
fn iommu(amd: bool) -> Iommu {
    let mut ends = vec![0, 0xfedf_ffff, 0xfef0_0000];
    if amd {
        ends.extend([HYPERTRANSPORT_START - 1, HYPERTRANSPORT_END]);
    }
    ends.push((1 << 48) - 1);
    let ranges = ends
        .chunks(2)
        .map(|r| Range::inclusive(r[0], r[1]).unwrap());
    Iommu {
        ranges: ranges.collect(),
        maps: Mutex::default(),
    }
}

/// The ranges without those borders at which one ends and the next begins.
fn joined(ranges: impl IntoIterator<Item = Range>) -> Vec<(u64, u64)> {
    let mut all: Vec<(u64, u64)> = Vec::new();
    for range in ranges {
        match all.last_mut() {
            Some((_, end)) if *end == range.start => *end = range.end(),
            _ => all.push((range.start, range.end())),
        }
    }
    all
}

/// Checks RAM of so many GiB; returns the ends of RAM in GiB.
fn check(gib: u64, amd: bool) -> Vec<(u64, u64)> {
    let layout = Layout::new(gib * GIB, 64 * GIB, Reach { bits: 48, amd }).unwrap();
    let wanted = joined(layout.ram());

    // The map does not show the first megabyte whole, so the sum has that hole.
    let map = e820(&layout);
    let ram = map.iter().filter(|e| e.kind == Kind::Ram);
    let above = ram.skip(2).map(|e| Range {
        start: e.start,
        size: e.size,
    });
    assert_eq!(joined(above), wanted[1..], "e820");
    for entry in &map {
        let end = entry.start + entry.size;
        let inside = entry.start < HYPERTRANSPORT_END && end > HYPERTRANSPORT_START;
        assert!(
            !amd || !inside || entry.kind == Kind::Reserved,
            "{entry:x?}"
        );
        assert!(end <= layout.mmio64.start || entry.start >= layout.mmio64.end());
    }

    let ram = Arc::new(Ram::new(&layout, Pages::Transparent, false).unwrap());
    assert_eq!(ram.size(), gib * GIB);
    let space = AddressSpace::new();
    let (slots, iommu) = (Arc::new(Slots::default()), Arc::new(iommu(amd)));
    space.subscribe(slots.clone()).unwrap();
    for region in ram.regions() {
        space.add(region.clone()).unwrap();
    }
    let meter = Arc::default();
    let dma = Arc::new(Dma::new(iommu.clone(), ram.size(), false, meter));
    space.subscribe(dma.clone()).unwrap();
    let mut prefault = Prefault::start(ram, false, Arc::default(), || ()).unwrap();
    prefault.map(dma);
    prefault.wait(0).unwrap();
    assert_eq!(
        joined(slots.0.lock().unwrap().iter().copied()),
        wanted,
        "slots"
    );
    let maps = iommu.maps.lock().unwrap();
    assert_eq!(joined(maps.iter().copied()), wanted, "DMA maps");
    assert!(maps.len() < MOST_MAPS, "{} maps", maps.len());
    wanted.iter().map(|(a, b)| (a / GIB, b / GIB)).collect()
}

#[test]
fn ram_above_one_tib() {
    assert_eq!(MMIO32_START, 3 * GIB);
    let one = [(0, 3), (4, 1012)];
    let table = [
        (1011, &one[..], &one[..]),
        (
            1013,
            &[(0, 3), (4, 1014)],
            &[(0, 3), (4, 1012), (1024, 1026)],
        ),
        (
            2048,
            &[(0, 3), (4, 2049)],
            &[(0, 3), (4, 1012), (1024, 2061)],
        ),
        (
            12_288,
            &[(0, 3), (4, 12_289)],
            &[(0, 3), (4, 1012), (1024, 12_301)],
        ),
        // A host addresses 128 TiB in a process; 2^46 bytes are half of them.
        (
            65_536,
            &[(0, 3), (4, 65_537)],
            &[(0, 3), (4, 1012), (1024, 65_549)],
        ),
    ];
    for (gib, intel, amd) in table {
        assert_eq!(check(gib, false), intel, "Intel, {gib} GiB");
        assert_eq!(check(gib, true), amd, "AMD, {gib} GiB");
    }
}
