//! What the user chose for a function.

use crate::vfio::function::rom::RomSource;

/// What the user chose for a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionOptions {
    /// Where the expansion ROM comes from.
    pub rom: RomSource,
    /// The number of the GPU's clique ([`super::clique`]); `None` for no clique.
    pub clique: Option<u8>,
}

impl From<RomSource> for FunctionOptions {
    /// No other options.
    fn from(rom: RomSource) -> Self {
        Self { rom, clique: None }
    }
}
