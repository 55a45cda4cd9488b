//! Guest-physical memory: one address space, whose listeners mirror every region.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError};
use std::{mem, ptr};

use tracing::error;

use crate::log::error_chain::with_causes;
use crate::memory::error::MemoryError;
use crate::memory::listener::MemoryListener;
use crate::memory::mapping::PAGE_SIZE;
use crate::memory::region::{Region, RegionKind};
use crate::sync::{Mutex, MutexGuard};

#[derive(Default)]
struct Inner {
    regions: BTreeMap<u64, Region>,
    listeners: Vec<Arc<dyn MemoryListener>>,
    /// Removed regions whose host memory the kernel still uses. No other region gets an address of
    /// theirs.
    lost: Vec<Region>,
}

type OnLoss = Box<dyn Fn(&str) + Send + Sync>;

/// The guest-physical address space.
#[derive(Default)]
pub struct AddressSpace {
    inner: Mutex<Inner>,
    /// Called with a sentence when the kernel does not give up a region.
    on_loss: OnceLock<OnLoss>,
}

impl AddressSpace {
    /// An empty address space.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what ends the run when the kernel does not give up a region: the guest can then go on
    /// only with memory that the host believes to be free. Only the first call counts.
    pub fn on_loss(&self, what: impl Fn(&str) + Send + Sync + 'static) {
        // A second call would come from a second run of the same VM.
        let _ = self.on_loss.set(Box::new(what));
    }

    /// Removes `region` from a listener. If the kernel still uses the host memory, its mapping is
    /// kept for good, on purpose: an address that this process maps anew would be the guest's.
    fn remove_from(&self, listener: &dyn MemoryListener, region: &Region, lost: &mut Vec<Region>) {
        let Err(e) = listener.remove(region) else {
            return;
        };
        mem::forget(Arc::clone(&region.mapping));
        lost.push(region.clone());
        let why = with_causes(&e);
        error!("{why}");
        if let Some(tell) = self.on_loss.get() {
            tell(&why);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a listener, and adds all existing regions to the listener.
    ///
    /// # Errors
    /// The listener's error. The listener is then not subscribed, and the regions that it had
    /// accepted have been removed from it again.
    pub fn subscribe(&self, listener: Arc<dyn MemoryListener>) -> Result<(), MemoryError> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let mut done: Vec<&Region> = Vec::new();
        for region in inner.regions.values() {
            if let Err(e) = listener.add(region) {
                for region in done.into_iter().rev() {
                    self.remove_from(&*listener, region, &mut inner.lost);
                }
                return Err(e);
            }
            done.push(region);
        }
        inner.listeners.push(listener);
        Ok(())
    }

    /// Removes a listener, and every region from it.
    pub fn unsubscribe(&self, listener: &dyn MemoryListener) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let before = inner.listeners.len();
        inner
            .listeners
            .retain(|l| !ptr::addr_eq(Arc::as_ptr(l), listener));
        if inner.listeners.len() != before {
            for region in inner.regions.values().rev() {
                self.remove_from(listener, region, &mut inner.lost);
            }
        }
    }

    /// Adds a region to the address space and to every listener.
    ///
    /// # Errors
    /// [`MemoryError::BadRegion`], [`MemoryError::Overlap`], or the error of the first listener
    /// that refuses the region. Neither the address space nor a listener has changed then.
    pub fn add(&self, region: Region) -> Result<(), MemoryError> {
        let (start, size) = (region.start, region.size);
        let inside = region
            .offset
            .checked_add(size)
            .is_some_and(|end| end <= region.mapping.size());
        let aligned = (start | size | region.offset).is_multiple_of(PAGE_SIZE);
        if size == 0 || !inside || !aligned || start.checked_add(size).is_none() {
            return Err(MemoryError::BadRegion { start, size });
        }
        let mut guard = self.lock();
        let inner = &mut *guard;
        if let Some(other) = inner
            .overlapping(start, size)
            .or(inner.lost_at(start, size))
        {
            return Err(MemoryError::Overlap {
                start,
                size,
                other: other.start,
                other_size: other.size,
            });
        }
        for (i, listener) in inner.listeners.iter().enumerate() {
            if let Err(e) = listener.add(&region) {
                for listener in inner.listeners[..i].iter().rev() {
                    self.remove_from(&**listener, &region, &mut inner.lost);
                }
                return Err(e);
            }
        }
        inner.regions.insert(start, region);
        Ok(())
    }

    /// Removes the region that begins at `start`; returns whether there was one.
    pub fn remove(&self, start: u64) -> bool {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let Some(region) = inner.regions.remove(&start) else {
            return false;
        };
        for listener in inner.listeners.iter().rev() {
            self.remove_from(&**listener, &region, &mut inner.lost);
        }
        true
    }

    /// The kind of the region at a guest-physical address; `None` if there is no region.
    pub fn kind_at(&self, address: u64) -> Option<RegionKind> {
        self.lock().overlapping(address, 1).map(|r| r.kind)
    }

    /// The number of regions.
    pub fn len(&self) -> usize {
        self.lock().regions.len()
    }

    /// Whether the address space is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Inner {
    fn lost_at(&self, start: u64, size: u64) -> Option<&Region> {
        let end = start.saturating_add(size);
        self.lost.iter().find(|r| r.start < end && r.end() > start)
    }

    fn overlapping(&self, start: u64, size: u64) -> Option<&Region> {
        let last = start.saturating_add(size).saturating_sub(1);
        self.regions
            .range(..=last)
            .next_back()
            .map(|(_, r)| r)
            .filter(|r| r.end() > start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::error::StillUsed;
    use crate::memory::mapping::Mapping;

    #[derive(Default)]
    struct Recorder {
        refuse: Option<u64>,
        /// This region is never given up.
        keep: Option<u64>,
        seen: Mutex<Vec<u64>>,
    }

    impl MemoryListener for Recorder {
        fn add(&self, region: &Region) -> Result<(), MemoryError> {
            if self.refuse == Some(region.start) {
                return Err(MemoryError::NoSlot(0));
            }
            self.seen.lock().unwrap().push(region.start);
            Ok(())
        }
        fn remove(&self, region: &Region) -> Result<(), StillUsed> {
            if self.keep == Some(region.start) {
                return Err(StillUsed {
                    by: "a test",
                    start: region.start,
                    size: region.size,
                    source: std::io::Error::from_raw_os_error(libc::EIO),
                });
            }
            self.seen.lock().unwrap().retain(|s| *s != region.start);
            Ok(())
        }
    }

    fn region(start: u64, size: u64) -> Region {
        let mapping = Arc::new(Mapping::anonymous(size, PAGE_SIZE).unwrap());
        Region {
            start,
            size,
            mapping,
            offset: 0,
            kind: RegionKind::Ram,
            bar: None,
        }
    }

    #[test]
    fn overlaps_are_refused() {
        let space = AddressSpace::new();
        space.add(region(0x1000, 0x2000)).unwrap();
        for (start, size) in [
            (0x1000, 0x1000),
            (0x2000, 0x1000),
            (0, 0x2000),
            (0, 0x10000),
        ] {
            assert!(matches!(
                space.add(region(start, size)),
                Err(MemoryError::Overlap { .. })
            ));
        }
        space.add(region(0, 0x1000)).unwrap();
        space.add(region(0x3000, 0x1000)).unwrap();
        assert_eq!(space.len(), 3);
        assert_eq!(space.kind_at(0x3fff), Some(RegionKind::Ram));
        assert_eq!(space.kind_at(0x4000), None);
    }

    #[test]
    fn bad_regions_are_refused() {
        let space = AddressSpace::new();
        let mut r = region(0x1000, 0x1000);
        r.offset = 0x1000;
        assert!(matches!(space.add(r), Err(MemoryError::BadRegion { .. })));
        let mut r = region(0x1000, 0x1000);
        r.start = 0x1800;
        assert!(matches!(space.add(r), Err(MemoryError::BadRegion { .. })));
        let mut r = region(0x1000, 0x1000);
        r.start = u64::MAX - 0xfff;
        assert!(matches!(space.add(r), Err(MemoryError::BadRegion { .. })));
    }

    #[test]
    fn late_subscribers_hear_of_everything() {
        let space = AddressSpace::new();
        space.add(region(0x1000, 0x1000)).unwrap();
        let recorder = Arc::new(Recorder::default());
        space.subscribe(recorder.clone()).unwrap();
        space.add(region(0x4000, 0x1000)).unwrap();
        assert_eq!(*recorder.seen.lock().unwrap(), [0x1000, 0x4000]);
        assert!(space.remove(0x1000));
        assert!(!space.remove(0x1000));
        space.unsubscribe(&*recorder);
        assert!(recorder.seen.lock().unwrap().is_empty());
    }

    /// Whether this process has the mapping's first page.
    fn is_mapped(address: u64) -> bool {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let ranges = maps
            .lines()
            .filter_map(|line| line.split(' ').next()?.split_once('-'));
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let mut ranges = ranges.map(|(start, end)| number(start)..number(end));
        ranges.any(|range| range.contains(&address))
    }

    /// However a region is removed: what the kernel still uses stays mapped, no region gets its
    /// address, and the run learns of it.
    #[test]
    fn memory_that_is_not_given_up_stays_for_good() {
        type Way = fn(&AddressSpace, &Arc<Recorder>);
        let ways: [Way; 3] = [
            |space, _| assert!(space.remove(0x4000)),
            |space, recorder| space.unsubscribe(&**recorder),
            // A later listener refuses the region, and the first does not give it up again.
            |space, _| {
                space.remove(0x5000);
                let refuse = Some(0x4000);
                let other = Arc::new(Recorder {
                    refuse,
                    ..Default::default()
                });
                space.subscribe(other).unwrap_err();
                space.remove(0x4000);
            },
        ];
        for way in ways {
            let space = AddressSpace::new();
            let told = Arc::new(Mutex::new(Vec::new()));
            let heard = Arc::clone(&told);
            space.on_loss(move |why| heard.lock().unwrap().push(why.to_owned()));
            let keep = Some(0x4000);
            let recorder = Arc::new(Recorder {
                keep,
                ..Default::default()
            });
            space.subscribe(recorder.clone()).unwrap();
            let region = region(0x4000, 0x1000);
            let address = region.host_address();
            space.add(region).unwrap();
            way(&space, &recorder);
            space.remove(0x4000);
            assert!(matches!(
                space.add(super::tests::region(0x4000, 0x1000)),
                Err(MemoryError::Overlap { .. })
            ));
            drop((space, recorder));
            assert!(is_mapped(address));
            let told = told.lock().unwrap();
            assert!(told[0].starts_with("a test does not give up the guest's memory at 0x4000"));
        }
        // A mapping that is given up goes.
        let space = AddressSpace::new();
        let region = region(0x4000, 0x1000);
        let address = region.host_address();
        space.add(region).unwrap();
        space.remove(0x4000);
        assert!(!is_mapped(address));
    }

    #[test]
    fn a_refusal_is_rolled_back() {
        let space = AddressSpace::new();
        let first = Arc::new(Recorder::default());
        let second = Arc::new(Recorder {
            refuse: Some(0x4000),
            ..Default::default()
        });
        space.subscribe(first.clone()).unwrap();
        space.subscribe(second.clone()).unwrap();
        assert!(space.add(region(0x4000, 0x1000)).is_err());
        assert!(first.seen.lock().unwrap().is_empty());
        assert!(space.is_empty());
        space.add(region(0x5000, 0x1000)).unwrap();
        let third = Arc::new(Recorder {
            refuse: Some(0x5000),
            ..Default::default()
        });
        assert!(space.subscribe(third.clone()).is_err());
        assert!(third.seen.lock().unwrap().is_empty());
    }
}
