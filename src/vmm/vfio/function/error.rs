//! Why a device cannot become a function of the guest.

use pci::bar::BarError;

use crate::vfio::device::DeviceError;

/// The reason why a device cannot become a function of the guest.
#[derive(Debug, thiserror::Error)]
pub enum FunctionError {
    /// The device does not answer.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The device's BAR registers contradict the sizes of its regions, or each other.
    #[error("{device}: {source}")]
    Bars {
        /// The device's address.
        device: String,
        /// What is wrong.
        source: BarError,
    },
}
