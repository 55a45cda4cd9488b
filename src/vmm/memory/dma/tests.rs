use std::os::fd::{BorrowedFd, OwnedFd};

use pci::addr::Range;
use vmm_sys_util::tempfile::TempFile;

use super::*;
use crate::memory::address_space::AddressSpace;
use crate::memory::bar_part::BarOwner;
use crate::memory::dma_mapper::DmaBufMapper;
use crate::memory::mapping::Mapping;
use crate::memory::mapping::PAGE_SIZE;

struct Fake {
    ranges: Vec<Range>,
    /// Maps from this address on fail, with this error.
    errno: Option<(u64, i32)>,
    /// This address cannot be unmapped.
    keeps: Option<u64>,
    live: Mutex<Vec<u64>>,
    /// Whether BARs are mapped as dma-bufs.
    by_dma_buf: bool,
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
        if self.keeps == Some(iova) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.live.lock().unwrap().retain(|i| *i != iova);
        Ok(())
    }
    fn iova_ranges(&self) -> &[Range] {
        &self.ranges
    }
    fn dma_bufs(&self) -> Option<&dyn DmaBufMapper> {
        self.by_dma_buf.then_some(self)
    }
}

impl DmaBufMapper for Fake {
    fn map(&self, iova: u64, size: u64, _: BorrowedFd<'_>) -> io::Result<()> {
        DmaMapper::map(self, iova, size, 0)
    }
}

/// A device of BAR 2, which counts its exports, as offset and size.
#[derive(Debug, Default)]
struct Owner {
    exports: Mutex<Vec<(u64, u64)>>,
    silent: bool,
}

impl BarOwner for Owner {
    fn name(&self) -> &str {
        "the DMA test's device"
    }
    fn can_export(&self) -> bool {
        !self.silent
    }
    fn export(&self, bar: u32, offset: u64, size: u64) -> io::Result<OwnedFd> {
        assert_eq!(bar, 2);
        self.exports.lock().unwrap().push((offset, size));
        Ok(TempFile::new().unwrap().into_file().into())
    }
}

/// A part of the owner's BAR, from the BAR's second page on.
fn part(owner: &Arc<Owner>, start: u64, size: u64) -> Region {
    Region {
        size,
        mapping: Arc::new(Mapping::reserve(size, PAGE_SIZE).unwrap()),
        bar: Some(BarPart {
            owner: owner.clone(),
            bar: 2,
            offset: 0x1000,
        }),
        ..region(start, RegionKind::Device)
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
        bar: None,
    }
}

/// Makes an address space whose devices have `peers` or not.
fn space(fake: Fake, peers: bool) -> (AddressSpace, Arc<Dma>, Arc<Fake>) {
    let fake = Arc::new(fake);
    let space = AddressSpace::new();
    let dma = Arc::new(Dma::new(fake.clone(), u64::MAX, peers, Arc::default()));
    space.subscribe(dma.clone()).unwrap();
    (space, dma, fake)
}

fn willing() -> Fake {
    Fake {
        ranges: vec![],
        errno: None,
        keeps: None,
        live: Mutex::default(),
        by_dma_buf: false,
    }
}

/// As iommufd.
fn by_dma_buf() -> Fake {
    Fake {
        by_dma_buf: true,
        ..willing()
    }
}

impl Dma {
    fn map_all(&self, region: &Region) -> Result<(), DmaError> {
        map_chunks(region).try_for_each(|(at, size)| self.map_ram(region, at, size))
    }
}

#[test]
fn reserved_ranges_are_refused_for_ram_and_skipped_for_bars() {
    let ranges = vec![Range {
        start: 0,
        size: 0x10000,
    }];
    let (space, dma, fake) = space(
        Fake {
            ranges,
            ..willing()
        },
        true,
    );
    let ram = region(0xf000, RegionKind::Ram);
    space.add(ram.clone()).unwrap();
    let refused = space.add(region(0x10000, RegionKind::Ram)).unwrap_err();
    assert!(matches!(
        refused,
        MemoryError::Dma(DmaError::Reserved { .. })
    ));
    space.add(region(0x20000, RegionKind::Device)).unwrap();
    dma.map_all(&ram).unwrap();
    dma.finish_ram();
    assert_eq!(*fake.live.lock().unwrap(), [0xf000]);
    space.remove(0x20000);
    space.remove(0xf000);
    assert!(fake.live.lock().unwrap().is_empty());
}

#[test]
fn a_lone_device_has_no_peers() {
    let (space, dma, fake) = space(willing(), false);
    dma.finish_ram();
    space.add(region(0x1000, RegionKind::Device)).unwrap();
    assert!(fake.live.lock().unwrap().is_empty());
    space.remove(0x1000);
}

/// A second device comes while the guest runs, and leaves again.
#[test]
fn bars_are_mapped_while_there_are_peers() {
    let (space, dma, fake) = space(willing(), false);
    space.add(region(0x1000, RegionKind::Device)).unwrap();
    space.add(region(0x2000, RegionKind::Device)).unwrap();
    dma.finish_ram();
    space.remove(0x2000);
    let live = || fake.live.lock().unwrap().clone();
    dma.set_peers(true);
    assert_eq!(live(), [0x1000]);
    space.add(region(0x3000, RegionKind::Device)).unwrap();
    dma.set_peers(true);
    assert_eq!(live(), [0x1000, 0x3000]);
    assert_eq!(dma.maps().len(), 2);
    dma.set_peers(false);
    assert!(live().is_empty() && dma.maps().is_empty());
    space.add(region(0x4000, RegionKind::Device)).unwrap();
    space.remove(0x1000);
    dma.set_peers(true);
    let mut mapped = live();
    mapped.sort_unstable();
    assert_eq!(mapped, [0x3000, 0x4000]);
    space.remove(0x3000);
    space.remove(0x4000);
    assert!(live().is_empty());
}

#[test]
fn failures_are_fatal_for_ram_alone() {
    let errno = Some((0, libc::EFAULT));
    let (space, dma, _) = space(Fake { errno, ..willing() }, true);
    let ram = region(0, RegionKind::Ram);
    space.add(ram.clone()).unwrap();
    let refused = dma.map_all(&ram).unwrap_err();
    assert!(matches!(refused, DmaError::Map { .. }));
    dma.finish_ram();
    space.add(region(0x1000, RegionKind::Device)).unwrap();
}

#[test]
fn bars_wait_for_ram() {
    let (space, dma, fake) = space(willing(), true);
    let ram = region(0, RegionKind::Ram);
    space.add(ram.clone()).unwrap();
    for start in [0x1000, 0x2000, 0x3000] {
        space.add(region(start, RegionKind::Device)).unwrap();
    }
    // A BAR that is removed before RAM is mapped must never be mapped.
    space.remove(0x2000);
    assert!(fake.live.lock().unwrap().is_empty());
    dma.map_all(&ram).unwrap();
    dma.finish_ram();
    assert_eq!(*fake.live.lock().unwrap(), [0, 0x1000, 0x3000]);
    space.remove(0x1000);
    space.add(region(0x4000, RegionKind::Device)).unwrap();
    assert_eq!(*fake.live.lock().unwrap(), [0, 0x3000, 0x4000]);
}

#[test]
fn ram_that_has_gone_is_not_mapped() {
    let (space, dma, fake) = space(willing(), true);
    let size = 3 * MAP_CHUNK;
    let ram = Region {
        size,
        mapping: Arc::new(Mapping::reserve(size, PAGE_SIZE).unwrap()),
        ..region(4 * MAP_CHUNK, RegionKind::Ram)
    };
    space.add(ram.clone()).unwrap();
    dma.map_ram(&ram, 0, MAP_CHUNK).unwrap();
    dma.map_ram(&ram, MAP_CHUNK, MAP_CHUNK).unwrap();
    assert_eq!(*fake.live.lock().unwrap(), [4 * MAP_CHUNK, 5 * MAP_CHUNK]);
    // The last device has been given back.
    space.unsubscribe(&*dma);
    assert!(fake.live.lock().unwrap().is_empty());
    dma.map_ram(&ram, 2 * MAP_CHUNK, MAP_CHUNK).unwrap();
    assert!(fake.live.lock().unwrap().is_empty());
}

#[test]
fn large_bars_are_mapped_in_chunks_or_not_at_all() {
    let size = 2 * MAP_CHUNK + 0x20_0000;
    let bar = Region {
        size,
        mapping: Arc::new(Mapping::reserve(size, PAGE_SIZE).unwrap()),
        ..region(4 * MAP_CHUNK, RegionKind::Device)
    };
    let all = [4 * MAP_CHUNK, 5 * MAP_CHUNK, 6 * MAP_CHUNK];
    for (refused, mapped) in [(None, &all[..]), (Some(6 * MAP_CHUNK), &[])] {
        let errno = refused.map(|from| (from, libc::EFAULT));
        let (space, dma, fake) = space(Fake { errno, ..willing() }, true);
        dma.finish_ram();
        space.add(bar.clone()).unwrap();
        assert_eq!(*fake.live.lock().unwrap(), mapped);
        space.remove(bar.start);
        assert!(fake.live.lock().unwrap().is_empty());
    }
}

/// A peer's map that is not given up, when the BAR moves and when the map itself fails half way.
#[test]
fn a_map_that_stays_is_not_forgotten() {
    let size = 2 * MAP_CHUNK;
    let start = 4 * MAP_CHUNK;
    for errno in [None, Some((start + MAP_CHUNK, libc::EFAULT))] {
        let keeps = Some(start);
        let (space, dma, fake) = space(
            Fake {
                errno,
                keeps,
                ..willing()
            },
            true,
        );
        let told = Arc::new(Mutex::new(String::new()));
        let heard = Arc::clone(&told);
        space.on_loss(move |why| *heard.lock().unwrap() = why.to_owned());
        dma.finish_ram();
        let bar = Region {
            size,
            mapping: Arc::new(Mapping::reserve(size, PAGE_SIZE).unwrap()),
            ..region(start, RegionKind::Device)
        };
        let mapping = Arc::downgrade(&bar.mapping);
        space.add(bar).unwrap();
        assert!(space.remove(start));
        assert_eq!(*fake.live.lock().unwrap(), [start]);
        let told = told.lock().unwrap();
        assert!(told.starts_with("the IOMMU does not give up"), "{}", *told);
        drop((space, dma));
        assert!(mapping.upgrade().is_some());
    }
}

#[test]
fn a_low_limit_is_explained() {
    let dma = Dma::new(Arc::new(willing()), u64::MAX, true, Arc::default());
    let e = dma.explain(
        &region(0, RegionKind::Ram),
        "VFIO_IOMMU_MAP_DMA",
        io::Error::from_raw_os_error(libc::ENOMEM),
    );
    let free = crate::sys::may_lock_any(std::path::Path::new("/proc"));
    if crate::sys::memlock_limit() < u64::MAX && !free {
        assert!(matches!(e, DmaError::MemLock { .. }));
        assert!(e.hint().unwrap().contains("ulimit -l"));
    } else {
        assert!(matches!(e, DmaError::Map { .. }));
    }
}

#[test]
fn a_bar_is_exported_chunk_by_chunk_each_time_it_is_mapped() {
    let (space, dma, fake) = space(by_dma_buf(), true);
    dma.finish_ram();
    let owner = Arc::new(Owner::default());
    let bar = part(&owner, 4 * MAP_CHUNK, MAP_CHUNK + 0x2000);
    let chunks = [(0x1000, MAP_CHUNK), (0x1000 + MAP_CHUNK, 0x2000)];
    let exports = || std::mem::take(&mut *owner.exports.lock().unwrap());
    let mapped = || fake.live.lock().unwrap().clone();
    for _ in 0..2 {
        space.add(bar.clone()).unwrap();
        assert_eq!(exports(), chunks);
        assert_eq!(mapped(), [4 * MAP_CHUNK, 5 * MAP_CHUNK]);
        space.remove(bar.start);
        assert!(mapped().is_empty());
    }
}

#[test]
fn what_cannot_be_exported_is_not_tried() {
    let (space, dma, fake) = space(by_dma_buf(), true);
    dma.finish_ram();
    let silent = Arc::new(Owner {
        silent: true,
        ..Owner::default()
    });
    space.add(part(&silent, 0x1000, 0x1000)).unwrap();
    assert!(fake.live.lock().unwrap().is_empty());
    assert!(silent.exports.lock().unwrap().is_empty());
}

#[test]
fn a_container_maps_a_bar_by_its_host_address_and_keeps_it() {
    let (space, dma, fake) = space(willing(), true);
    dma.finish_ram();
    let owner = Arc::new(Owner::default());
    space.add(part(&owner, 0x1000, 0x1000)).unwrap();
    assert_eq!(*fake.live.lock().unwrap(), [0x1000]);
    assert!(owner.exports.lock().unwrap().is_empty());
}

/// The user is told, once, whose BAR is missing and what else could be tried.
#[test]
fn a_refused_bar_is_told() {
    let owner = Arc::new(Owner::default());
    let told = || {
        let losses = degraded::list().into_iter();
        let ours = losses.filter(|l| l.device.as_deref() == Some(owner.name()));
        ours.collect::<Vec<_>>()
    };
    assert!(told().is_empty());
    let errno = Some((0, libc::EFAULT));
    for fake in [by_dma_buf(), willing()] {
        let (space, dma, _) = space(Fake { errno, ..fake }, true);
        dma.finish_ram();
        space.add(part(&owner, 0x1000, 0x1000)).unwrap();
        let [loss] = &told()[..] else {
            panic!("{:?}", told());
        };
        assert_eq!(loss.code, Code::NoPeerToPeer);
        assert!(loss.what.contains("BAR 2") && loss.why.contains("Bad address"));
        assert!(loss.hint.starts_with("--iommu container"));
    }
}
