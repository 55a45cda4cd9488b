//! The IOMMU as a listener: its maps follow the guest's address space.
//!
//! An I/O virtual address is equal to the guest-physical address, so a driver in the guest gives
//! its device the addresses that it uses itself. RAM must be mapped, or the device could not reach
//! it. A BAR is mapped too, for peer-to-peer DMA of the other devices. If the IOMMU cannot map a
//! BAR, the VM runs without peer-to-peer DMA.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pci::addr::Range;
use tracing::debug;

use crate::counters::dma::DmaMeter;
use crate::log::degraded::{self, Code};
use crate::log::error_chain::with_causes;
use crate::memory::error::{DmaError, MemoryError, StillUsed};
use crate::memory::listener::MemoryListener;
use crate::memory::region::{Region, RegionKind};
use crate::sys::memlock_limit;

/// Maps guest memory for devices. Implemented for VFIO containers and for an address space of
/// iommufd.
pub trait DmaMapper: Send + Sync {
    /// Maps `[iova, iova + size)` to the host address, for reading and writing.
    ///
    /// # Errors
    /// The errno: nothing is mapped. [`PartStays`] as an [`io::Error`]: a part is, and cannot be
    /// unmapped.
    fn map(&self, iova: u64, size: u64, host: u64) -> io::Result<()>;
    /// Removes `[iova, iova + size)`, which one call of [`DmaMapper::map`] has mapped.
    ///
    /// # Errors
    /// The errno, or a message when fewer bytes were unmapped.
    fn unmap(&self, iova: u64, size: u64) -> io::Result<()>;
    /// The I/O virtual addresses that can be mapped, half-open; empty when the kernel does not
    /// tell.
    fn iova_ranges(&self) -> &[Range];
}

/// A failed map that could not be undone.
#[derive(Debug, thiserror::Error)]
#[error("{source}, and a part stays mapped")]
pub struct PartStays {
    /// The failure.
    pub source: io::Error,
}

/// Whether a failed call of [`DmaMapper::map`] has left something mapped.
fn stays(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|e| e.is::<PartStays>())
}

/// Bytes that one call maps: the size of an IOMMU's largest page, so that no page is split. A chunk
/// is small enough for a smooth progress bar.
pub(super) const MAP_CHUNK: u64 = 1 << 30;

/// The chunks of a region: offset in the region, and bytes.
pub(super) fn map_chunks(region: &Region) -> impl DoubleEndedIterator<Item = (u64, u64)> + use<> {
    let size = region.size;
    let count = size.div_ceil(MAP_CHUNK);
    (0..count).map(move |n| (n * MAP_CHUNK, MAP_CHUNK.min(size - n * MAP_CHUNK)))
}

/// Mirrors the address space into the IOMMU.
///
/// Mapping RAM takes long. So [`MemoryListener::add`] only records a region of RAM, and another
/// thread maps the region later, chunk by chunk ([`Dma::map_ram`]). BARs that are added before RAM
/// is mapped are mapped after it ([`Dma::finish_ram`]).
pub struct Dma {
    mapper: Arc<dyn DmaMapper>,
    ram_size: u64,
    peers: bool,
    meter: Arc<DmaMeter>,
    /// Held while a chunk of RAM is mapped and while RAM is unmapped.
    map_lock: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Regions of RAM by their guest-physical starts.
    ram: HashMap<u64, Ram>,
    /// Guest-physical starts of the regions of BARs that are mapped.
    bars: HashSet<u64>,
    /// Regions of BARs that wait until all RAM is mapped; `None` once RAM is mapped.
    waiting: Option<Vec<Region>>,
}

/// How far a region of RAM is mapped.
#[derive(Default)]
struct Ram {
    /// Bytes that are mapped, from the region's start.
    mapped: u64,
    took: Duration,
    /// The region is being removed: no further chunk is mapped.
    going: bool,
}

impl Dma {
    /// Maps through `mapper`. `ram_size` is the guest's RAM in bytes, for the message when the
    /// limit on locked memory is too low. BARs are mapped only if the guest has several devices
    /// (`peers`): mapping a large BAR takes seconds.
    pub fn new(
        mapper: Arc<dyn DmaMapper>,
        ram_size: u64,
        peers: bool,
        meter: Arc<DmaMeter>,
    ) -> Self {
        let state = State {
            waiting: Some(Vec::new()),
            ..State::default()
        };
        Self {
            mapper,
            ram_size,
            peers,
            meter,
            map_lock: Mutex::default(),
            state: Mutex::new(state),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn map_lock(&self) -> MutexGuard<'_, ()> {
        self.map_lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Maps the chunk of `size` bytes at offset `at` of a region of RAM. The caller maps a region's
    /// chunks in the order of their offsets. Nothing happens if the region has been removed. BARs
    /// may be added and removed at the same time.
    ///
    /// # Errors
    /// [`DmaError::Map`] or [`DmaError::MemLock`]; the chunks before stay mapped.
    pub fn map_ram(&self, region: &Region, at: u64, size: u64) -> Result<(), DmaError> {
        let _mapping = self.map_lock();
        if self.lock().ram.get(&region.start).is_none_or(|r| r.going) {
            return Ok(());
        }
        let (iova, host) = (region.start + at, region.host_address() + at);
        debug!(iova, size, "map for DMA");
        let begun = Instant::now();
        let outcome = self.mapper.map(iova, size, host);
        if outcome.as_ref().is_err_and(stays)
            && let Some(ram) = self.lock().ram.get_mut(&region.start)
        {
            // The region's removal tries to unmap this chunk too.
            ram.mapped = at + size;
        }
        outcome.map_err(|e| self.explain(region, e))?;
        if let Some(ram) = self.lock().ram.get_mut(&region.start) {
            ram.mapped = at + size;
            ram.took += begun.elapsed();
            if ram.mapped == region.size {
                self.meter.ram.count(region.size, ram.took);
            }
        }
        Ok(())
    }

    /// Calls `what` under the lock that keeps RAM from being mapped or unmapped meanwhile.
    pub fn between_maps<R>(&self, what: impl FnOnce() -> R) -> R {
        let _mapping = self.map_lock();
        what()
    }

    /// Maps the waiting BARs. To be called once, when all RAM is mapped.
    pub fn finish_ram(&self) {
        let mut state = self.lock();
        for region in state.waiting.take().into_iter().flatten() {
            self.map_bar(&mut state, &region);
        }
    }

    /// Maps a BAR's region for other devices, if the IOMMU can map it.
    fn map_bar(&self, state: &mut State, region: &Region) {
        let begun = Instant::now();
        let outcome = self.check_range(region).and_then(|()| {
            self.map(region).map_err(|e| {
                if stays(&e) {
                    // The region's removal tries to unmap it too.
                    state.bars.insert(region.start);
                }
                self.explain(region, e)
            })
        });
        match outcome {
            Ok(()) => {
                self.meter.bars.count(region.size, begun.elapsed());
                state.bars.insert(region.start);
            }
            // The guest chooses the address, so only the cause names it.
            Err(e) => {
                let what = "no DMA from one device to the BARs of another (peer-to-peer)";
                let loss = Code::NoPeerToPeer.loss(what, with_causes(&e));
                degraded::tell(loss.hint("--iommu container, if the devices need it"));
            }
        }
    }

    fn check_range(&self, region: &Region) -> Result<(), DmaError> {
        let ranges = self.mapper.iova_ranges();
        if ranges.is_empty() || ranges.iter().any(|r| r.contains(region.start, region.size)) {
            return Ok(());
        }
        let text: Vec<_> = ranges
            .iter()
            .map(|r| format!("{:#x}-{:#x}", r.start, r.end() - 1))
            .collect();
        Err(DmaError::Reserved {
            start: region.start,
            size: region.size,
            ranges: text.join(", "),
        })
    }

    /// Maps the whole region, or nothing of it, unless that cannot be undone ([`PartStays`]).
    fn map(&self, region: &Region) -> io::Result<()> {
        for (at, size) in map_chunks(region) {
            let (iova, host) = (region.start + at, region.host_address() + at);
            debug!(iova, size, "map for DMA");
            if let Err(source) = self.mapper.map(iova, size, host) {
                return Err(match self.unmap(region, at) {
                    Ok(()) => source,
                    Err(_) => io::Error::other(PartStays { source }),
                });
            }
        }
        Ok(())
    }

    /// Unmaps the chunks that begin before offset `end`, one call for each chunk. After a failure
    /// the other chunks are unmapped all the same.
    fn unmap(&self, region: &Region, end: u64) -> Result<(), StillUsed> {
        let mut outcome = Ok(());
        for (at, size) in map_chunks(region).rev().filter(|(at, _)| *at < end) {
            let iova = region.start + at;
            debug!(iova, size, "unmap for DMA");
            if let Err(source) = self.mapper.unmap(iova, size) {
                outcome = Err(StillUsed {
                    by: "the IOMMU",
                    start: iova,
                    size,
                    source,
                });
            }
        }
        outcome
    }

    fn explain(&self, region: &Region, source: io::Error) -> DmaError {
        let limit = memlock_limit();
        // ENOMEM means that the limit is reached or that the kernel itself lacks memory
        // (drivers/vfio/vfio_iommu_type1.c, vfio_pin_pages_remote).
        if source.raw_os_error() == Some(libc::ENOMEM) && limit < self.ram_size {
            return DmaError::MemLock {
                need: self.ram_size,
                limit,
                source: Some(source),
            };
        }
        DmaError::Map {
            iova: region.start,
            size: region.size,
            source,
        }
    }
}

impl MemoryListener for Dma {
    /// Refuses RAM outside of the ranges that the IOMMU can map. A BAR is never refused.
    fn add(&self, region: &Region) -> Result<(), MemoryError> {
        let mut state = self.lock();
        match (region.kind, &mut state.waiting) {
            (RegionKind::Ram, _) => {
                self.check_range(region)?;
                state.ram.insert(region.start, Ram::default());
            }
            (RegionKind::Device, _) if !self.peers => {}
            (RegionKind::Device, Some(waiting)) => waiting.push(region.clone()),
            (RegionKind::Device, None) => self.map_bar(&mut state, region),
        }
        Ok(())
    }

    fn remove(&self, region: &Region) -> Result<(), StillUsed> {
        if region.kind == RegionKind::Ram {
            // The flag is set before `map_lock` is taken: the thread that maps could take that lock
            // again and again.
            if let Some(ram) = self.lock().ram.get_mut(&region.start) {
                ram.going = true;
            }
            let _mapping = self.map_lock();
            let ram = self.lock().ram.remove(&region.start);
            return ram.map_or(Ok(()), |ram| self.unmap(region, ram.mapped));
        }
        let mut state = self.lock();
        if let Some(waiting) = &mut state.waiting {
            waiting.retain(|w| w.start != region.start);
        }
        if state.bars.remove(&region.start) {
            return self.unmap(region, region.size);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
