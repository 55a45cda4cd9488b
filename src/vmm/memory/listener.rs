//! The interface of what mirrors the guest's address space: KVM's memory slots and the IOMMU.

use crate::memory::error::MemoryError;
use crate::memory::region::Region;

/// Mirrors the regions of the address space elsewhere.
pub trait MemoryListener: Send + Sync {
    /// A region is added.
    ///
    /// # Errors
    /// The listener refuses the region, which keeps it out of the address space.
    fn add(&self, region: &Region) -> Result<(), MemoryError>;
    /// A region that was added before is removed.
    fn remove(&self, region: &Region);
}
