//! Errors of the guest's address space and of mapping it for DMA.

use std::io;

use crate::errnos;
use crate::hostinfo::locked::LockedByOthers;

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
    #[error(
        "guest memory {start:#x}+{size:#x}: {}",
        errnos::text("KVM_SET_USER_MEMORY_REGION", .source)
    )]
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

impl MemoryError {
    /// The remedy to type, where one is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Slot { source, .. } => errnos::hint("KVM_SET_USER_MEMORY_REGION", source),
            Self::NoSlot(_) => Some("pass fewer devices".into()),
            Self::Dma(e) => e.hint(),
            Self::BadRegion { .. } | Self::Overlap { .. } => None,
        }
    }
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
    #[error("{size} bytes at {iova:#x}: {}", errnos::text(.call, .source))]
    Map {
        /// VFIO_IOMMU_MAP_DMA or IOMMU_IOAS_MAP, or the call that unmaps.
        call: &'static str,
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
         {limit} (RLIMIT_MEMLOCK){}",
        why_too_little(.others, *.namespace)
    )]
    MemLock {
        /// Bytes that the run must lock.
        need: u64,
        /// The limit in bytes.
        limit: u64,
        /// What other processes of this user have locked, if the interface counts that too.
        others: LockedByOthers,
        /// Whether this process has CAP_IPC_LOCK, but only in a user namespace.
        namespace: bool,
        /// The errno; `None` when the limit was found before a map was tried.
        source: Option<io::Error>,
    },
    /// Guest memory lies where the IOMMU cannot map.
    #[error("{} at {start:#x}+{size:#x} lies outside the ranges that the host's IOMMU can map: \
             {ranges}", if *.ram { "RAM" } else { "the BAR" })]
    Reserved {
        /// Guest-physical address.
        start: u64,
        /// Bytes.
        size: u64,
        /// Whether it is RAM, and not a BAR.
        ram: bool,
        /// The usable ranges.
        ranges: String,
    },
}

/// What the user does not see in the limit.
fn why_too_little(others: &LockedByOthers, namespace: bool) -> String {
    let mut text = String::new();
    if !others.processes.is_empty() {
        text = format!(
            ", and {} locked {} of it: iommufd counts all processes of a user together",
            others.in_words(),
            others.bytes()
        );
    }
    if namespace {
        text.push_str("; the CAP_IPC_LOCK of a user namespace does not count");
    }
    text
}

impl DmaError {
    /// The remedy to type, where one is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::MemLock { need, others, .. } => {
                let kib = (need + others.bytes()).div_ceil(1024) + 64 * 1024;
                let other_way = match others.processes[..] {
                    [] => "",
                    _ => "; or use --iommu container, which counts each process for itself",
                };
                Some(format!(
                    "raise the limit with `ulimit -l {kib}` as root, or for good with a line \
                     `* - memlock {kib}` in /etc/security/limits.conf; a container has a limit of \
                     its own: --ulimit memlock={}{other_way}",
                    kib * 1024
                ))
            }
            Self::Reserved { .. } => Some(
                "give the guest less memory with --memory, so that its RAM ends below the \
                 reserved range"
                    .into(),
            ),
            Self::Map { call, source, .. } => errnos::hint(call, source),
        }
    }
}
