//! Why a device cannot become a function of the guest.

use pci::bar::BarError;

use crate::vfio::device::DeviceError;
use crate::vfio::function::clique::CliqueError;

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
    /// The device gets no clique.
    #[error("{device}: {source}")]
    Clique {
        /// The device's address.
        device: String,
        /// Why not.
        source: CliqueError,
    },
}

impl FunctionError {
    /// The remedy to type, where one is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Clique { device, source } => Some(source.hint(device)),
            Self::Device(_) | Self::Bars { .. } => None,
        }
    }
}
