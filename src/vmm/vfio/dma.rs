//! Guest memory for DMA, through either interface to the IOMMU.

use std::any::Any;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use iommufd_ioctls::IommufdError;
use pci::addr::Range;
use vfio_ioctls::{VfioError, VfioIommufd, VfioOps};

use crate::memory::dma_mapper::{DmaBufMapper, DmaMapper, PartStays};

/// One space of I/O addresses: a container, or an address space of an iommufd.
pub struct IovaSpace {
    /// Maps and unmaps.
    pub ops: Arc<dyn VfioOps>,
    /// The I/O addresses that the space can map; empty when the kernel does not tell.
    pub ranges: Vec<Range>,
    /// The space's devices. With the last device a container loses its IOMMU and unmaps all memory.
    pub users: Mutex<Vec<User>>,
}

impl IovaSpace {
    fn users(&self) -> MutexGuard<'_, Vec<User>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reference to a device of a space, which ends when the device closes.
pub type User = Weak<dyn Any + Send + Sync>;

/// Maps guest memory for all devices, whichever space they are in.
pub struct IovaSpaces {
    spaces: Vec<IovaSpace>,
    ranges: Vec<Range>,
    /// Maps BARs, in the only space; `None` for containers.
    dma_bufs: Option<Arc<dyn DmaBufMapper>>,
}

impl IovaSpaces {
    /// Maps in all of `spaces`. An address is usable if every space can map it.
    pub fn new(spaces: Vec<IovaSpace>) -> Self {
        let ranges = spaces.iter().map(|s| s.ranges.clone());
        let ranges = ranges.reduce(|a, b| common(&a, &b)).unwrap_or_default();
        Self {
            spaces,
            ranges,
            dma_bufs: None,
        }
    }

    /// Maps in the one space of an iommufd, where BARs are mapped as dma-bufs.
    pub fn of_iommufd(space: IovaSpace, iommufd: Arc<VfioIommufd>) -> Self {
        Self {
            dma_bufs: Some(iommufd),
            ..Self::new(vec![space])
        }
    }

    /// Devices that are added later use the space of `ops`. Returns whether it is one of these.
    pub fn add_users(&self, ops: &dyn VfioOps, users: &[User]) -> bool {
        let same = |space: &&IovaSpace| ptr::addr_eq(Arc::as_ptr(&space.ops), ops);
        let Some(space) = self.spaces.iter().find(same) else {
            return false;
        };
        let mut all = space.users();
        all.retain(|user| user.strong_count() > 0);
        all.extend(users.iter().cloned());
        true
    }

    /// The spaces that still have devices. A single space always counts: its memory is unmapped
    /// before its last device closes.
    fn live(&self) -> impl Iterator<Item = &IovaSpace> {
        let alone = self.spaces.len() == 1;
        let live = move |s: &&IovaSpace| alone || s.users().iter().any(|u| u.strong_count() > 0);
        self.spaces.iter().filter(live)
    }
}

impl DmaMapper for IovaSpaces {
    fn map(&self, iova: u64, size: u64, host: u64) -> io::Result<()> {
        let live: Vec<&IovaSpace> = self.live().collect();
        for (done, space) in live.iter().enumerate() {
            // SAFETY: the address space keeps the host pages until they are unmapped, and no Rust
            // reference into guest memory exists: all access is volatile, through vm-memory.
            let mapped = unsafe { space.ops.vfio_dma_map(iova, size as usize, host as *mut u8) };
            if let Err(e) = mapped {
                let mut undone = true;
                for space in live.iter().take(done) {
                    undone &= space.ops.vfio_dma_unmap(iova, size as usize).is_ok();
                }
                let source = errno(e);
                return Err(match undone {
                    true => source,
                    false => io::Error::other(PartStays { source }),
                });
            }
        }
        Ok(())
    }

    fn unmap(&self, iova: u64, size: u64) -> io::Result<()> {
        let unmap = |space: &IovaSpace| space.ops.vfio_dma_unmap(iova, size as usize);
        // A failure in one space must not keep the map in the others.
        let outcomes: Vec<_> = self.live().map(unmap).collect();
        let all: Result<Vec<()>, _> = outcomes.into_iter().collect();
        all.map(|_| ()).map_err(errno)
    }

    fn by_iommufd(&self) -> bool {
        self.dma_bufs.is_some()
    }

    fn iova_ranges(&self) -> &[Range] {
        &self.ranges
    }

    fn dma_bufs(&self) -> Option<&dyn DmaBufMapper> {
        self.dma_bufs.as_deref()
    }
}

impl DmaBufMapper for VfioIommufd {
    fn map(&self, iova: u64, size: u64, buffer: BorrowedFd<'_>) -> io::Result<()> {
        let mapped = self
            .ioas()
            .map_file(buffer.as_raw_fd(), 0, size, iova, true);
        mapped.map_err(|e| errno(VfioError::IommufdIoctlError(e)))
    }
}

/// The addresses in both lists. An empty list means that the kernel does not tell.
fn common(a: &[Range], b: &[Range]) -> Vec<Range> {
    if a.is_empty() || b.is_empty() {
        return [a, b].concat();
    }
    let mut both = Vec::new();
    for a in a {
        for b in b {
            let (start, end) = (a.start.max(b.start), a.end().min(b.end()));
            if start < end {
                let size = end - start;
                both.push(Range { start, size });
            }
        }
    }
    if both.is_empty() {
        // No address is in both lists. An empty list would mean that the kernel does not tell.
        both.push(Range { start: 0, size: 0 });
    }
    both
}

/// The errno in an error of vfio-ioctls.
fn errno(error: VfioError) -> io::Error {
    match error {
        VfioError::IommuDmaMap(e)
        | VfioError::IommuDmaUnmap(e)
        | VfioError::IommufdIoctlError(
            IommufdError::IommuIoasMap(e)
            | IommufdError::IommuIoasMapFile(e)
            | IommufdError::IommuIoasUnmap(e),
        ) => io::Error::from_raw_os_error(e.errno()),
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use vmm_sys_util::errno::Error;

    use super::*;

    /// What is mapped, by I/O address; one of them is refused.
    #[derive(Default)]
    struct Fake {
        mapped: Mutex<Vec<u64>>,
        keeps: bool,
        refuses: Option<u64>,
    }

    impl VfioOps for Fake {
        unsafe fn vfio_dma_map(&self, iova: u64, _: usize, _: *mut u8) -> Result<(), VfioError> {
            if self.refuses == Some(iova) {
                return Err(VfioError::IommuDmaMap(Error::new(libc::EINVAL)));
            }
            self.mapped.lock().unwrap().push(iova);
            Ok(())
        }

        fn vfio_dma_unmap(&self, iova: u64, _: usize) -> Result<(), VfioError> {
            if self.keeps {
                return Err(VfioError::IommuDmaUnmap(Error::new(libc::EIO)));
            }
            let mut mapped = self.mapped.lock().unwrap();
            let at = mapped.iter().position(|m| *m == iova);
            let error = || VfioError::IommuDmaUnmap(Error::new(libc::ENOENT));
            mapped.remove(at.ok_or_else(error)?);
            Ok(())
        }

        fn as_any(&self) -> &dyn Any {
            self
        }
    }

    fn space(ops: &Arc<Fake>, device: &Arc<()>) -> IovaSpace {
        let user: User = Arc::downgrade(&(device.clone() as Arc<_>));
        IovaSpace {
            ops: ops.clone(),
            ranges: Vec::new(),
            users: Mutex::new(vec![user]),
        }
    }

    fn range(start: u64, size: u64) -> Range {
        Range { start, size }
    }

    #[test]
    fn maps_go_to_all_spaces_or_to_none() {
        let device = Arc::new(());
        let refusing = Fake {
            refuses: Some(0x2000),
            ..Fake::default()
        };
        let (first, second) = (Arc::new(Fake::default()), Arc::new(refusing));
        let mapper = IovaSpaces::new(vec![space(&first, &device), space(&second, &device)]);
        mapper.map(0x1000, 0x1000, 0).unwrap();
        assert!(mapper.map(0x2000, 0x1000, 0).is_err());
        for ops in [&first, &second] {
            assert_eq!(*ops.mapped.lock().unwrap(), [0x1000]);
        }
        mapper.unmap(0x1000, 0x1000).unwrap();
        for ops in [&first, &second] {
            assert!(ops.mapped.lock().unwrap().is_empty());
        }
    }

    #[test]
    fn a_map_that_cannot_be_undone_is_told() {
        let device = Arc::new(());
        // The first space gives nothing up, and the second maps nothing.
        let keeping = Fake {
            keeps: true,
            ..Fake::default()
        };
        let refusing = Fake {
            refuses: Some(0x1000),
            ..Fake::default()
        };
        let spaces = [keeping, refusing].map(|fake| space(&Arc::new(fake), &device));
        let mapper = IovaSpaces::new(Vec::from(spaces));
        let e = mapper.map(0x1000, 0x1000, 0).unwrap_err();
        assert!(e.get_ref().unwrap().is::<PartStays>(), "{e}");
    }

    #[test]
    fn a_space_without_devices_has_no_maps() {
        let (gone, kept) = (Arc::new(()), Arc::new(()));
        let (first, second) = (Arc::new(Fake::default()), Arc::new(Fake::default()));
        let mapper = IovaSpaces::new(vec![space(&first, &gone), space(&second, &kept)]);
        mapper.map(0x1000, 0x1000, 0).unwrap();
        drop(gone);
        // The kernel has taken it away.
        first.mapped.lock().unwrap().clear();
        mapper.unmap(0x1000, 0x1000).unwrap();
        mapper.map(0x3000, 0x1000, 0).unwrap();
        assert!(first.mapped.lock().unwrap().is_empty());
        assert_eq!(*second.mapped.lock().unwrap(), [0x3000]);
    }

    #[test]
    fn a_lone_space_is_always_live() {
        let (only, device) = (Arc::new(Fake::default()), Arc::new(()));
        let mapper = IovaSpaces::new(vec![space(&only, &device)]);
        drop(device);
        mapper.map(0x1000, 0x1000, 0).unwrap();
        assert_eq!(*only.mapped.lock().unwrap(), [0x1000]);
        mapper.unmap(0x1000, 0x1000).unwrap();
        let e = mapper.unmap(0x1000, 0x1000).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn only_what_all_can_map() {
        let low = [range(0, 0x1000), range(0x4000, 0x4000)];
        let high = [range(0x800, 0x5000)];
        let both = vec![range(0x800, 0x800), range(0x4000, 0x1800)];
        assert_eq!(common(&low, &high), both);
        assert_eq!(common(&high, &low), both);
        assert_eq!(common(&low, &[]), low);
        assert_eq!(common(&[range(0, 1)], &[range(1, 1)]), [range(0, 0)]);
    }
}
