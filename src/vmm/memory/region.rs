//! A range of guest-physical memory and the host memory behind it.

use std::sync::Arc;

use crate::memory::bar_part::BarPart;
use crate::memory::mapping::Mapping;

/// The kind of memory in a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionKind {
    /// Guest RAM: a device's DMA must reach it.
    Ram,
    /// A mapped part of a passed-through BAR: DMA of other devices may reach it (peer-to-peer DMA).
    Device,
}

/// A range of guest-physical memory backed by host memory.
///
/// A region keeps its host mapping alive, so that no memory slot or IOMMU map outlives the pages.
#[derive(Clone, Debug)]
pub struct Region {
    /// Guest-physical address, page aligned.
    pub start: u64,
    /// Length in bytes, a multiple of the page size.
    pub size: u64,
    /// The host mapping.
    pub mapping: Arc<Mapping>,
    /// Offset of the region in the mapping.
    pub offset: u64,
    /// RAM or the memory of a device.
    pub kind: RegionKind,
    /// The part of a BAR that the region is; `None` for RAM.
    pub bar: Option<BarPart>,
}

impl Region {
    /// The host virtual address of the region's first byte.
    pub fn host_address(&self) -> u64 {
        self.mapping.address() + self.offset
    }

    /// The first guest-physical address after the region.
    pub fn end(&self) -> u64 {
        self.start + self.size
    }
}
