use super::*;
use crate::memory::address_space::AddressSpace;
use crate::memory::mapping::Mapping;
use crate::memory::mapping::PAGE_SIZE;

struct Fake {
    ranges: Vec<Range>,
    /// Maps from this address on fail, with this error.
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
        live: Mutex::default(),
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

#[test]
fn a_low_limit_is_explained() {
    let dma = Dma::new(Arc::new(willing()), u64::MAX, true, Arc::default());
    let e = dma.explain(
        &region(0, RegionKind::Ram),
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
