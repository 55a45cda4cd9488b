//! The areas of a memory BAR that the guest touches directly, and the pages that trap.
//!
//! A mapped area is the device's own pages in the guest's address space: the guest's loads and
//! stores reach the hardware without an exit. Three kinds of pages trap: the pages of the MSI-X
//! table and of the pending bits, because both are virtual, the pages with mirrors of what is
//! virtual ([`super::mirrors`]), and the pages that the kernel does not let this process map.

use std::io;
use std::sync::Arc;

use pci::bar::Bars;
use tracing::debug;

use crate::memory::mapping::Mapping;
use crate::memory::{BarOwner, BarPart, PAGE_SIZE, Region, RegionKind};
use crate::vfio::device::{RegionInfo, SharedDevice};
use crate::vfio::function::bar_owner::Owner;
use crate::vfio::function::error::FunctionError;
use crate::vfio::function::unmapped::{tell_trapped, unmapped};

/// A range of a BAR: offset and size in bytes.
pub type Area = (u64, u64);

/// Returns the areas to map of a BAR of `size` bytes: the `mappable` areas, which VFIO allows,
/// without the bytes of `trapped`.
///
/// Every area is page aligned, not empty, inside the BAR, and free of `trapped`. The areas are in
/// order and do not overlap.
pub fn plan(size: u64, mappable: &[Area], trapped: &[Area]) -> Vec<Area> {
    let mut areas: Vec<Area> = Vec::new();
    let mut allowed: Vec<(u64, u64)> = mappable
        .iter()
        .filter_map(|(offset, len)| {
            // Only whole pages: the rest of a page may belong to another device.
            let start = offset.checked_next_multiple_of(PAGE_SIZE)?;
            let end = offset.checked_add(*len)?.min(size);
            let end = end - end % PAGE_SIZE;
            (start < end).then_some((start, end))
        })
        .collect();
    allowed.sort_unstable();
    let mut holes: Vec<(u64, u64)> = trapped
        .iter()
        .filter(|(_, len)| *len > 0)
        .map(|(offset, len)| {
            let end = offset.saturating_add(*len);
            let end = end.checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX);
            (offset - offset % PAGE_SIZE, end)
        })
        .collect();
    holes.sort_unstable();
    let mut done = 0;
    for (start, end) in allowed {
        let mut at = start.max(done);
        for (hole_start, hole_end) in &holes {
            if *hole_start > at && at < end {
                let stop = (*hole_start).min(end);
                areas.push((at, stop - at));
            }
            at = at.max(*hole_end);
        }
        if at < end {
            areas.push((at, end - at));
        }
        done = done.max(end);
    }
    areas
}

/// Maps the areas of BAR number `bar` into this process: all that VFIO allows, except the pages of
/// `trapped`, which hold the MSI-X table, the pending bits, and mirrors. The starts of the returned
/// regions are relative to the BAR. A BAR that cannot be mapped traps, and the user is told so.
///
/// # Errors
/// Another user of the host holds the BAR. The device would refuse each access.
pub fn map(
    device: &SharedDevice,
    bar: usize,
    bars: &Bars,
    trapped: &[Area],
) -> Result<Vec<Region>, FunctionError> {
    let region = device.region(bar as u32);
    if bars.get(bar).is_none_or(|b| b.kind.is_io()) {
        return Ok(Vec::new());
    }
    if region.mappable.is_empty() {
        // A smaller BAR shares its page with other registers of the host.
        if region.size >= PAGE_SIZE {
            tell_trapped(device.name(), bar, "its VFIO driver maps no page of it");
        }
        return Ok(Vec::new());
    }
    let areas = plan(region.size, &region.mappable, trapped);
    let name = device.name();
    match map_areas(device, bar as u32, &region, &areas) {
        Ok(regions) => {
            debug!("{name}: BAR {bar} maps {areas:x?}, traps {trapped:x?}");
            Ok(regions)
        }
        Err(e) => unmapped(name, bar, &e),
    }
}

/// Maps the areas at a host address that is aligned to the BAR's size, up to 1 GiB. The guest's
/// address of the BAR is aligned to that size too, so the kernel can use huge pages.
fn map_areas(
    device: &SharedDevice,
    bar: u32,
    region: &RegionInfo,
    areas: &[Area],
) -> io::Result<Vec<Region>> {
    if areas.is_empty() {
        return Ok(Vec::new());
    }
    let size = region.size.next_multiple_of(PAGE_SIZE);
    let align = size.next_power_of_two().min(1 << 30);
    let mapping = Mapping::reserve(size, align)?;
    for (offset, len) in areas {
        let at = region.file_offset + offset;
        mapping.map_file(*offset, *len, device.map_fd(), at, region.write)?;
    }
    let mapping = Arc::new(mapping);
    let owner: Arc<dyn BarOwner> = Arc::new(Owner::new(device));
    let regions = areas.iter().map(|(offset, size)| Region {
        start: *offset,
        size: *size,
        mapping: Arc::clone(&mapping),
        offset: *offset,
        kind: RegionKind::Device,
        bar: Some(BarPart {
            owner: Arc::clone(&owner),
            bar,
            offset: *offset,
        }),
    });
    Ok(regions.collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vfio::function::test_device::TestDevice;

    #[test]
    fn only_the_pages_of_the_table_are_trapped() {
        // NVMe: 16 KiB, table at 0x2000, pending bits at 0x3000.
        let whole = [(0, 0x4000)];
        assert_eq!(
            plan(0x4000, &whole, &[(0x2000, 0x410), (0x3000, 8)]),
            [(0, 0x2000)]
        );
        // A table in the middle of a page leaves both sides.
        assert_eq!(
            plan(0x8000, &whole, &[(0x1800, 0x100)]),
            [(0, 0x1000), (0x2000, 0x2000)]
        );
        // The pending bits reach further than the table in the same page.
        assert_eq!(
            plan(0x4000, &whole, &[(0x10, 0x10), (0xff8, 0x10)]),
            [(0x2000, 0x2000)]
        );
        assert_eq!(plan(0x4000, &whole, &[]), [(0, 0x4000)]);
    }

    #[test]
    fn sparse_areas_and_small_bars() {
        assert_eq!(
            plan(0x10000, &[(0x4000, 0x1000), (0x1000, 0x2000)], &[]),
            [(0x1000, 0x2000), (0x4000, 0x1000)]
        );
        assert!(plan(0x100, &[(0, 0x100)], &[]).is_empty());
        assert!(plan(0x4000, &[], &[]).is_empty());
        assert!(plan(0x4000, &[(0x3000, u64::MAX)], &[]).is_empty());
        assert!(plan(0x1000, &[(0, 0x1000)], &[(u64::MAX, 5), (0, u64::MAX)]).is_empty());
    }

    #[test]
    fn areas_are_mapped_from_the_devices_file() {
        let device: SharedDevice = Arc::new(
            TestDevice::new()
                .with_region(0, 0x4000, &[(0, 0x4000)])
                .with_region(1, 0x100, &[(0, 0x100)])
                .with_region(2, 0x4000, &[]),
        );
        let bars = Bars::decode([0; 6], [0x4000, 0x100, 0x4000, 0, 0, 0]).unwrap();
        let mapped = |trapped: &[Area]| {
            let regions = map(&device, 0, &bars, trapped).unwrap().into_iter();
            let areas = regions.map(|r| (r.start, r.size, r.offset, r.kind));
            areas.collect::<Vec<_>>()
        };
        let area = |at, size| (at, size, at, RegionKind::Device);
        let trapped = [(0x1000, 0x410), (0x1800, 16)];
        assert_eq!(mapped(&trapped), [area(0, 0x1000), area(0x2000, 0x2000)]);
        assert_eq!(mapped(&[]), [area(0, 0x4000)]);
        // Less than a page, nothing that VFIO lets us map, and no BAR at all.
        for bar in 1..6 {
            let areas = map(&device, bar, &bars, &[]).unwrap();
            assert!(areas.is_empty(), "BAR {bar}");
        }
    }

    proptest! {
        #[test]
        fn areas_are_exactly_the_allowed_pages(
            pages in 1u64..40,
            allowed in proptest::collection::vec((0u64..0x30000, 0u64..0x20000), 0..4),
            holes in proptest::collection::vec((0u64..0x30000, 0u64..0x3000), 0..4),
        ) {
            let size = pages * PAGE_SIZE;
            let mapped = plan(size, &allowed, &holes);
            for page in 0..pages {
                let at = page * PAGE_SIZE;
                let inside = |(o, l): &Area| *o <= at && o + l >= at + PAGE_SIZE;
                let touches = |(o, l): &Area| *l > 0 && *o < at + PAGE_SIZE && o + l > at;
                let wanted = allowed.iter().any(inside) && !holes.iter().any(touches);
                // Two areas that meet inside a page do not make it whole.
                prop_assert_eq!(mapped.iter().filter(|p| inside(p)).count(), usize::from(wanted));
            }
            prop_assert!(mapped.iter().all(|(o, l)| o + l <= size && *l > 0));
        }
    }
}
