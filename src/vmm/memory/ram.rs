//! Guest RAM: aligned for large pages, made of huge pages if the host has them, and made present in
//! parallel.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::{io, thread};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use vm_memory::{GuestAddress, GuestRegionMmap, MmapRegion};

use crate::config::memory::{HugePage, Pages};
use crate::layout::Layout;
use crate::memory::hugetlb;
use crate::memory::hugetlb::Reserve;
use crate::memory::mapping::Mapping;
use crate::memory::region::{Region, RegionKind};

/// The guest's RAM for loaders: accessed by guest-physical addresses, with bounds checks.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;

const GIB: u64 = 1 << 30;
const HUGE_PAGE: u64 = 2 << 20;
/// Bytes that one thread populates in one call. During the call the kernel holds the lock of the
/// address space, and other threads that map memory wait. Zeroing a huge page takes so long that
/// the cost of the call itself does not matter.
const CHUNK: u64 = HUGE_PAGE;
/// Bytes of a region's largest part. KVM takes at most 2^31 - 1 pages in a memory slot
/// (KVM_MEM_MAX_NR_PAGES in virt/kvm/kvm_main.c), which is 8 TiB less a page.
const MOST: u64 = 4 << 40;
/// Bit position, in the flags of memfd_create(2), of the page size's logarithm (MFD_HUGE_SHIFT).
const HUGE_SHIFT: u32 = 26;

/// The reason why RAM cannot be made or populated.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// mmap(2) failed.
    #[error("cannot reserve {} MiB for the guest's memory", .0 >> 20)]
    Reserve(u64, #[source] io::Error),
    /// The host has too few huge pages.
    #[error(
        "the guest's memory takes {need} huge pages of {page}; this host has {}, and {} of them \
         are free",
        reserve.total,
        reserve.free
    )]
    HugePages {
        /// The size of a page.
        page: HugePage,
        /// How many pages the guest needs.
        need: u64,
        /// The pages that the host has.
        reserve: Reserve,
    },
    /// The host has no huge pages of this size.
    #[error("this host has no huge pages of {0}")]
    NoHugePages(HugePage),
    /// memfd_create(2) or a call on its file failed.
    #[error("cannot make {} MiB of memory that can be shared", .0 >> 20)]
    Memfd(u64, #[source] io::Error),
    /// madvise(2) failed.
    #[error("cannot get the guest's {} MiB of memory from the host", .0 >> 20)]
    Populate(u64, #[source] io::Error),
    /// vm-memory refused the regions.
    #[error("the guest's memory regions do not fit together: {0}")]
    Regions(String),
}

impl RamError {
    /// The remedy to type.
    pub fn hint(&self) -> String {
        match self {
            Self::HugePages {
                page,
                need,
                reserve,
            } => {
                let total = reserve.total - reserve.free.min(reserve.total) + need;
                let knob = hugetlb::knob(*page);
                format!(
                    "as root: echo {total} > {}, or give the guest other pages with hugepages=thp",
                    knob.display()
                )
            }
            Self::NoHugePages(_) => "give the guest other pages with hugepages=thp".into(),
            _ => "free memory on the host, or give the guest less with --memory".into(),
        }
    }
}

/// The guest's RAM.
#[derive(Debug)]
pub struct Ram {
    regions: Vec<Region>,
    memory: GuestMemory,
    /// The memfd, which stays open for other processes: they find it in /proc/PID/fd. The mappings
    /// do not need the descriptor.
    _file: Option<File>,
    chunk: u64,
}

impl Ram {
    /// Reserves the RAM of `layout`, made of `pages`. If `shared`, RAM is a memfd, which another
    /// process can map. Guest and host addresses agree modulo 1 GiB (2 MiB for a smaller region),
    /// so that KVM and the IOMMU can use 2 MiB and 1 GiB pages. No page is present yet.
    ///
    /// # Errors
    /// The host lacks addresses, huge pages, or descriptors.
    pub fn new(layout: &Layout, pages: Pages, shared: bool) -> Result<Self, RamError> {
        let size = layout.ram().map(|r| r.size).sum();
        let explain = |e: io::Error| match pages {
            Pages::Huge(page) => explain_huge(page, size, e),
            _ if shared => RamError::Memfd(size, e),
            _ => RamError::Reserve(size, e),
        };
        let file = shared.then(|| make_memfd(size, pages)).transpose();
        let file = file.map_err(explain)?;
        let mut regions = Vec::new();
        let mut views = Vec::new();
        let mut offset = 0;
        for range in layout.ram() {
            let align = if range.size >= GIB { GIB } else { HUGE_PAGE };
            let mapping = match (&file, pages) {
                (Some(file), _) => Mapping::reserve(range.size, align).and_then(|mapping| {
                    mapping.map_file(0, range.size, file.as_raw_fd(), offset, true)?;
                    Ok(mapping)
                }),
                (None, Pages::Huge(page)) => Mapping::huge(range.size, align, page.shift()),
                (None, _) => Mapping::anonymous(range.size, align),
            };
            let mapping = match mapping {
                Ok(mapping) => mapping,
                Err(e) => {
                    // Freed before the host's huge pages are counted for the message.
                    drop((regions, views, file));
                    return Err(explain(e));
                }
            };
            match pages {
                // The first 2 MiB hold a few tables. Zeroing a whole huge page for them would take
                // a fifth of the time to the guest's first instruction.
                Pages::Transparent if range.start == 0 => {
                    mapping.advise_huge_pages(HUGE_PAGE, true);
                }
                Pages::Transparent => mapping.advise_huge_pages(0, true),
                Pages::Small => mapping.advise_huge_pages(0, false),
                Pages::Huge(_) => {}
            }
            mapping.exclude_from_dumps();
            // SAFETY: the address and size are those of a live mapping with these protections; the
            // regions below keep it alive as long as the view.
            let view = unsafe {
                MmapRegion::build_raw(
                    mapping.address() as *mut u8,
                    range.size as usize,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_NORESERVE,
                )
            };
            let view = view.map_err(|e| RamError::Regions(e.to_string()))?;
            let view = GuestRegionMmap::new(view, GuestAddress(range.start))
                .ok_or_else(|| RamError::Regions("address overflow".into()))?;
            views.push(view);
            let mapping = Arc::new(mapping);
            regions.extend(parts(range.size).map(|(offset, size)| Region {
                start: range.start + offset,
                size,
                mapping: Arc::clone(&mapping),
                offset,
                kind: RegionKind::Ram,
                bar: None,
            }));
            offset += range.size;
        }
        let memory =
            GuestMemory::from_regions(views).map_err(|e| RamError::Regions(e.to_string()))?;
        Ok(Self {
            regions,
            memory,
            _file: file,
            chunk: CHUNK.max(pages.granule()),
        })
    }

    /// The regions for the address space, in the order of their addresses.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// RAM by guest-physical addresses, for loaders.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The number of bytes that one call populates.
    pub fn chunk(&self) -> u64 {
        self.chunk
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.regions.iter().map(|r| r.size).sum()
    }

    /// Makes every page of `range` present, on up to `threads` threads. `range` is in bytes of RAM:
    /// the regions follow each other without the hole between them. Each thread calls `progress`
    /// with the bytes done by all threads, and stops when the answer is `false`.
    ///
    /// VFIO_IOMMU_MAP_DMA would allocate and zero absent pages one at a time. Making them present
    /// first, in parallel and as huge pages, takes a fraction of that time.
    ///
    /// # Errors
    /// [`RamError::Populate`] when the host runs out of pages.
    pub fn populate(
        &self,
        range: Range<u64>,
        threads: usize,
        progress: &(dyn Fn(u64) -> bool + Sync),
    ) -> Result<(), RamError> {
        let next = AtomicU64::new(range.start);
        let done = AtomicU64::new(0);
        let failed = AtomicBool::new(false);
        let end = range.end.min(self.size());
        let work = || -> io::Result<()> {
            while !failed.load(Ordering::Relaxed) {
                let mut at = next.fetch_add(self.chunk, Ordering::Relaxed);
                if at >= end {
                    break;
                }
                let mut left = self.chunk.min(end - at);
                let mut filled = 0;
                for region in &self.regions {
                    if at < region.size && left > 0 {
                        let now = left.min(region.size - at);
                        region
                            .mapping
                            .populate(region.offset + at, now)
                            .inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
                        left -= now;
                        filled += now;
                        at = 0;
                    } else {
                        at = at.saturating_sub(region.size);
                    }
                }
                if !progress(done.fetch_add(filled, Ordering::Relaxed) + filled) {
                    break;
                }
            }
            Ok(())
        };
        let chunks = end.saturating_sub(range.start).div_ceil(self.chunk);
        let chunks = usize::try_from(chunks).unwrap_or(usize::MAX);
        let others = threads.min(chunks).saturating_sub(1);
        thread::scope(|scope| {
            // If the host has no thread left, the started threads do the work.
            let spawn = |_| {
                let builder = thread::Builder::new().name("prefault".into());
                builder.spawn_scoped(scope, work).ok()
            };
            let workers: Vec<_> = (0..others).filter_map(spawn).collect();
            let mine = work();
            let theirs = workers.into_iter().try_for_each(|w| {
                w.join()
                    .unwrap_or_else(|_| Err(io::Error::other("a thread died")))
            });
            mine.and(theirs)
        })
        .map_err(|e| RamError::Populate(self.size(), e))
    }
}

/// The parts of `size` bytes that are regions of their own: offset and size.
fn parts(size: u64) -> impl Iterator<Item = (u64, u64)> {
    let starts = (0..size.div_ceil(MOST)).map(|n| n * MOST);
    starts.map(move |start| (start, MOST.min(size - start)))
}

/// A memfd of `size` bytes, sealed: if another process made it shorter, the next access here would
/// raise SIGBUS.
fn make_memfd(size: u64, pages: Pages) -> io::Result<File> {
    let huge = match pages {
        Pages::Huge(page) => {
            MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(page.shift() << HUGE_SHIFT)
        }
        _ => MemfdFlags::empty(),
    };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | huge;
    let file = File::from(memfd_create("guest-ram", flags)?);
    file.set_len(size)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

/// Makes the error of a failed mapping of huge pages for `size` bytes.
fn explain_huge(page: HugePage, size: u64, error: io::Error) -> RamError {
    let need = size / page.size();
    match Reserve::read(page) {
        None => RamError::NoHugePages(page),
        Some(reserve) if reserve.free < need => RamError::HugePages {
            page,
            need,
            reserve,
        },
        Some(_) => RamError::Reserve(size, error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use vm_memory::{Bytes, GuestMemoryBackend};

    use super::*;
    use crate::memory::mapping::PAGE_SIZE;

    const KINDS: [(Pages, bool); 4] = [
        (Pages::Transparent, false),
        (Pages::Transparent, true),
        (Pages::Small, false),
        (Pages::Small, true),
    ];

    #[test]
    fn ram_is_congruent_and_whole() {
        let layout = Layout::new(4 << 30, 0, 40).unwrap();
        for (pages, shared) in KINDS {
            let ram = Ram::new(&layout, pages, shared).unwrap();
            assert_eq!(ram.size(), 4 << 30);
            for r in ram.regions() {
                assert_eq!(r.host_address() % GIB, r.start % GIB);
            }
            for at in [0, 3 << 30, 4 << 30] {
                let outcome = ram.memory().write_obj(7u8, GuestAddress(at));
                assert_eq!(outcome.is_ok(), at != 3 << 30, "{at:#x}");
            }
            assert_eq!(ram.memory().num_regions(), 2);
        }
    }

    #[test]
    fn populate_covers_both_sides_of_the_hole() {
        let mut layout = Layout::new(96 << 20, 0, 40).unwrap();
        layout.high_ram = Some(pci::addr::Range {
            start: 1 << 32,
            size: 80 << 20,
        });
        for (pages, shared) in KINDS {
            let ram = Ram::new(&layout, pages, shared).unwrap();
            let most = AtomicU64::new(0);
            let all = || ram.regions().iter().map(present).sum::<u64>();
            ram.populate(90 << 20..110 << 20, 2, &|_| true).unwrap();
            assert_eq!(all(), 20 << 20, "{pages:?}, shared: {shared}");
            ram.populate(0..ram.size(), 3, &|n| {
                most.fetch_max(n, Ordering::Relaxed);
                true
            })
            .unwrap();
            assert_eq!(most.into_inner(), 176 << 20);
            assert_eq!(all(), 176 << 20, "{pages:?}, shared: {shared}");
        }
    }

    /// Bytes of a region that are there (Documentation/admin-guide/mm/pagemap.rst).
    fn present(region: &Region) -> u64 {
        const PRESENT: u64 = 1 << 63;
        let mut entries = vec![0; (region.size / PAGE_SIZE * 8) as usize];
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        let at = region.host_address() / PAGE_SIZE * 8;
        pagemap.read_exact_at(&mut entries, at).unwrap();
        let entries = entries.chunks(8);
        let entries = entries.map(|e| u64::from_ne_bytes(e.try_into().unwrap()));
        entries.filter(|e| e & PRESENT != 0).count() as u64 * PAGE_SIZE
    }

    #[test]
    fn shared_memory_cannot_be_made_shorter() {
        let file = make_memfd(1 << 20, Pages::Small).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 1 << 20);
        assert!(file.set_len(0).is_err());
        assert!(file.set_len(2 << 20).is_err());
    }

    #[test]
    fn missing_huge_pages_are_counted() {
        // More than any host sets aside.
        let layout = Layout::new(1 << 39, 0, 48).unwrap();
        for page in [HugePage::Mib2, HugePage::Gib1] {
            for shared in [false, true] {
                let e = Ram::new(&layout, Pages::Huge(page), shared).unwrap_err();
                match (&e, Reserve::read(page)) {
                    (RamError::HugePages { need, .. }, Some(_)) => {
                        assert_eq!(*need, (1 << 39) / page.size());
                        let knob = format!("hugepages-{}kB/nr_hugepages", page.size() >> 10);
                        assert!(e.hint().contains(&knob), "{}", e.hint());
                    }
                    (RamError::NoHugePages(_), None) => {}
                    _ => panic!("{e:?}"),
                }
            }
        }
    }
}
