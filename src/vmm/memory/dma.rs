//! IOMMU maps as a listener: what the guest can address, its devices can.
//!
//! RAM must be mapped, or the device would write where the guest does not read. A BAR of another
//! device is mapped for peer-to-peer DMA when the IOMMU can; where it cannot, the VM runs on.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pci::addr::Range;
use tracing::{debug, error, info};

use crate::counters::dma::DmaMeter;
use crate::log::error_chain::with_causes;
use crate::log::limit::RateLimit;
use crate::memory::{MemoryError, MemoryListener, Region, RegionKind};
use crate::sys::memlock_limit;

/// Why the IOMMU did not map guest memory.
#[derive(Debug, thiserror::Error)]
pub enum DmaError {
    /// The map call failed.
    #[error("the IOMMU does not map {size} bytes at {iova:#x}")]
    Map {
        /// I/O virtual address, equal to the guest-physical one.
        iova: u64,
        /// Bytes.
        size: u64,
        /// The errno.
        source: io::Error,
    },
    /// The pages would exceed what this user may lock.
    #[error(
        "the devices need {need} bytes of the guest's memory locked, but this user may lock only {limit} (RLIMIT_MEMLOCK)"
    )]
    MemLock {
        /// Bytes that a run locks.
        need: u64,
        /// The limit in bytes.
        limit: u64,
        /// The errno; none where nothing was tried.
        source: Option<io::Error>,
    },
    /// RAM lies where the IOMMU cannot map.
    #[error(
        "RAM at {start:#x}+{size:#x} lies outside the ranges that the host's IOMMU can map: {ranges}"
    )]
    Reserved {
        /// Guest-physical address.
        start: u64,
        /// Bytes.
        size: u64,
        /// The usable ranges.
        ranges: String,
    },
}

impl DmaError {
    /// What to type.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::MemLock { need, .. } => {
                let kib = need.div_ceil(1024) + 64 * 1024;
                Some(format!(
                    "raise the limit with `ulimit -l {kib}` as root, or for good with a line `* - memlock {kib}` in /etc/security/limits.conf"
                ))
            }
            Self::Reserved { .. } => {
                Some("give the guest less memory with --memory, so that it ends below the reserved range".into())
            }
            Self::Map { .. } => Some("see `dmesg | grep -i -e iommu -e vfio`".into()),
        }
    }
}

/// What maps guest memory for devices: a VFIO container.
pub trait DmaMapper: Send + Sync {
    /// Maps `[iova, iova + size)` to the host address, for reading and writing.
    ///
    /// # Errors
    /// The errno.
    fn map(&self, iova: u64, size: u64, host: u64) -> io::Result<()>;
    /// Takes away a map made before, whole.
    ///
    /// # Errors
    /// The errno, or a message when less was unmapped than asked.
    fn unmap(&self, iova: u64, size: u64) -> io::Result<()>;
    /// The I/O virtual addresses that can be mapped; empty when the kernel does not say.
    fn iova_ranges(&self) -> &[Range];
}

/// What one call maps: the largest page that an IOMMU has, so that none is divided, and little enough
/// to tell how far pinning has come.
pub(super) const PIECE: u64 = 1 << 30;

/// Where a region's pieces begin, relative to it, and how long they are.
pub(super) fn pieces(region: &Region) -> impl DoubleEndedIterator<Item = (u64, u64)> + use<> {
    let size = region.size;
    let count = size.div_ceil(PIECE);
    (0..count).map(move |n| (n * PIECE, PIECE.min(size - n * PIECE)))
}

/// Mirrors the address space into the IOMMU.
///
/// Of RAM it hears first and maps it later, a piece at a time ([`Dma::map_ram`]), as that takes long
/// ([`super::pinning`]); BARs that appear meanwhile wait for it.
pub struct Dma {
    mapper: Arc<dyn DmaMapper>,
    ram_size: u64,
    peers: bool,
    meter: Arc<DmaMeter>,
    limit: RateLimit,
    /// Whoever maps or unmaps RAM.
    turn: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// RAM, by where it begins.
    ram: HashMap<u64, Ram>,
    /// BARs' pieces that are mapped, by where they begin.
    bars: HashSet<u64>,
    /// Those that wait until RAM is mapped whole; none once it is.
    waiting: Option<Vec<Region>>,
}

/// How far a region of RAM is mapped.
#[derive(Default)]
struct Ram {
    /// Bytes from its beginning.
    mapped: u64,
    took: Duration,
    /// It is to be unmapped: no further piece is mapped.
    going: bool,
}

impl Dma {
    /// Maps through `mapper`. `ram_size` is for the message when the limit on locked memory is low;
    /// BARs are mapped only where there are `peers`, for a large one takes the IOMMU seconds.
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
            turn: Mutex::default(),
            state: Mutex::new(state),
            limit: RateLimit::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Maps a piece of RAM, in the order of its addresses; one whose region has gone meanwhile is left
    /// alone. BARs come and go at the same time.
    ///
    /// # Errors
    /// [`DmaError::Map`] or [`DmaError::MemLock`]; the pieces before stay mapped.
    pub fn map_ram(&self, region: &Region, at: u64, size: u64) -> Result<(), DmaError> {
        let _turn = self.turn();
        if self.lock().ram.get(&region.start).is_none_or(|r| r.going) {
            return Ok(());
        }
        let (iova, host) = (region.start + at, region.host_address() + at);
        debug!(iova, size, "map for DMA");
        let begun = Instant::now();
        let outcome = self.mapper.map(iova, size, host);
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

    /// Does something while no RAM is being mapped or unmapped.
    pub fn between_pieces<R>(&self, what: impl FnOnce() -> R) -> R {
        let _turn = self.turn();
        what()
    }

    /// All of RAM is mapped: now for the BARs that have waited.
    pub fn finish_ram(&self) {
        let mut state = self.lock();
        for region in state.waiting.take().into_iter().flatten() {
            self.map_bar(&mut state, &region);
        }
    }

    /// Maps a BAR's piece if it can be, so that other devices reach it.
    fn map_bar(&self, state: &mut State, region: &Region) {
        let begun = Instant::now();
        match self
            .check_range(region)
            .and_then(|()| self.map(region).map_err(|e| self.explain(region, e)))
        {
            Ok(()) => {
                self.meter.bars.count(region.size, begun.elapsed());
                state.bars.insert(region.start);
            }
            Err(e) if self.limit.allow() => info!(
                "no peer-to-peer DMA to the BAR at {:#x}: {}",
                region.start,
                with_causes(&e)
            ),
            Err(_) => {}
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

    /// All of the region, or nothing.
    fn map(&self, region: &Region) -> io::Result<()> {
        for (at, size) in pieces(region) {
            let (iova, host) = (region.start + at, region.host_address() + at);
            debug!(iova, size, "map for DMA");
            if let Err(e) = self.mapper.map(iova, size, host) {
                self.unmap(region, at);
                return Err(e);
            }
        }
        Ok(())
    }

    /// The pieces before `end`, as they were mapped.
    fn unmap(&self, region: &Region, end: u64) {
        for (at, size) in pieces(region).rev().filter(|(at, _)| *at < end) {
            let iova = region.start + at;
            debug!(iova, size, "unmap for DMA");
            if let Err(e) = self.mapper.unmap(iova, size) {
                error!("the IOMMU does not unmap {iova:#x}+{size:#x}: {e}");
            }
        }
    }

    fn explain(&self, region: &Region, source: io::Error) -> DmaError {
        let limit = memlock_limit();
        // The kernel answers ENOMEM for the limit and for its own want of memory alike
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
    /// RAM outside of what the IOMMU can map is refused at once; no BAR ever is.
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

    fn remove(&self, region: &Region) {
        if region.kind == RegionKind::Ram {
            // Said first: whoever maps would take turn after turn.
            if let Some(ram) = self.lock().ram.get_mut(&region.start) {
                ram.going = true;
            }
            let _turn = self.turn();
            let ram = self.lock().ram.remove(&region.start);
            if let Some(ram) = ram {
                self.unmap(region, ram.mapped);
            }
            return;
        }
        let mut state = self.lock();
        if let Some(waiting) = &mut state.waiting {
            waiting.retain(|w| w.start != region.start);
        }
        if state.bars.remove(&region.start) {
            self.unmap(region, region.size);
        }
    }
}

#[cfg(test)]
mod tests;
