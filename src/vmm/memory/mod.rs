//! Guest memory: the host's pages behind it, and who has to know of them.
//!
//! [`AddressSpace`] holds the guest-physical regions and tells its listeners ([`MemoryListener`])
//! of each: KVM's memory slots ([`kvm_slots`]) and the IOMMU ([`dma`]). A listener that subscribes
//! late is told of all regions that are there. When a listener refuses a region, those that had
//! accepted the region are told to forget it.
//!
//! | file | content |
//! | --- | --- |
//! | [`mapping`] | a range of host addresses: reserved, populated, replaced by a file's pages |
//! | [`ram`] | the guest's RAM, made of mappings |
//! | [`hugetlb`] | the host's reserve of huge pages |
//! | [`region`], [`listener`], [`error`] | what address space and listeners exchange |
//! | [`address_space`] | the regions and their listeners |
//! | [`kvm_slots`], [`dma`] | the two listeners |
//! | [`prefault`] | RAM made present and mapped for DMA while the guest starts |
//! | [`dma_ready`] | where a vCPU waits that enables bus mastering before that is done |
//! | [`populate_throttle`] | pauses populating while set-up needs the host's memory locks |

pub mod address_space;
pub mod dma;
pub mod dma_ready;
pub mod error;
pub mod hugetlb;
pub mod kvm_slots;
pub mod listener;
pub mod mapping;
pub mod populate_throttle;
pub mod prefault;
pub mod ram;
pub mod region;

pub use address_space::AddressSpace;
pub use error::{DmaError, MemoryError};
pub use listener::MemoryListener;
pub use mapping::PAGE_SIZE;
pub use ram::GuestMemory;
pub use region::{Region, RegionKind};
