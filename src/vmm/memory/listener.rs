//! The interface of the two mirrors of the guest's address space: KVM's memory slots and the IOMMU.

use crate::memory::error::MemoryError;
use crate::memory::region::Region;

/// Mirrors the regions of the address space elsewhere.
pub trait MemoryListener: Send + Sync {
    /// Adds a region.
    ///
    /// # Errors
    /// The listener refuses the region, which then does not become part of the address space.
    fn add(&self, region: &Region) -> Result<(), MemoryError>;
    /// Removes a region that was added before.
    fn remove(&self, region: &Region);
}
