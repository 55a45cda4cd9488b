//! The interface of the two mirrors of the guest's address space: KVM's memory slots and the IOMMU.

use crate::memory::error::{MemoryError, StillUsed};
use crate::memory::region::Region;

/// Mirrors the regions of the address space elsewhere.
pub trait MemoryListener: Send + Sync {
    /// Adds a region.
    ///
    /// # Errors
    /// The listener refuses the region, which then does not become part of the address space.
    fn add(&self, region: &Region) -> Result<(), MemoryError>;
    /// Removes a region that was added before.
    ///
    /// # Errors
    /// The kernel still uses the host memory behind the region, which must then never be unmapped:
    /// the guest or a device would reach whatever this process maps there next.
    fn remove(&self, region: &Region) -> Result<(), StillUsed>;
}
