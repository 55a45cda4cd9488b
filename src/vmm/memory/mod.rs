//! Guest memory: the host's pages behind it, and their mirrors in KVM and the IOMMU.
//!
//! [`AddressSpace`] holds the guest-physical regions and tells its listeners ([`MemoryListener`])
//! of each: KVM's memory slots ([`kvm_slots`]) and the IOMMU ([`dma`]). A listener that subscribes
//! late gets all existing regions. When a listener refuses a region, the region is removed from the
//! listeners that had accepted it.
//!
//! | file | content |
//! | --- | --- |
//! | [`mapping`] | a range of host addresses: reserved, populated, replaced by a file's pages |
//! | [`ram`] | the guest's RAM, made of mappings |
//! | [`guest_memory`] | RAM for loaders, which keeps its mappings alive |
//! | [`hugetlb`] | the host's reserve of huge pages |
//! | [`region`], [`listener`], [`error`] | the interface of address space and listeners |
//! | [`bar_part`] | a part of a BAR, by its device: for the DMA of other devices |
//! | [`address_space`] | the regions and their listeners |
//! | [`kvm_slots`], [`dma`] | the two listeners |
//! | [`prefault`] | RAM made present and mapped for DMA while the guest starts |
//! | [`dma_ready`] | blocks a vCPU that enables bus mastering until RAM is mapped for DMA |
//! | [`populate_throttle`] | pauses populating while set-up needs the host's memory locks |

pub mod address_space;
pub mod bar_part;
pub mod dma;
pub mod dma_mapper;
pub mod dma_ready;
pub mod error;
pub mod guest_memory;
pub mod hugetlb;
pub mod kvm_slots;
pub mod listener;
pub mod mapping;
pub mod memlock;
pub mod populate_throttle;
pub mod prefault;
pub mod ram;
pub mod region;

#[cfg(test)]
mod large_ram;

pub use address_space::AddressSpace;
pub use bar_part::{BarOwner, BarPart};
pub use error::{DmaError, MemoryError};
pub use guest_memory::GuestMemory;
pub use listener::MemoryListener;
pub use mapping::PAGE_SIZE;
pub use region::{Region, RegionKind};
