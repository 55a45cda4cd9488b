//! Why a device cannot become a function of the guest.

use pci::bar::BarError;

use crate::vfio::device::DeviceError;

/// Why a function cannot be made of a device.
#[derive(Debug, thiserror::Error)]
pub enum FunctionError {
    /// The device does not answer.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The BARs of the device make no sense.
    #[error("{device}: {source}")]
    Bars {
        /// The device's address.
        device: String,
        /// What is wrong.
        source: BarError,
    },
}
