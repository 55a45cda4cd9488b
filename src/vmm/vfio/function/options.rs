//! What the user chose for a function, and where the function is.

use pci::host_path::HostPath;
use pci::position::Position;

use crate::config::mechanisms::Mechanisms;
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
    /// What the root port above the function shows, if there is one.
    pub path: HostPath,
    /// What the function's registers and interrupts use of the kernel.
    pub mechanisms: Mechanisms,
}

impl FunctionOptions {
    /// What the root port above the function shows; `None` on the root bus.
    pub fn port(&self) -> Option<HostPath> {
        self.position.is_behind_port().then_some(self.path)
    }
}

impl From<RomSource> for FunctionOptions {
    /// No other options, on the root bus.
    fn from(rom: RomSource) -> Self {
        Self {
            rom,
            clique: None,
            position: Position::RootBus,
            path: HostPath::default(),
            mechanisms: Mechanisms::ALL,
        }
    }
}
