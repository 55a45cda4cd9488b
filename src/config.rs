//! The validated description of a VM: `cli` makes it, `machine` consumes it.

use std::path::PathBuf;

/// The least RAM a guest gets: a stock kernel does not unpack itself in less.
pub const MIN_MEMORY: u64 = 64 << 20;
/// The most vCPUs: what one 8-bit APIC id space and one MADT page serve without thinking.
pub const MAX_CPUS: u32 = 64;

/// What to boot and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmConfig {
    /// bzImage or ELF vmlinux.
    pub kernel: PathBuf,
    /// Initial RAM file system.
    pub initrd: Option<PathBuf>,
    /// The whole kernel command line.
    pub cmdline: String,
    /// vCPUs, 1 to [`MAX_CPUS`].
    pub cpus: u32,
    /// RAM in bytes, a multiple of 4 KiB.
    pub memory: u64,
    /// Devices to pass through, as the user wrote them.
    pub vfio: Vec<String>,
    /// End the run where the guest asks for a reboot.
    pub no_reboot: bool,
}
