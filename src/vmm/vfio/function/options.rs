//! What the user chose for a function, and where the function is.

use pci::position::Position;

use crate::vfio::function::rom::RomSource;

/// What the user chose for a function, and where the function is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionOptions {
    /// Where the expansion ROM comes from.
    pub rom: RomSource,
    /// The number of the GPU's clique ([`pci::clique`]); `None` for no clique.
    pub clique: Option<u8>,
    /// Where the function is in the guest.
    pub position: Position,
}

impl From<RomSource> for FunctionOptions {
    /// No other options, on the root bus.
    fn from(rom: RomSource) -> Self {
        Self {
            rom,
            clique: None,
            position: Position::RootBus,
        }
    }
}
