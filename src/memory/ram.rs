//! Guest RAM: aligned, huge where the host can, present before a device may write to it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use vm_memory::{GuestAddress, GuestRegionMmap, MmapRegion};

use super::mapping::Mapping;
use super::{GuestMemory, Region, RegionKind};
use crate::layout::Layout;

const GIB: u64 = 1 << 30;
const HUGE_PAGE: u64 = 2 << 20;
/// What one thread populates at a time: large enough to make the system call cheap, small enough
/// that the threads finish together.
const CHUNK: u64 = 32 << 20;

/// Why there is no RAM.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// mmap(2) failed.
    #[error("cannot reserve {0} bytes for the guest's memory")]
    Reserve(u64, #[source] io::Error),
    /// madvise(2) failed.
    #[error("cannot get the guest's {0} bytes of memory from the host")]
    Populate(u64, #[source] io::Error),
    /// vm-memory refused the regions.
    #[error("the guest's memory regions do not fit together: {0}")]
    Regions(String),
}

/// The guest's RAM.
#[derive(Debug)]
pub struct Ram {
    regions: Vec<Region>,
    memory: GuestMemory,
}

impl Ram {
    /// Reserves the RAM of `layout`. Guest and host addresses agree modulo 1 GiB, so that KVM and
    /// the IOMMU can use 2 MiB and 1 GiB pages. Nothing is present yet.
    ///
    /// # Errors
    /// [`RamError::Reserve`] when the host has not that many addresses.
    pub fn new(layout: &Layout) -> Result<Self, RamError> {
        let mut regions = Vec::new();
        let mut views = Vec::new();
        for range in layout.ram() {
            let align = if range.size >= GIB { GIB } else { HUGE_PAGE };
            let mapping = Mapping::anonymous(range.size, align)
                .map_err(|e| RamError::Reserve(range.size, e))?;
            mapping.advise_huge_pages();
            mapping.exclude_from_dumps();
            // SAFETY: the address and size are those of a live mapping with these protections; the
            // regions below keep it alive as long as the view.
            let view = unsafe {
                MmapRegion::build_raw(
                    mapping.address() as *mut u8,
                    range.size as usize,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                )
            };
            let view = view.map_err(|e| RamError::Regions(e.to_string()))?;
            let view = GuestRegionMmap::new(view, GuestAddress(range.start))
                .ok_or_else(|| RamError::Regions("address overflow".into()))?;
            views.push(view);
            regions.push(Region {
                start: range.start,
                size: range.size,
                mapping: Arc::new(mapping),
                offset: 0,
                kind: RegionKind::Ram,
            });
        }
        let memory =
            GuestMemory::from_regions(views).map_err(|e| RamError::Regions(e.to_string()))?;
        Ok(Self { regions, memory })
    }

    /// The regions for the address space.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The view that loaders write through.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Bytes in all.
    pub fn size(&self) -> u64 {
        self.regions.iter().map(|r| r.size).sum()
    }

    /// Makes every page present, on `threads` threads, calling `progress` with the bytes done.
    ///
    /// The IOMMU needs the pages anyway; zeroing them here in parallel, as huge pages, takes a
    /// fraction of what pinning them one at a time inside VFIO_IOMMU_MAP_DMA does.
    ///
    /// # Errors
    /// [`RamError::Populate`] when the host runs out of pages.
    pub fn populate(
        &self,
        threads: usize,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RamError> {
        let next = AtomicU64::new(0);
        let done = AtomicU64::new(0);
        let size = self.size();
        let work = || -> io::Result<()> {
            loop {
                let mut at = next.fetch_add(CHUNK, Ordering::Relaxed);
                if at >= size {
                    return Ok(());
                }
                let mut left = CHUNK.min(size - at);
                let mut filled = 0;
                for region in &self.regions {
                    if at < region.size && left > 0 {
                        let now = left.min(region.size - at);
                        region.mapping.populate(at, now)?;
                        left -= now;
                        filled += now;
                        at = 0;
                    } else {
                        at = at.saturating_sub(region.size);
                    }
                }
                progress(done.fetch_add(filled, Ordering::Relaxed) + filled);
            }
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|w| {
                w.join()
                    .unwrap_or_else(|_| Err(io::Error::other("a thread died")))
            })
        })
        .map_err(|e| RamError::Populate(size, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestMemoryBackend};

    #[test]
    fn ram_is_congruent_and_whole() {
        let layout = Layout::new(4 << 30, 0, 40).unwrap();
        let ram = Ram::new(&layout).unwrap();
        assert_eq!(ram.size(), 4 << 30);
        for r in ram.regions() {
            assert_eq!(r.host_address() % GIB, r.start % GIB);
        }
        ram.memory().write_obj(7u8, GuestAddress(4 << 30)).unwrap();
        assert_eq!(ram.memory().num_regions(), 2);
    }

    #[test]
    fn populate_covers_both_sides_of_the_hole() {
        let mut layout = Layout::new(96 << 20, 0, 40).unwrap();
        layout.high_ram = Some(crate::layout::Range {
            start: 1 << 32,
            size: 80 << 20,
        });
        let ram = Ram::new(&layout).unwrap();
        let most = AtomicU64::new(0);
        ram.populate(3, &|n| {
            most.fetch_max(n, Ordering::Relaxed);
        })
        .unwrap();
        assert_eq!(most.into_inner(), 176 << 20);
    }
}
