//! The interface of what mirrors the guest's address space: KVM's memory slots and the IOMMU.

use crate::memory::error::MemoryError;
use crate::memory::region::Region;

/// One who must know of every region.
pub trait MemoryListener: Send + Sync {
    /// A region appears. An error keeps it out of the address space.
    fn add(&self, region: &Region) -> Result<(), MemoryError>;
    /// A region goes away; it was added before.
    fn remove(&self, region: &Region);
}
