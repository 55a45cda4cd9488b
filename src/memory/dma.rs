//! IOMMU maps as a listener: what the guest can address, its devices can.
//!
//! RAM must be mapped, or the device would write where the guest does not read. A BAR of another
//! device is mapped for peer-to-peer DMA when the IOMMU can; where it cannot, the VM runs on.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tracing::{debug, error, info};

use super::{MemoryError, MemoryListener, Region, RegionKind};
use crate::layout::Range;
use crate::observe::limit::RateLimit;
use crate::observe::progress::Progress;
use crate::observe::report::sentence;
use crate::observe::stats::dma::DmaMeter;
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
        /// The errno.
        source: io::Error,
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
const PIECE: u64 = 1 << 30;

/// Where a region's pieces begin, relative to it, and how long they are.
fn pieces(region: &Region) -> impl DoubleEndedIterator<Item = (u64, u64)> + use<> {
    let size = region.size;
    let count = size.div_ceil(PIECE);
    (0..count).map(move |n| (n * PIECE, PIECE.min(size - n * PIECE)))
}

/// Mirrors the address space into the IOMMU.
pub struct Dma {
    mapper: Arc<dyn DmaMapper>,
    ram_size: u64,
    peers: bool,
    meter: Arc<DmaMeter>,
    limit: RateLimit,
    mapped: Mutex<HashSet<u64>>,
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
        Self {
            mapper,
            ram_size,
            peers,
            meter,
            mapped: Mutex::default(),
            limit: RateLimit::default(),
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
        let progress = Progress::new("pinning the guest's memory", region.size);
        for (at, size) in pieces(region) {
            let (iova, host) = (region.start + at, region.host_address() + at);
            debug!(iova, size, "map for DMA");
            if let Err(e) = self.mapper.map(iova, size, host) {
                self.unmap(region, at);
                return Err(e);
            }
            progress.set(at + size);
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
                source,
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
    fn add(&self, region: &Region) -> Result<(), MemoryError> {
        if region.kind == RegionKind::Device && !self.peers {
            return Ok(());
        }
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        let iova = region.start;
        let outcome = self.check_range(region).and_then(|()| {
            let begun = Instant::now();
            self.map(region).map_err(|e| self.explain(region, e))?;
            let meter = match region.kind {
                RegionKind::Ram => &self.meter.ram,
                RegionKind::Device => &self.meter.bars,
            };
            meter.count(region.size, begun.elapsed());
            Ok(())
        });
        match (outcome, region.kind) {
            (Ok(()), _) => {
                mapped.insert(iova);
                Ok(())
            }
            (Err(e), RegionKind::Ram) => Err(e.into()),
            (Err(e), RegionKind::Device) => {
                if self.limit.allow() {
                    info!(
                        "no peer-to-peer DMA to the BAR at {iova:#x}: {}",
                        sentence(&e)
                    );
                }
                Ok(())
            }
        }
    }

    fn remove(&self, region: &Region) {
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        if mapped.remove(&region.start) {
            self.unmap(region, region.size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AddressSpace, PAGE_SIZE, mapping::Mapping};
    use super::*;

    struct Fake {
        ranges: Vec<Range>,
        /// From this address on, with this error.
        errno: Option<(u64, i32)>,
        live: Mutex<Vec<u64>>,
    }

    impl DmaMapper for Fake {
        fn map(&self, iova: u64, _size: u64, _host: u64) -> io::Result<()> {
            if let Some((from, e)) = self.errno
                && iova >= from
            {
                return Err(io::Error::from_raw_os_error(e));
            }
            self.live.lock().unwrap().push(iova);
            Ok(())
        }
        fn unmap(&self, iova: u64, _size: u64) -> io::Result<()> {
            self.live.lock().unwrap().retain(|i| *i != iova);
            Ok(())
        }
        fn iova_ranges(&self) -> &[Range] {
            &self.ranges
        }
    }

    fn region(start: u64, kind: RegionKind) -> Region {
        let mapping = Arc::new(Mapping::anonymous(0x1000, PAGE_SIZE).unwrap());
        Region {
            start,
            size: 0x1000,
            mapping,
            offset: 0,
            kind,
        }
    }

    fn space(fake: Fake) -> (AddressSpace, Arc<Fake>) {
        let fake = Arc::new(fake);
        let space = AddressSpace::new();
        space
            .subscribe(Arc::new(Dma::new(
                fake.clone(),
                u64::MAX,
                true,
                Arc::default(),
            )))
            .unwrap();
        (space, fake)
    }

    #[test]
    fn reserved_ranges_are_refused_for_ram_and_skipped_for_bars() {
        let ranges = vec![Range {
            start: 0,
            size: 0x10000,
        }];
        let (space, fake) = space(Fake {
            ranges,
            errno: None,
            live: Mutex::default(),
        });
        space.add(region(0xf000, RegionKind::Ram)).unwrap();
        let refused = space.add(region(0x10000, RegionKind::Ram)).unwrap_err();
        assert!(matches!(
            refused,
            MemoryError::Dma(DmaError::Reserved { .. })
        ));
        space.add(region(0x20000, RegionKind::Device)).unwrap();
        assert_eq!(*fake.live.lock().unwrap(), [0xf000]);
        space.remove(0x20000);
        space.remove(0xf000);
        assert!(fake.live.lock().unwrap().is_empty());
    }

    #[test]
    fn a_lone_device_has_no_peers() {
        let fake = Arc::new(Fake {
            ranges: vec![],
            errno: None,
            live: Mutex::default(),
        });
        let space = AddressSpace::new();
        space
            .subscribe(Arc::new(Dma::new(
                fake.clone(),
                u64::MAX,
                false,
                Arc::default(),
            )))
            .unwrap();
        space.add(region(0, RegionKind::Ram)).unwrap();
        space.add(region(0x1000, RegionKind::Device)).unwrap();
        assert_eq!(*fake.live.lock().unwrap(), [0]);
        space.remove(0x1000);
    }

    #[test]
    fn failures_are_fatal_for_ram_alone() {
        let (space, _) = space(Fake {
            ranges: vec![],
            errno: Some((0, libc::EFAULT)),
            live: Mutex::default(),
        });
        let refused = space.add(region(0, RegionKind::Ram)).unwrap_err();
        assert!(matches!(refused, MemoryError::Dma(DmaError::Map { .. })));
        space.add(region(0x1000, RegionKind::Device)).unwrap();
    }

    #[test]
    fn large_regions_are_mapped_in_pieces_or_not_at_all() {
        let size = 2 * PIECE + 0x20_0000;
        let mapping = Arc::new(Mapping::reserve(size, PAGE_SIZE).unwrap());
        let region = Region {
            start: 4 * PIECE,
            size,
            mapping,
            offset: 0,
            kind: RegionKind::Ram,
        };
        let all = [4 * PIECE, 5 * PIECE, 6 * PIECE];
        for (refused, mapped) in [(None, &all[..]), (Some(6 * PIECE), &[])] {
            let (space, fake) = space(Fake {
                ranges: vec![],
                errno: refused.map(|from| (from, libc::EFAULT)),
                live: Mutex::default(),
            });
            assert_eq!(space.add(region.clone()).is_ok(), refused.is_none());
            assert_eq!(*fake.live.lock().unwrap(), mapped);
            space.remove(region.start);
            assert!(fake.live.lock().unwrap().is_empty());
        }
    }

    #[test]
    fn a_low_limit_is_explained() {
        let dma = Dma::new(
            Arc::new(Fake {
                ranges: vec![],
                errno: None,
                live: Mutex::default(),
            }),
            u64::MAX,
            true,
            Arc::default(),
        );
        let e = dma.explain(
            &region(0, RegionKind::Ram),
            io::Error::from_raw_os_error(libc::ENOMEM),
        );
        if memlock_limit() < u64::MAX {
            assert!(matches!(e, DmaError::MemLock { .. }));
            assert!(e.hint().unwrap().contains("ulimit -l"));
        } else {
            assert!(matches!(e, DmaError::Map { .. }));
        }
    }
}
