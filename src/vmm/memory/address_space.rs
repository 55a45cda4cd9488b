//! Guest-physical memory: one address space, whose listeners mirror every region.

use std::collections::BTreeMap;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::memory::error::MemoryError;
use crate::memory::listener::MemoryListener;
use crate::memory::mapping::PAGE_SIZE;
use crate::memory::region::{Region, RegionKind};

#[derive(Default)]
struct Inner {
    regions: BTreeMap<u64, Region>,
    listeners: Vec<Arc<dyn MemoryListener>>,
}

/// The guest-physical address space.
#[derive(Default)]
pub struct AddressSpace {
    inner: Mutex<Inner>,
}

impl AddressSpace {
    /// An empty address space.
    pub fn new() -> Self {
        Self::default()
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
        let mut inner = self.lock();
        let mut done: Vec<&Region> = Vec::new();
        for region in inner.regions.values() {
            if let Err(e) = listener.add(region) {
                done.into_iter().rev().for_each(|r| listener.remove(r));
                return Err(e);
            }
            done.push(region);
        }
        inner.listeners.push(listener);
        Ok(())
    }

    /// Removes a listener, and every region from it.
    pub fn unsubscribe(&self, listener: &dyn MemoryListener) {
        let mut inner = self.lock();
        let before = inner.listeners.len();
        inner
            .listeners
            .retain(|l| !ptr::addr_eq(Arc::as_ptr(l), listener));
        if inner.listeners.len() != before {
            inner
                .regions
                .values()
                .rev()
                .for_each(|r| listener.remove(r));
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
        let mut inner = self.lock();
        if let Some(other) = inner.overlapping(start, size) {
            return Err(MemoryError::Overlap {
                start,
                size,
                other: other.start,
                other_size: other.size,
            });
        }
        for (i, listener) in inner.listeners.iter().enumerate() {
            if let Err(e) = listener.add(&region) {
                inner.listeners[..i]
                    .iter()
                    .rev()
                    .for_each(|l| l.remove(&region));
                return Err(e);
            }
        }
        inner.regions.insert(start, region);
        Ok(())
    }

    /// Removes the region that begins at `start`; returns whether there was one.
    pub fn remove(&self, start: u64) -> bool {
        let mut inner = self.lock();
        let Some(region) = inner.regions.remove(&start) else {
            return false;
        };
        inner.listeners.iter().rev().for_each(|l| l.remove(&region));
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
    use crate::memory::mapping::Mapping;

    #[derive(Default)]
    struct Recorder {
        refuse: Option<u64>,
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
        fn remove(&self, region: &Region) {
            self.seen.lock().unwrap().retain(|s| *s != region.start);
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
