//! Errors of the guest's address space and of mapping it for DMA.

use std::io;

/// The reason why the address space refuses a region.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Not page aligned, empty, beyond its mapping, or wrapping round.
    #[error("region {start:#x}+{size:#x} is not page aligned or reaches beyond its mapping")]
    BadRegion {
        /// Guest-physical address.
        start: u64,
        /// Bytes.
        size: u64,
    },
    /// The region overlaps an existing region.
    #[error("region {start:#x}+{size:#x} overlaps {other:#x}+{other_size:#x}")]
    Overlap {
        /// Guest-physical address.
        start: u64,
        /// Bytes.
        size: u64,
        /// Guest-physical start of the existing region.
        other: u64,
        /// Bytes of the existing region.
        other_size: u64,
    },
    /// KVM refused a memory slot.
    #[error("KVM_SET_USER_MEMORY_REGION of {start:#x}+{size:#x} failed")]
    Slot {
        /// Guest-physical address.
        start: u64,
        /// Bytes.
        size: u64,
        /// The errno.
        source: kvm_ioctls::Error,
    },
    /// All memory slots are in use.
    #[error("all of KVM's {0} memory slots are in use")]
    NoSlot(u32),
    /// The IOMMU refused a map.
    #[error(transparent)]
    Dma(#[from] DmaError),
}

/// The kernel did not give up the host memory behind a part of guest memory.
#[derive(Debug, thiserror::Error)]
#[error(
    "{by} does not give up the guest's memory at {start:#x}+{size:#x}, so the host memory behind \
     it stays reserved until the program ends"
)]
pub struct StillUsed {
    /// KVM, or the IOMMU.
    pub by: &'static str,
    /// Guest-physical address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// The errno.
    pub source: io::Error,
}

/// The reason why the IOMMU did not map guest memory.
#[derive(Debug, thiserror::Error)]
pub enum DmaError {
    /// The map call failed.
    #[error("the IOMMU does not map {size} bytes at {iova:#x}")]
    Map {
        /// I/O virtual address, equal to the guest-physical one.
        iova: u64,
        /// Bytes.
        size: u64,
        /// The errno.
        source: io::Error,
    },
    /// The guest's memory exceeds the limit on locked memory (RLIMIT_MEMLOCK).
    #[error(
        "the devices need {need} bytes of the guest's memory locked, but this user may lock only \
         {limit} (RLIMIT_MEMLOCK)"
    )]
    MemLock {
        /// Bytes that the run must lock.
        need: u64,
        /// The limit in bytes.
        limit: u64,
        /// The errno; `None` when the limit was found before a map was tried.
        source: Option<io::Error>,
    },
    /// RAM lies where the IOMMU cannot map.
    #[error(
        "RAM at {start:#x}+{size:#x} lies outside the ranges that the host's IOMMU can map: \
         {ranges}"
    )]
    Reserved {
        /// Guest-physical address.
        start: u64,
        /// Bytes.
        size: u64,
        /// The usable ranges.
        ranges: String,
    },
}

impl DmaError {
    /// The remedy to type, where one is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::MemLock { need, .. } => {
                let kib = need.div_ceil(1024) + 64 * 1024;
                Some(format!(
                    "raise the limit with `ulimit -l {kib}` as root, or for good with a line \
                     `* - memlock {kib}` in /etc/security/limits.conf"
                ))
            }
            Self::Reserved { .. } => Some(
                "give the guest less memory with --memory, so that its RAM ends below the \
                 reserved range"
                    .into(),
            ),
            Self::Map { .. } => Some("see `dmesg | grep -i -e iommu -e vfio`".into()),
        }
    }
}
