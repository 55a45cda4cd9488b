//! The IOMMU as a listener: its maps follow the guest's address space.
//!
//! An I/O virtual address is equal to the guest-physical address, so a driver in the guest gives
//! its device the addresses that it uses itself. RAM must be mapped, or the device could not reach
//! it. A BAR is mapped too, for peer-to-peer DMA of the other devices. If the IOMMU cannot map a
//! BAR, the VM runs without peer-to-peer DMA, and the user is told.
//!
//! A container maps a BAR by its host address. iommufd maps a BAR as a dma-buf, which the BAR's
//! device exports (VFIO_DEVICE_FEATURE_DMA_BUF, since Linux 6.19). The host revokes such an export
//! for good when the device is reset, and when it stops decoding memory. A BAR leaves the address
//! space before either, and is exported anew when it enters again.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::ptr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tracing::debug;

use crate::counters::dma::DmaMeter;
use crate::log::degraded::{self, Code};
use crate::log::error_chain::with_causes;
use crate::memory::bar_part::BarPart;
use crate::memory::dma_mapper::{DmaMapper, stays};
use crate::memory::error::{DmaError, MemoryError, StillUsed};
use crate::memory::listener::MemoryListener;
use crate::memory::memlock;
use crate::memory::region::{Region, RegionKind};
use crate::sync::{Mutex, MutexGuard};

/// The same error a second time.
fn again(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(
        || io::Error::other(error.to_string()),
        io::Error::from_raw_os_error,
    )
}

/// Bytes that one call maps: the size of an IOMMU's largest page, so that no page is split. A chunk
/// is small enough for a smooth progress bar.
pub(super) const MAP_CHUNK: u64 = 1 << 30;

/// The same for regions of 1 TiB and more: a container takes 65,535 maps (`dma_entry_limit` of
/// vfio_iommu_type1), which would be less than 64 TiB.
const LARGE_MAP_CHUNK: u64 = 4 * MAP_CHUNK;

/// The chunks of a region: offset in the region, and bytes.
pub(super) fn map_chunks(region: &Region) -> impl DoubleEndedIterator<Item = (u64, u64)> + use<> {
    let size = region.size;
    let chunk = if size < 1 << 40 {
        MAP_CHUNK
    } else {
        LARGE_MAP_CHUNK
    };
    (0..size.div_ceil(chunk)).map(move |n| (n * chunk, chunk.min(size - n * chunk)))
}

/// A region as devices reach it; the I/O virtual address is the guest-physical one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaMap {
    /// The first address.
    pub iova: u64,
    /// Bytes.
    pub size: u64,
    /// Bytes that are mapped by now, from the first on.
    pub mapped: u64,
    /// RAM, or a BAR for the DMA of other devices.
    pub kind: RegionKind,
}

/// Mirrors the address space into the IOMMU.
///
/// Mapping RAM takes long. So [`MemoryListener::add`] only records a region of RAM, and another
/// thread maps the region later, chunk by chunk ([`Dma::map_ram`]). BARs that are added before RAM
/// is mapped are mapped after it ([`Dma::finish_ram`]).
pub struct Dma {
    mapper: Arc<dyn DmaMapper>,
    ram_size: u64,
    meter: Arc<DmaMeter>,
    /// The first map that could not be removed.
    lost: Mutex<Option<DmaError>>,
    /// Held while a chunk of RAM is mapped and while RAM is unmapped.
    map_lock: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Regions of RAM by their guest-physical starts.
    ram: HashMap<u64, Ram>,
    /// Whether BARs are mapped: there are several devices.
    peers: bool,
    /// Regions of BARs that are mapped, by their guest-physical starts.
    bars: HashMap<u64, Region>,
    /// Regions of BARs that are not mapped, because the guest has one device alone.
    idle: HashMap<u64, Region>,
    /// Regions of BARs that wait until all RAM is mapped; `None` once RAM is mapped.
    waiting: Option<VecDeque<Region>>,
}

/// How far a region of RAM is mapped.
#[derive(Default)]
struct Ram {
    size: u64,
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
            waiting: Some(VecDeque::new()),
            peers,
            ..State::default()
        };
        Self {
            mapper,
            ram_size,
            meter,
            lost: Mutex::default(),
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
        let (call, _) = calls(&*self.mapper);
        outcome.map_err(|e| self.explain(region, call, e))?;
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

    /// Maps the waiting BARs. To be called once, when all RAM is mapped. The lock is taken for one
    /// BAR at a time, because a vCPU that moves a BAR waits for the lock.
    pub fn finish_ram(&self) {
        loop {
            let mut state = self.lock();
            let Some(region) = state.waiting.as_mut().and_then(VecDeque::pop_front) else {
                state.waiting = None;
                return;
            };
            self.map_bar(&mut state, &region);
        }
    }

    /// Whether RAM is mapped here, or is to be.
    pub fn has_ram(&self) -> bool {
        !self.lock().ram.is_empty()
    }

    /// Whether `mapper` maps for these devices.
    pub fn is_by(&self, mapper: &Arc<dyn DmaMapper>) -> bool {
        ptr::addr_eq(Arc::as_ptr(&self.mapper), Arc::as_ptr(mapper))
    }

    /// The number of devices has changed: BARs are mapped only for several (`peers`). The lock is
    /// taken for one BAR at a time, as in [`Dma::finish_ram`].
    pub fn set_peers(&self, peers: bool) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if peers == state.peers {
            return;
        }
        state.peers = peers;
        if let Some(waiting) = &mut state.waiting {
            match peers {
                true => waiting.extend(state.idle.drain().map(|(_, region)| region)),
                false => state.idle.extend(waiting.drain(..).map(|r| (r.start, r))),
            }
        }
        drop(guard);
        while self.follow_peers(peers) {}
    }

    /// Maps or unmaps the next BAR. Returns whether there may be more of them: another change of
    /// the number of devices takes over.
    fn follow_peers(&self, peers: bool) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        if peers != state.peers {
            return false;
        }
        let from = if peers {
            &mut state.idle
        } else {
            &mut state.bars
        };
        let Some(region) = from.keys().next().copied().and_then(|s| from.remove(&s)) else {
            return false;
        };
        match (peers, &mut state.waiting) {
            (true, Some(waiting)) => waiting.push_back(region),
            (true, None) => self.map_bar(state, &region),
            (false, _) => {
                // What stays mapped is told at the end of the run (`take_lost`).
                if self.unmap(&region, region.size).is_ok() {
                    state.idle.insert(region.start, region);
                }
            }
        }
        true
    }

    /// Maps a BAR's region for other devices, if the IOMMU can map it.
    fn map_bar(&self, state: &mut State, region: &Region) {
        if self.cannot_export(region) {
            return;
        }
        let begun = Instant::now();
        let outcome = self.check_range(region).map_err(|e| (e, false));
        match outcome.and_then(|()| self.map(region)) {
            Ok(()) => {
                self.meter.bars.count(region.size, begun.elapsed());
                state.bars.insert(region.start, region.clone());
            }
            Err((e, stays)) => {
                if stays {
                    // The region's removal tries to unmap the rest.
                    state.bars.insert(region.start, region.clone());
                }
                self.tell(region, &e);
            }
        }
    }

    /// Whether the BAR would have to be exported, and its device cannot do that. The user has been
    /// told of this when the devices were opened.
    fn cannot_export(&self, region: &Region) -> bool {
        let exports = region.bar.as_ref().is_some_and(|b| b.owner.can_export());
        self.mapper.dma_bufs().is_some() && !exports
    }

    fn tell(&self, region: &Region, error: &DmaError) {
        let Some(BarPart { owner, bar, .. }) = &region.bar else {
            return;
        };
        let hint = match (error, self.mapper.dma_bufs()) {
            // Both interfaces have the same addresses.
            (DmaError::Reserved { .. }, _) => {
                "less memory with --memory, so that the BARs lie where the IOMMU can map"
            }
            (_, Some(_)) => "--iommu container, if the devices need it",
            (_, None) => "--iommu iommufd with Linux 6.19 or newer, if the devices need it",
        };
        let what = format!("no DMA from other devices to BAR {bar} (peer-to-peer)");
        let loss = Code::NoPeerToPeer.loss(what, with_causes(error));
        degraded::tell(loss.of(owner.name()).hint(hint));
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
            ram: region.kind == RegionKind::Ram,
            ranges: text.join(", "),
        })
    }

    /// Maps the whole region, or nothing of it. The error tells whether a part stays mapped,
    /// because that could not be undone.
    fn map(&self, region: &Region) -> Result<(), (DmaError, bool)> {
        for (at, size) in map_chunks(region) {
            debug!(iova = region.start + at, size, "map for DMA");
            if let Err(e) = self.map_chunk(region, at, size) {
                let stays = matches!(&e, DmaError::Map { source, .. } if stays(source));
                return Err((e, self.unmap(region, at).is_err() || stays));
            }
        }
        Ok(())
    }

    fn map_chunk(&self, region: &Region, at: u64, size: u64) -> Result<(), DmaError> {
        let (iova, host) = (region.start + at, region.host_address() + at);
        let (Some(mapper), Some(part)) = (self.mapper.dma_bufs(), &region.bar) else {
            let (call, _) = calls(&*self.mapper);
            let mapped = self.mapper.map(iova, size, host);
            return mapped.map_err(|e| self.explain(region, call, e));
        };
        let buffer = part.export(at, size);
        let buffer = buffer.map_err(|e| self.explain(region, "VFIO_DEVICE_FEATURE", e))?;
        // The map keeps the buffer when its descriptor closes.
        let mapped = mapper.map(iova, size, buffer.as_fd());
        mapped.map_err(|e| self.explain(region, "IOMMU_IOAS_MAP_FILE", e))
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
                    source: again(&source),
                });
                let (_, call) = calls(&*self.mapper);
                let error = DmaError::Map {
                    call,
                    iova,
                    size,
                    source,
                };
                self.lost
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get_or_insert(error);
            }
        }
        outcome
    }

    /// The present maps, in the order of their addresses. A call that maps memory does not delay
    /// the answer.
    pub fn maps(&self) -> Vec<DmaMap> {
        let state = self.lock();
        let ram = state.ram.iter().map(|(start, ram)| DmaMap {
            iova: *start,
            size: ram.size,
            mapped: ram.mapped,
            kind: RegionKind::Ram,
        });
        let bars = state.bars.iter().map(|(start, bar)| DmaMap {
            iova: *start,
            size: bar.size,
            mapped: bar.size,
            kind: RegionKind::Device,
        });
        let mut maps: Vec<_> = ram.chain(bars).collect();
        maps.sort_by_key(|map| map.iova);
        maps
    }

    /// The first map that the IOMMU has not given up, if there is one.
    pub fn take_lost(&self) -> Option<DmaError> {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.take()
    }

    fn explain(&self, region: &Region, call: &'static str, source: io::Error) -> DmaError {
        // ENOMEM means that the limit is reached or that the kernel itself lacks memory
        // (drivers/vfio/vfio_iommu_type1.c, vfio_pin_pages_remote; drivers/iommu/iommufd/pages.c,
        // incr_user_locked_vm).
        let by_iommufd = self.mapper.by_iommufd();
        if source.raw_os_error() == Some(libc::ENOMEM)
            && let Some(too_little) = memlock::too_little(self.ram_size, by_iommufd)
        {
            return too_little.error(Some(source));
        }
        DmaError::Map {
            call,
            iova: region.start,
            size: region.size,
            source,
        }
    }
}

/// The calls of the interface that map and that unmap.
fn calls(mapper: &dyn DmaMapper) -> (&'static str, &'static str) {
    match mapper.by_iommufd() {
        true => ("IOMMU_IOAS_MAP", "IOMMU_IOAS_UNMAP"),
        false => ("VFIO_IOMMU_MAP_DMA", "VFIO_IOMMU_UNMAP_DMA"),
    }
}

impl MemoryListener for Dma {
    /// Refuses RAM outside of the ranges that the IOMMU can map. A BAR is never refused.
    fn add(&self, region: &Region) -> Result<(), MemoryError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        match (region.kind, &mut state.waiting) {
            (RegionKind::Ram, _) => {
                self.check_range(region)?;
                let size = region.size;
                let ram = Ram {
                    size,
                    ..Ram::default()
                };
                state.ram.insert(region.start, ram);
            }
            (RegionKind::Device, _) if !state.peers => {
                state.idle.insert(region.start, region.clone());
            }
            (RegionKind::Device, Some(waiting)) => waiting.push_back(region.clone()),
            (RegionKind::Device, None) => self.map_bar(state, region),
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
        state.idle.remove(&region.start);
        if state.bars.remove(&region.start).is_some() {
            return self.unmap(region, region.size);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
