//! The validated description of a VM: `cli` makes it, `machine` consumes it.

pub mod cpus;
pub mod device;
pub mod mechanisms;
pub mod memory;
pub mod options;
pub mod port;
pub mod port_fit;
pub mod ports;
pub mod slots;
pub mod topology;
pub mod window;

use std::path::PathBuf;

use cpus::{CpuConfig, CpuError};
use device::{DeviceConfig, DeviceOptionError, Slot};
use memory::{MemoryConfig, MemoryError};
use ports::{PortsConfig, PortsError};
use slots::{GuestAddress, SlotError};

use crate::given::GivenError;
use crate::hostinfo::device_names::NameError;
use crate::sys::descriptor::Descriptor;

/// The beginning of every kernel command line.
pub const BASE_CMDLINE: &str = "console=ttyS0";

/// The kernel's interface to the IOMMU that opens the devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Iommu {
    /// iommufd if the kernel and all devices support it, or else the container.
    #[default]
    Auto,
    /// VFIO groups and a type 1 container.
    Container,
    /// iommufd and device nodes.
    Iommufd,
    /// iommufd, by a file that another process has opened.
    Given(Descriptor),
}

/// The destination of the statistics of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Statistics {
    /// No statistics.
    #[default]
    Off,
    /// To standard error, as a table.
    Table,
    /// To this file, as JSON.
    Json(PathBuf),
}

/// The description of a VM: kernel, vCPUs, memory and devices.
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
    /// Empty root ports.
    pub ports: PortsConfig,
    /// The interface by which the devices are opened.
    pub iommu: Iommu,
    /// KVM's file, if another process has opened it.
    pub kvm: Option<Descriptor>,
    /// Whether the run ends when the guest asks for a reboot.
    pub no_reboot: bool,
    /// The statistics of the run.
    pub statistics: Statistics,
}

impl VmConfig {
    /// Where each device is in the guest, and each empty root port.
    ///
    /// # Errors
    /// The bus has no address for one of them.
    pub fn addresses(&self) -> Result<(Vec<GuestAddress>, Vec<Slot>), SlotError> {
        slots::assign_with_empty(&self.vfio, self.ports.count)
    }
}

/// A flag's value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// `--memory`.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// `--vfio`.
    #[error(transparent)]
    Device(#[from] DeviceOptionError),
    /// `--cpus`.
    #[error(transparent)]
    Cpus(#[from] CpuError),
    /// `--ports`.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// A file that was handed over.
    #[error(transparent)]
    Given(#[from] GivenError),
    /// The name of a device.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl ConfigError {
    /// The remedy to type.
    pub fn hint(&self) -> String {
        match self {
            Self::Memory(e) => e.hint(),
            Self::Device(e) => e.hint(),
            Self::Cpus(e) => e.hint(),
            Self::Ports(e) => e.hint(),
            Self::Given(e) => e.hint(),
            Self::Name(e) => e.hint(),
        }
    }
}
