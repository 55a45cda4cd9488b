//! A memory BAR as pieces: what the guest touches directly, and what it traps on.
//!
//! Mapped pieces are the device's own pages in the guest's address space; the guest's loads and
//! stores reach the hardware without an exit. Trapped are only the pages that hold the MSI-X table
//! and its pending bits, because those are virtual, and what the kernel does not let us map.

use std::io;
use std::sync::Arc;

use pci::bar::Bars;
use pci::msix::MsixCapability;
use tracing::{debug, info};

use crate::memory::mapping::Mapping;
use crate::memory::{AddressSpace, MemoryError, PAGE_SIZE, Region, RegionKind};
use crate::vfio::device::{Device, RegionInfo};

/// A range of a BAR: offset and size in bytes.
pub type Piece = (u64, u64);

/// The pages of a BAR that can be mapped, given what VFIO allows and what must be trapped.
///
/// Every piece is page aligned, not empty, inside the BAR, and free of `trapped`; pieces are in
/// order and do not overlap.
pub fn plan(size: u64, mappable: &[Piece], trapped: &[Piece]) -> Vec<Piece> {
    let mut pieces: Vec<(u64, u64)> = Vec::new();
    let mut areas: Vec<(u64, u64)> = mappable
        .iter()
        .filter_map(|(offset, len)| {
            // A piece of a page is no piece: its other part may be a neighbour's registers.
            let start = offset.checked_next_multiple_of(PAGE_SIZE)?;
            let end = offset.checked_add(*len)?.min(size);
            let end = end - end % PAGE_SIZE;
            (start < end).then_some((start, end))
        })
        .collect();
    areas.sort_unstable();
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
    for (start, end) in areas {
        let mut at = start.max(done);
        for (hole_start, hole_end) in &holes {
            if *hole_start > at && at < end {
                let stop = (*hole_start).min(end);
                pieces.push((at, stop - at));
            }
            at = at.max(*hole_end);
        }
        if at < end {
            pieces.push((at, end - at));
        }
        done = done.max(end);
    }
    pieces
}

/// What of a BAR is virtual: the MSI-X table and the pending bits, where they are in it.
pub fn virtual_ranges(msix: &MsixCapability, bar: usize) -> Vec<Piece> {
    let table = (msix.table_bar, msix.table_offset, msix.table_size());
    let pending = (msix.pba_bar, msix.pba_offset, msix.pba_size());
    [table, pending]
        .into_iter()
        .filter(|(in_bar, ..)| usize::from(*in_bar) == bar)
        .map(|(_, offset, size)| (offset.into(), size))
        .collect()
}

/// A BAR's mapped pieces, in this process and in the guest.
pub struct BarMap {
    mapping: Option<Arc<Mapping>>,
    pieces: Vec<Piece>,
    /// Guest-physical address while the pieces are in the address space.
    placed: Option<u64>,
}

impl BarMap {
    /// Maps the pieces of `region` into this process. The host address agrees with any natural
    /// place of the BAR modulo its size, up to 1 GiB, so that the kernel can use huge page-frame
    /// maps.
    ///
    /// # Errors
    /// The errno of mmap(2); the caller may go on with a BAR that is trapped whole
    /// ([`BarMap::trapped`]).
    pub fn new(device: &dyn Device, region: &RegionInfo, trapped: &[Piece]) -> io::Result<Self> {
        let pieces = plan(region.size, &region.mappable, trapped);
        if pieces.is_empty() {
            return Ok(Self::trapped());
        }
        let size = region.size.next_multiple_of(PAGE_SIZE);
        let align = size.next_power_of_two().min(1 << 30);
        let mapping = Mapping::reserve(size, align)?;
        for (offset, len) in &pieces {
            let at = region.file_offset + offset;
            mapping.map_file(*offset, *len, device.map_fd(), at, region.write)?;
        }
        Ok(Self {
            mapping: Some(Arc::new(mapping)),
            pieces,
            placed: None,
        })
    }

    /// What of BAR number `bar` the guest may touch directly: all but the table and the pending bits
    /// of `msix`. A BAR that cannot be mapped works, trapped.
    pub fn of(device: &dyn Device, bar: usize, bars: &Bars, msix: Option<&MsixCapability>) -> Self {
        let region = device.region(bar as u32);
        if bars.get(bar).is_none_or(|b| b.kind.is_io()) || region.mappable.is_empty() {
            return Self::trapped();
        }
        let trapped = msix.map(|msix| virtual_ranges(msix, bar));
        let trapped = trapped.unwrap_or_default();
        let name = device.name();
        match Self::new(device, &region, &trapped) {
            Ok(map) => {
                debug!(
                    "{name}: BAR {bar} maps {:x?}, traps {trapped:x?}",
                    map.pieces
                );
                map
            }
            Err(e) => {
                info!("{name}: BAR {bar} is trapped, because it cannot be mapped: {e}");
                Self::trapped()
            }
        }
    }

    /// A BAR without mapped pieces.
    pub fn trapped() -> Self {
        Self {
            mapping: None,
            pieces: Vec::new(),
            placed: None,
        }
    }

    /// The mapped pieces.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Whether the pieces are in the address space.
    pub fn is_placed(&self) -> bool {
        self.placed.is_some()
    }

    /// Whether one of the pieces is at a guest-physical address now.
    pub fn covers(&self, address: u64) -> bool {
        let offset = self.placed.and_then(|start| address.checked_sub(start));
        offset.is_some_and(|offset| self.maps(offset))
    }

    /// Whether an offset in the BAR is in one of the pieces.
    pub fn maps(&self, offset: u64) -> bool {
        let inside = |(start, len): &Piece| offset >= *start && offset - start < *len;
        self.pieces.iter().any(inside)
    }

    /// Puts the pieces into the address space with the BAR at `address`.
    ///
    /// # Errors
    /// The address space's refusal; no piece is there then.
    pub fn place(&mut self, space: &AddressSpace, address: u64) -> Result<(), MemoryError> {
        let Some(mapping) = &self.mapping else {
            return Ok(());
        };
        for (i, (offset, size)) in self.pieces.iter().enumerate() {
            let region = Region {
                start: address + offset,
                size: *size,
                mapping: Arc::clone(mapping),
                offset: *offset,
                kind: RegionKind::Device,
            };
            if let Err(e) = space.add(region) {
                for (offset, _) in self.pieces.iter().take(i) {
                    space.remove(address + offset);
                }
                return Err(e);
            }
        }
        self.placed = Some(address);
        Ok(())
    }

    /// Takes the pieces out of the address space.
    pub fn displace(&mut self, space: &AddressSpace) {
        if let Some(address) = self.placed.take() {
            for (offset, _) in &self.pieces {
                space.remove(address + offset);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
    fn a_piece_is_where_the_bar_is() {
        let mut map = BarMap::trapped();
        map.pieces = vec![(0x1000, 0x1000), (0x4000, 0x1000)];
        assert!(map.maps(0x1000) && map.maps(0x4fff) && !map.maps(0xfff) && !map.maps(0x2000));
        assert!(!map.covers(0x1000));
        map.placed = Some(0x8_0000);
        assert!(map.covers(0x8_1000) && !map.covers(0x8_2000) && !map.covers(0x1000));
    }

    proptest! {
        #[test]
        fn pieces_are_exactly_the_allowed_pages(
            pages in 1u64..40,
            areas in proptest::collection::vec((0u64..0x30000, 0u64..0x20000), 0..4),
            holes in proptest::collection::vec((0u64..0x30000, 0u64..0x3000), 0..4),
        ) {
            let size = pages * PAGE_SIZE;
            let pieces = plan(size, &areas, &holes);
            for page in 0..pages {
                let at = page * PAGE_SIZE;
                let inside = |(o, l): &Piece| *o <= at && o + l >= at + PAGE_SIZE;
                let touches = |(o, l): &Piece| *l > 0 && *o < at + PAGE_SIZE && o + l > at;
                let wanted = areas.iter().any(inside) && !holes.iter().any(touches);
                // Two areas that meet inside a page do not make it whole.
                prop_assert_eq!(pieces.iter().filter(|p| inside(p)).count(), usize::from(wanted));
            }
            prop_assert!(pieces.iter().all(|(o, l)| o + l <= size && *l > 0));
        }
    }
}
