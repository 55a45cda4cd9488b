//! The maps of guest memory for DMA, and how many devices use them. With the last device the maps
//! go, and so does what they pin.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use tracing::info;

use crate::memory::address_space::AddressSpace;
use crate::memory::dma::{Dma, DmaMap};
use crate::memory::dma_mapper::DmaMapper;
use crate::memory::error::DmaError;
use crate::sync::{Condvar, Mutex, MutexGuard};

/// The maps of a guest. Devices whose IOMMUs can be used together share them.
pub(crate) struct Maps {
    space: Arc<AddressSpace>,
    list: Mutex<Vec<Used>>,
    /// Maps have gone.
    gone: Condvar,
}

struct Used {
    dma: Arc<Dma>,
    /// Open devices that have not been given back to the host.
    devices: usize,
    /// The last device leaves, and memory is being unmapped.
    going: bool,
}

impl Maps {
    /// No maps.
    pub fn new(space: Arc<AddressSpace>) -> Self {
        Self {
            space,
            list: Mutex::default(),
            gone: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Used>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many devices more use these maps, which listen to the guest's memory already.
    pub fn join(&self, dma: &Arc<Dma>, devices: usize) {
        let mut list = self.lock();
        match list.iter_mut().find(|used| Arc::ptr_eq(&used.dma, dma)) {
            Some(used) => used.devices += devices,
            None => list.push(Used {
                dma: Arc::clone(dma),
                devices,
                going: false,
            }),
        }
    }

    /// So many devices more use the maps that are made through `mapper`, which `make` makes unless
    /// devices use them. Maps that are going are waited for: the new ones have the same addresses.
    pub fn join_or_make(
        &self,
        mapper: &Arc<dyn DmaMapper>,
        devices: usize,
        make: impl FnOnce() -> Arc<Dma>,
    ) -> Arc<Dma> {
        let going = |list: &mut Vec<Used>| {
            let mut list = list.iter();
            list.any(|used| used.going && used.dma.is_by(mapper))
        };
        let list = self.gone.wait_while(self.lock(), going);
        let mut list = list.unwrap_or_else(PoisonError::into_inner);
        if let Some(used) = list.iter_mut().find(|used| used.dma.is_by(mapper)) {
            used.devices += devices;
            return Arc::clone(&used.dma);
        }
        let dma = make();
        list.push(Used {
            dma: Arc::clone(&dma),
            devices,
            going: false,
        });
        dma
    }

    /// Whether no device uses guest memory.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// How often guest memory is pinned for devices: each container and each IOAS counts anew. Maps
    /// that are going do not count.
    pub fn count(&self) -> u64 {
        self.lock().iter().filter(|used| !used.going).count() as u64
    }

    /// How many devices use these maps.
    pub fn devices(&self, dma: &Arc<Dma>) -> usize {
        let list = self.lock();
        let used = list.iter().find(|used| Arc::ptr_eq(&used.dma, dma));
        used.map_or(0, |used| used.devices)
    }

    /// Closes so many devices by `close`. If they are the last of these maps, the guest's memory is
    /// unmapped before, and `true` is returned.
    pub fn leave(&self, dma: &Arc<Dma>, devices: usize, close: impl FnOnce()) -> bool {
        let mut list = self.lock();
        let at = list.iter().position(|used| Arc::ptr_eq(&used.dma, dma));
        let last = at.is_some_and(|at| match list.get_mut(at) {
            Some(used) if used.devices > devices => {
                used.devices -= devices;
                false
            }
            Some(used) => {
                (used.devices, used.going) = (0, true);
                true
            }
            None => false,
        });
        drop(list);
        if last {
            self.space.unsubscribe(&**dma);
            self.lock().retain(|used| !Arc::ptr_eq(&used.dma, dma));
            self.gone.notify_all();
        }
        // RAM must not be mapped while a device closes, because the device's container may close
        // too.
        dma.between_maps(close);
        last
    }

    /// The present maps, in the order of their addresses. What several IOMMUs map is listed once
    /// for each.
    pub fn list(&self) -> Vec<DmaMap> {
        let all: Vec<_> = self.lock().iter().map(|u| Arc::clone(&u.dma)).collect();
        let mut maps: Vec<_> = all.iter().flat_map(|dma| dma.maps()).collect();
        maps.sort_by_key(|map| map.iova);
        maps
    }

    /// Unmaps everything. Returns the first map that the IOMMU has not given up.
    pub fn close(&self) -> Option<DmaError> {
        let begun = Instant::now();
        let all = std::mem::take(&mut *self.lock());
        let mut lost = None;
        for used in &all {
            self.space.unsubscribe(&*used.dma);
            lost = lost.or(used.dma.take_lost());
        }
        if !all.is_empty() {
            let us = begun.elapsed().as_micros();
            info!("the guest's memory was unmapped for DMA in {us} us");
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;
    use std::{io, thread};

    use pci::addr::Range;

    use super::*;
    use crate::memory::mapping::{Mapping, PAGE_SIZE};
    use crate::memory::region::{Region, RegionKind};

    /// Counts the bytes that are mapped.
    #[derive(Default)]
    struct Counting(Mutex<u64>, Duration);

    impl DmaMapper for Counting {
        fn map(&self, _: u64, size: u64, _: u64) -> io::Result<()> {
            *self.0.lock().unwrap() += size;
            Ok(())
        }
        fn unmap(&self, _: u64, size: u64) -> io::Result<()> {
            thread::sleep(self.1);
            *self.0.lock().unwrap() -= size;
            Ok(())
        }
        fn iova_ranges(&self) -> &[Range] {
            &[]
        }
    }

    fn new_dma(mapper: &Arc<dyn DmaMapper>) -> Arc<Dma> {
        let mapper = Arc::clone(mapper);
        Arc::new(Dma::new(mapper, PAGE_SIZE, false, Arc::default()))
    }

    fn page_of_ram() -> Region {
        Region {
            start: 0,
            size: PAGE_SIZE,
            mapping: Arc::new(Mapping::anonymous(PAGE_SIZE, PAGE_SIZE).unwrap()),
            offset: 0,
            kind: RegionKind::Ram,
            bar: None,
        }
    }

    /// The maps of a device that is added while the last one leaves.
    #[test]
    fn new_maps_come_after_those_that_go() {
        let space = Arc::new(AddressSpace::new());
        let region = page_of_ram();
        space.add(region.clone()).unwrap();
        let counting = Arc::new(Counting(Mutex::default(), Duration::from_millis(50)));
        let mapper = counting.clone() as Arc<dyn DmaMapper>;
        let mapped = || *counting.0.lock().unwrap();
        let maps = Maps::new(Arc::clone(&space));
        let old = maps.join_or_make(&mapper, 1, || new_dma(&mapper));
        space.subscribe(old.clone()).unwrap();
        old.map_ram(&region, 0, PAGE_SIZE).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| assert!(maps.leave(&old, 1, || ())));
            while maps.devices(&old) > 0 {
                thread::yield_now();
            }
            let new = maps.join_or_make(&mapper, 1, || new_dma(&mapper));
            assert_eq!((Arc::ptr_eq(&new, &old), mapped()), (false, 0));
            assert_eq!((maps.devices(&old), maps.devices(&new)), (0, 1));
        });
    }

    #[test]
    fn memory_is_unmapped_before_the_last_device_closes() {
        let space = Arc::new(AddressSpace::new());
        let region = page_of_ram();
        space.add(region.clone()).unwrap();
        let counting = Arc::new(Counting::default());
        let mapper = counting.clone() as Arc<dyn DmaMapper>;
        let mapped = || *counting.0.lock().unwrap();
        let maps = Maps::new(Arc::clone(&space));
        assert!(maps.is_empty());
        for _ in 0..2 {
            let dma = maps.join_or_make(&mapper, 1, || new_dma(&mapper));
            space.subscribe(dma.clone()).unwrap();
            dma.map_ram(&region, 0, PAGE_SIZE).unwrap();
            let same = maps.join_or_make(&mapper, 2, || panic!("they are there"));
            assert!(Arc::ptr_eq(&same, &dma));
            assert_eq!((maps.devices(&dma), maps.list().len()), (3, 1));
            assert_eq!(maps.count(), 1);
            assert!(!maps.leave(&dma, 2, || assert_eq!(mapped(), PAGE_SIZE)));
            assert!(maps.leave(&dma, 1, || assert_eq!(mapped(), 0)));
            assert!(maps.is_empty() && maps.list().is_empty() && !dma.has_ram());
        }
        // Devices whose IOMMUs cannot be used together.
        let others: [Arc<dyn DmaMapper>; 2] = [Arc::new(Counting::default()), mapper.clone()];
        let both = others.map(|mapper| maps.join_or_make(&mapper, 1, || new_dma(&mapper)));
        assert_eq!(maps.count(), 2);
        assert!(both.iter().all(|dma| maps.leave(dma, 1, || ())) && maps.is_empty());
        // An add that fails before memory is mapped.
        let dma = new_dma(&mapper);
        maps.join(&dma, 1);
        assert!(maps.leave(&dma, 1, || ()));
        assert!(maps.close().is_none());
    }
}
