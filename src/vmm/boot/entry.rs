//! The entry point of a loaded kernel, its addresses, and the data to hand over.

use pci::addr::Range;

/// How vCPU 0 starts. [`CpuState`](super::cpu_state::CpuState) has the registers for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Long mode, identity-mapped, `rsi` pointing at the zero page.
    Linux64 {
        /// The first instruction, guest-physical.
        rip: u64,
        /// `struct boot_params`, guest-physical.
        zero_page: u64,
    },
    /// 32-bit protected mode without paging, `ebx` pointing at `hvm_start_info`.
    Pvh {
        /// The first instruction, guest-physical, below 4 GiB.
        eip: u64,
        /// `struct hvm_start_info`, guest-physical.
        start_info: u64,
    },
}

/// The guest-physical addresses that a kernel occupies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub start: u64,
    /// Exclusive.
    pub end: u64,
}

/// The data, besides the command line, at which the boot structures of both protocols point.
pub(super) struct Handover {
    /// Guest-physical address of the RSDP.
    pub rsdp: u64,
    /// The initrd in guest memory, below 4 GiB.
    pub initrd: Option<Range>,
}
