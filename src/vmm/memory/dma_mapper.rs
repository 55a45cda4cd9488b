//! What the IOMMU's interfaces have in common: memory is mapped for devices, and unmapped.

use std::io;
use std::os::fd::BorrowedFd;

use pci::addr::Range;

/// Maps guest memory for devices. Implemented for VFIO containers and for an address space of
/// iommufd.
pub trait DmaMapper: Send + Sync {
    /// Maps `[iova, iova + size)` to the host address, for reading and writing.
    ///
    /// # Errors
    /// The errno: nothing is mapped. [`PartStays`] as an [`io::Error`]: a part is, and cannot be
    /// unmapped.
    fn map(&self, iova: u64, size: u64, host: u64) -> io::Result<()>;
    /// Removes `[iova, iova + size)`, which one call of [`DmaMapper::map`] has mapped.
    ///
    /// # Errors
    /// The errno, or a message when fewer bytes were unmapped.
    fn unmap(&self, iova: u64, size: u64) -> io::Result<()>;
    /// Whether iommufd maps, and not a container.
    fn by_iommufd(&self) -> bool {
        false
    }
    /// The I/O virtual addresses that can be mapped, half-open; empty when the kernel does not
    /// tell.
    fn iova_ranges(&self) -> &[Range];
    /// Maps the BARs of devices; `None` where [`DmaMapper::map`] maps them, by host addresses.
    fn dma_bufs(&self) -> Option<&dyn DmaBufMapper> {
        None
    }
}

/// Maps dma-bufs for devices. [`DmaMapper::unmap`] removes them.
pub trait DmaBufMapper: Send + Sync {
    /// Maps `[iova, iova + size)` to a dma-buf's first bytes, for reading and writing.
    ///
    /// # Errors
    /// The errno.
    fn map(&self, iova: u64, size: u64, buffer: BorrowedFd<'_>) -> io::Result<()>;
}

/// A failed map that could not be undone.
#[derive(Debug, thiserror::Error)]
#[error("{source}, and a part stays mapped")]
pub struct PartStays {
    /// The failure.
    pub source: io::Error,
}

/// Whether a failed call of [`DmaMapper::map`] has left something mapped.
pub(super) fn stays(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|e| e.is::<PartStays>())
}
