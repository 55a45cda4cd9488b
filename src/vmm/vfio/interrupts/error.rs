//! Why a device's interrupt does not reach the guest.

use crate::gsi::error::GsiError;
use crate::vfio::device::DeviceError;

/// VFIO or KVM refused an interrupt.
#[derive(Debug, thiserror::Error)]
pub enum VectorError {
    /// VFIO refuses the eventfd of the interrupt.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// KVM has no GSI, route or irqfd for the interrupt.
    #[error(transparent)]
    Gsi(#[from] GsiError),
    /// The capability has more vectors than VFIO offers.
    #[error("the table has vector {vector}, but VFIO knows of {count}")]
    Absent {
        /// The MSI-X vector.
        vector: u16,
        /// The number of vectors that VFIO offers.
        count: u32,
    },
}
