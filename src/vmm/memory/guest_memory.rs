//! The guest's RAM for loaders: accessed by guest-physical addresses, with bounds checks.
//!
//! vm-memory's own regions know a host address, not who keeps it mapped, and they can be cloned.
//! The regions here hold their mapping, so that no clone outlives it.

use std::sync::Arc;

use vm_memory::bitmap::BS;
use vm_memory::guest_memory::Result as MemoryResult;
use vm_memory::region::GuestMemoryRegionBytes;
use vm_memory::{
    GuestAddress, GuestMemoryRegion, GuestRegionCollection, GuestRegionMmap, GuestUsize,
    MemoryRegionAddress, MmapRegion, VolatileSlice,
};

use crate::memory::mapping::Mapping;

/// RAM by guest-physical addresses.
///
/// A clone keeps the host memory mapped:
///
/// ```
/// use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
/// use vmm::config::memory::Pages;
/// use vmm::layout::Layout;
/// use vmm::memory::ram::Ram;
///
/// let layout = Layout::new(64 << 20, 0, 40).unwrap();
/// let ram = Ram::new(&layout, Pages::Small, false).unwrap();
/// let slice = ram.memory().get_slice(GuestAddress(0x1000), 8).unwrap();
/// slice.copy_from(&[0u8; 8]);
/// let clone = ram.memory().clone();
/// drop(ram);
/// clone.write_obj(7u8, GuestAddress(0x1000)).unwrap();
/// ```
///
/// Nothing of it that points into the mapping outlives it:
///
/// ```compile_fail,E0505
/// use vm_memory::{GuestAddress, GuestMemoryBackend};
/// use vmm::config::memory::Pages;
/// use vmm::layout::Layout;
/// use vmm::memory::ram::Ram;
///
/// let layout = Layout::new(64 << 20, 0, 40).unwrap();
/// let ram = Ram::new(&layout, Pages::Small, false).unwrap();
/// let slice = ram.memory().get_slice(GuestAddress(0x1000), 8).unwrap();
/// drop(ram);
/// slice.copy_from(&[0u8; 8]);
/// ```
pub type GuestMemory = GuestRegionCollection<RamRegion>;

/// A region of RAM, which keeps its mapping alive.
#[derive(Debug)]
pub struct RamRegion {
    /// A view of `mapping`. It leaves this type only as slices that borrow the region.
    view: GuestRegionMmap<()>,
    _mapping: Arc<Mapping>,
}

impl RamRegion {
    /// The whole of `mapping`, which this process can read and write, at the guest-physical address
    /// `start`; `None` if it reaches beyond the last address.
    pub fn new(mapping: &Arc<Mapping>, start: u64) -> Option<Self> {
        let size = usize::try_from(mapping.size()).ok()?;
        // SAFETY: the address and the size are those of the mapping, which this value keeps alive
        // longer than the view. All access is volatile.
        let view = unsafe {
            MmapRegion::build_raw(
                mapping.address() as *mut u8,
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_NORESERVE,
            )
        };
        Some(Self {
            view: GuestRegionMmap::new(view.ok()?, GuestAddress(start))?,
            _mapping: Arc::clone(mapping),
        })
    }
}

impl GuestMemoryRegion for RamRegion {
    type B = ();

    fn len(&self) -> GuestUsize {
        self.view.len()
    }

    fn start_addr(&self) -> GuestAddress {
        self.view.start_addr()
    }

    fn bitmap(&self) -> BS<'_, ()> {
        self.view.bitmap()
    }

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> MemoryResult<VolatileSlice<'_, BS<'_, ()>>> {
        self.view.get_slice(offset, count)
    }
}

impl GuestMemoryRegionBytes for RamRegion {}

/// Makes memory for a test, by start and size.
#[cfg(test)]
pub(crate) fn test_memory(ranges: &[(GuestAddress, usize)]) -> GuestMemory {
    let regions = ranges.iter().map(|(start, size)| {
        let mapping = Mapping::anonymous(*size as u64, 0).unwrap();
        RamRegion::new(&Arc::new(mapping), start.0).unwrap()
    });
    GuestMemory::from_regions(regions.collect()).unwrap()
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;

    #[test]
    fn a_clone_keeps_the_mapping() {
        let mapping = Arc::new(Mapping::anonymous(0x2000, 0).unwrap());
        let weak = Arc::downgrade(&mapping);
        let region = RamRegion::new(&mapping, 0x1000).unwrap();
        let memory = GuestMemory::from_regions(vec![region]).unwrap();
        let clone = memory.clone();
        drop((memory, mapping));
        clone.write_obj(0x55u8, GuestAddress(0x2fff)).unwrap();
        assert!(clone.write_obj(0x55u8, GuestAddress(0x3000)).is_err());
        assert!(clone.write_obj(0x55u8, GuestAddress(0xfff)).is_err());
        drop(clone);
        assert!(weak.upgrade().is_none());
    }
}
