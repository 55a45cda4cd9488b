//! The interface between a passed-through function and its device: regions, interrupts and resets
//! (`include/uapi/linux/vfio.h`). Every call returns its error.
//!
//! [`Device`] separates the guest's side from the kernel. The program implements the trait by a
//! `VfioFile`, and each test by a device of its own.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use pci::atomic_ops::AtomicOps;
use pci::link::Link;
use vfio_bindings::bindings::vfio::{
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_ERR_IRQ_INDEX, VFIO_PCI_INTX_IRQ_INDEX,
    VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX,
    VFIO_PCI_ROM_REGION_INDEX,
};

use crate::errnos;

/// Index of the configuration space region; BARs are 0 to 5.
pub const CONFIG_REGION: u32 = VFIO_PCI_CONFIG_REGION_INDEX;
/// Index of the expansion ROM's region.
pub const ROM_REGION: u32 = VFIO_PCI_ROM_REGION_INDEX;

/// The kinds of interrupts of a PCI device (`VFIO_PCI_*_IRQ_INDEX`). VFIO reports two events, an
/// error of the device and a request of the host, as interrupts too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Irq {
    /// The interrupt pin.
    Intx,
    /// Message-signalled interrupts.
    Msi,
    /// MSI-X.
    Msix,
    /// The device has failed (an uncorrectable AER error).
    Error,
    /// The host wants the device back.
    Request,
}

impl Irq {
    pub(super) fn index(self) -> u32 {
        match self {
            Self::Intx => VFIO_PCI_INTX_IRQ_INDEX,
            Self::Msi => VFIO_PCI_MSI_IRQ_INDEX,
            Self::Msix => VFIO_PCI_MSIX_IRQ_INDEX,
            Self::Error => VFIO_PCI_ERR_IRQ_INDEX,
            Self::Request => VFIO_PCI_REQ_IRQ_INDEX,
        }
    }
}

/// A region of a device: a BAR, the ROM or configuration space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionInfo {
    /// Bytes; 0 when the device has no such region.
    pub size: u64,
    /// Whether the region can be read.
    pub read: bool,
    /// Whether the region can be written.
    pub write: bool,
    /// The areas that can be mapped, as `(offset, size)`.
    pub mappable: Vec<(u64, u64)>,
    /// Offset of the region's first byte in the device's file.
    pub file_offset: u64,
}

/// Vectors of one kind of interrupt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IrqInfo {
    /// The number of vectors that the device has.
    pub count: u32,
    /// Whether vectors can be added while others are live (VFIO_IRQ_INFO_NORESIZE is clear; for
    /// MSI-X since Linux 6.5).
    pub resizable: bool,
}

/// A failed call to a device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// An ioctl or a region access.
    #[error("{device}: {}", errnos::text(.call, .source))]
    Call {
        /// The device's address.
        device: String,
        /// What was called.
        call: &'static str,
        /// The errno.
        source: io::Error,
    },
    /// The host can give fewer vectors than asked for, and has enabled no vector.
    #[error("{device}: the host can give {available} interrupt vectors, not {asked}")]
    FewerVectors {
        /// The device's address.
        device: String,
        /// Vectors asked for.
        asked: u32,
        /// Vectors that the host can give.
        available: u32,
    },
    /// A VFIO device of another bus, or one without the regions of a PCI device.
    #[error("{device}: VFIO does not show a PCI device")]
    NotPci {
        /// The device's address.
        device: String,
    },
}

impl DeviceError {
    /// The remedy to type, where one is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Call { call, source, .. } => errnos::hint(call, source),
            Self::FewerVectors { .. } | Self::NotPci { .. } => None,
        }
    }
}

/// The device of a passed-through function.
pub trait Device: Send + Sync {
    /// The host's name of the device, for messages.
    fn name(&self) -> &str;
    /// The configuration space as the hardware has it, with the capabilities that VFIO has unlinked
    /// from their chains. Shorter than VFIO's if it is not known.
    fn hardware_config(&self) -> Vec<u8> {
        Vec::new()
    }
    /// Returns a region by its index; empty when the device lacks the region.
    fn region(&self, index: u32) -> RegionInfo;
    /// Returns the vectors of a kind of interrupt; `None` when the device lacks the kind.
    fn irq(&self, irq: Irq) -> Option<IrqInfo>;
    /// Whether the device has a reset of its own ([`Device::reset`]).
    fn can_reset(&self) -> bool;
    /// Whether that reset is D3hot and back, which may leave parts of the device as they were
    /// (PCI Bus Power Management 1.2, 5.4.1). The reset of a bus leaves nothing.
    fn resets_by_power(&self) -> bool;
    /// The AtomicOps that the device has and the host's root port above it completes, as
    /// VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP tells.
    fn atomic_ops(&self) -> AtomicOps;
    /// What the host tells of the device's link. `config` is the device's configuration space, or
    /// its first 256 bytes. A virtual function has its physical function's link.
    fn link(&self, config: &[u8]) -> Option<Link>;
    /// The file whose pages are the mappable areas, from [`RegionInfo::file_offset`] on.
    fn map_fd(&self) -> RawFd;
    /// Whether VFIO can export the device's BARs as dma-bufs ([`Device::export`]).
    fn can_export(&self) -> bool {
        false
    }
    /// Exports `[offset, offset + size)` of a BAR as a dma-buf, for the DMA of other devices. The
    /// host revokes the export when the device stops decoding memory, and when it is reset.
    ///
    /// # Errors
    /// The errno; ENOTTY if the kernel cannot export BARs.
    fn export(&self, _bar: u32, _offset: u64, _size: u64) -> io::Result<OwnedFd> {
        Err(io::Error::from_raw_os_error(libc::ENOTTY))
    }
    /// Reads with the width of `data`.
    ///
    /// # Errors
    /// EIO while memory decode is off, EINVAL beyond the region.
    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), DeviceError>;
    /// Writes with the width of `data`.
    ///
    /// # Errors
    /// As [`Device::read`].
    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), DeviceError>;
    /// Writes as [`Device::write`], where the write resets the device or changes its power state.
    ///
    /// # Errors
    /// As [`Device::read`].
    fn write_slowly(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.write(region, offset, data)
    }
    /// Lets the vectors from `start` on signal these eventfds, one for each vector. `None` takes a
    /// vector's eventfd away.
    ///
    /// # Errors
    /// [`DeviceError::FewerVectors`] when the host cannot give as many vectors.
    fn set_events(
        &self,
        irq: Irq,
        start: u32,
        events: &[Option<BorrowedFd<'_>>],
    ) -> Result<(), DeviceError>;
    /// Masks a kind of interrupt in the host.
    ///
    /// # Errors
    /// The errno; only INTx can be masked.
    fn mask(&self, irq: Irq) -> Result<(), DeviceError>;
    /// Unmasks a kind of interrupt: after [`Device::mask`], or after VFIO has masked INTx because
    /// the pin was asserted.
    ///
    /// # Errors
    /// The errno.
    fn unmask(&self, irq: Irq) -> Result<(), DeviceError>;
    /// Makes VFIO unmask INTx whenever `event` is signalled.
    ///
    /// # Errors
    /// The errno; some drivers do not offer this.
    fn set_unmask_event(&self, event: BorrowedFd<'_>) -> Result<(), DeviceError>;
    /// Turns a kind of interrupt off.
    ///
    /// # Errors
    /// The errno.
    fn disable(&self, irq: Irq) -> Result<(), DeviceError>;
    /// Resets the function, by FLR or another method that the kernel chooses.
    ///
    /// # Errors
    /// The errno; ENOTTY when the device has no reset.
    fn reset(&self) -> Result<(), DeviceError>;
    /// Returns the names of all functions that [`Device::hot_reset`] would reset, this device's
    /// name among them.
    ///
    /// # Errors
    /// The errno; ENODEV when neither the device's slot nor its bus can be reset.
    fn hot_reset_scope(&self) -> Result<Vec<String>, DeviceError>;
    /// Resets the function's slot or bus, and so every function of that slot or bus.
    ///
    /// # Errors
    /// The errno; EINVAL when this process has not opened one of the functions.
    fn hot_reset(&self) -> Result<(), DeviceError>;
}

/// A device that several parts of a function refer to.
pub type SharedDevice = Arc<dyn Device>;
