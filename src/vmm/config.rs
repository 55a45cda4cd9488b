//! The validated description of a VM: `cli` makes it, `machine` consumes it.

pub mod cpus;
pub mod device;
pub mod memory;
pub mod options;
pub mod topology;

use std::path::PathBuf;

use cpus::CpuConfig;
use device::{DeviceConfig, DeviceOptionError};
use memory::{HugePage, MemoryConfig};
use options::OptionError;
use topology::TopologyError;

/// The least RAM a guest gets: a stock kernel does not unpack itself in less.
pub const MIN_MEMORY: u64 = 64 << 20;
/// The most vCPUs.
pub const MAX_CPUS: u32 = 64;
/// RAM when the user does not say.
pub const DEFAULT_MEMORY: &str = "512M";
/// What every command line begins with.
pub const BASE_CMDLINE: &str = "console=ttyS0";

/// Which of the kernel's interfaces to the IOMMU is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Iommu {
    /// iommufd where the kernel and the devices have it, else the container.
    #[default]
    Auto,
    /// VFIO groups and a type 1 container.
    Container,
    /// iommufd and device nodes.
    Iommufd,
}

/// Where the statistics of a run go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Statistics {
    /// There are none.
    #[default]
    Off,
    /// To standard error, as a table.
    Table,
    /// To this file, as JSON.
    Json(PathBuf),
}

/// What to boot and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmConfig {
    /// bzImage or ELF vmlinux.
    pub kernel: PathBuf,
    /// Initial RAM file system.
    pub initrd: Option<PathBuf>,
    /// The whole kernel command line.
    pub cmdline: String,
    /// vCPUs.
    pub cpus: CpuConfig,
    /// RAM.
    pub memory: MemoryConfig,
    /// Devices to pass through.
    pub vfio: Vec<DeviceConfig>,
    /// How those devices are opened.
    pub iommu: Iommu,
    /// End the run where the guest asks for a reboot.
    pub no_reboot: bool,
    /// What is told about the run.
    pub statistics: Statistics,
}

/// Something on the command line that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// `--memory`.
    #[error(transparent)]
    Memory(#[from] SizeError),
    /// `--vfio`.
    #[error(transparent)]
    Device(#[from] DeviceOptionError),
    /// An option of another flag.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// Not one host CPU for each vCPU.
    #[error("{pinned} host CPUs are named for {cpus} vCPU{}", if *cpus == 1 { "" } else { "s" })]
    Pins {
        /// vCPUs.
        cpus: u32,
        /// Host CPUs.
        pinned: usize,
    },
    /// Sockets, cores and threads that are not as many as the vCPUs.
    #[error(transparent)]
    Topology(#[from] TopologyError),
}

impl ConfigError {
    /// What to type.
    pub fn hint(&self) -> String {
        match self {
            Self::Memory(e) => e.hint(),
            Self::Device(e) => e.hint(),
            Self::Option(e) => e.hint(),
            Self::Pins { cpus: 1, .. } => "name one for it, for example pin=0".into(),
            Self::Pins { cpus, .. } => {
                format!("name one for each, for example pin=0-{}", cpus - 1)
            }
            Self::Topology(_) => "sockets, cores and threads multiply to the vCPUs, for example --cpus 4,sockets=1,cores=2,threads=2".into(),
        }
    }
}

/// A memory size that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a number with a unit.
    #[error("`{0}` is not a size of memory")]
    Malformed(String),
    /// Too little to boot.
    #[error("{text} of memory is too little: the least is {least}M", least = MIN_MEMORY >> 20)]
    TooSmall {
        /// What the user wrote.
        text: String,
    },
    /// Not so many whole huge pages.
    #[error("{text} of memory is no multiple of its {page} pages")]
    NotMultiple {
        /// What the user wrote.
        text: String,
        /// The pages.
        page: HugePage,
    },
}

impl SizeError {
    /// What to type.
    pub fn hint(&self) -> String {
        match self {
            Self::Malformed(_) => {
                "give a number with K, M, G or T, for example --memory 512M or --memory 4G; a bare number means MiB".into()
            }
            Self::TooSmall { .. } => format!("give the guest more, for example --memory {DEFAULT_MEMORY}"),
            Self::NotMultiple { page, .. } => format!("give it whole pages of {page}, or smaller ones"),
        }
    }
}

/// Reads `512M`, `4G`, `4GiB`; a bare number means MiB, as in QEMU. The result is in bytes and a
/// whole number of pages.
///
/// # Errors
/// Malformed, beyond 64 bits, or less than [`MIN_MEMORY`].
pub fn parse_memory(text: &str) -> Result<u64, SizeError> {
    let malformed = || SizeError::Malformed(text.into());
    let trimmed = text.trim();
    let digits = trimmed.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| malformed())?;
    let unit = trimmed
        .get(digits.len()..)
        .unwrap_or_default()
        .to_ascii_lowercase();
    let shift = match unit.as_str() {
        "k" | "kb" | "kib" => 10,
        "" | "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(malformed()),
    };
    let bytes = number.checked_mul(1 << shift).ok_or_else(malformed)?;
    let bytes = bytes.checked_next_multiple_of(4096).ok_or_else(malformed)?;
    if bytes < MIN_MEMORY {
        return Err(SizeError::TooSmall { text: text.into() });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("512M", 512u64 << 20),
            ("512", 512 << 20),
            ("4G", 4 << 30),
            ("4GiB", 4 << 30),
            ("65536k", 64 << 20),
            ("1t", 1 << 40),
            ("65537k", (64 << 20) + 4096),
        ] {
            assert_eq!(parse_memory(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "M",
            "12X",
            "-1G",
            "1.5G",
            "99999999999999999999",
            "18014398509481984K",
            "4 G",
        ] {
            assert!(
                matches!(parse_memory(text), Err(SizeError::Malformed(_))),
                "{text}"
            );
        }
        assert!(matches!(
            parse_memory("63M"),
            Err(SizeError::TooSmall { .. })
        ));
        assert!(matches!(parse_memory("0"), Err(SizeError::TooSmall { .. })));
    }
}
