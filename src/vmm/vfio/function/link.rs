//! The link of a function as its device tells now: hosts slow a link down while nobody uses it, and
//! the root port above a function shows the same link.

use pci::capability::{self, id};
use pci::express::{LINK_CAPABILITIES, LINK_STATUS};
use pci::link::Link;

use crate::vfio::function::VfioFunction;

impl VfioFunction {
    /// The link as the device's registers show it now. `None` if they do not tell of it, as those
    /// of a virtual function, or the device is away.
    pub fn link(&self) -> Option<Link> {
        let state = self.lock();
        let at = capability::find(state.config.bytes(), id::PCIE)?.offset;
        let told = |register| !state.config.is_emulated(at + register);
        if !state.reachable() || !told(LINK_STATUS) {
            return None;
        }
        let (mut capabilities, mut status) = ([0; 4], [0; 2]);
        let read = self
            .connection
            .read_config(at + LINK_CAPABILITIES, &mut capabilities)
            && self.connection.read_config(at + LINK_STATUS, &mut status);
        let registers = (u32::from_le_bytes(capabilities), u16::from_le_bytes(status));
        read.then(|| Link::from_registers(registers.0, registers.1))?
    }
}
