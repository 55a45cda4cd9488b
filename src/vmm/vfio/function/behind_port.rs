//! What changes for a function when the root port above it changes: the BARs that it decodes, and
//! the requests that its device may start.
//!
//! The port has written its [`Upstream`](pci::upstream::Upstream) before it calls a function here,
//! and holds no lock. Each function follows what the port lets through at that moment, so that of
//! two vCPUs that change a port at once, the function follows the last.

use crate::vfio::function::{State, VfioFunction};

impl VfioFunction {
    /// Follows the port above: BARs that the port no longer lets through leave the guest's address
    /// map, and others enter the map.
    pub fn follow_upstream(&self) {
        let mut state = self.lock();
        // A function that is away follows when it is back.
        if state.reachable() {
            state.decode.follow();
            self.follow_bus_master(&mut state);
        }
    }

    /// Tells the device whether it may start requests, if that has changed for it.
    pub(super) fn follow_bus_master(&self, state: &mut State) {
        let through = self.command.lets_requests_through();
        if through != state.requests_through {
            state.requests_through = through;
            let command = self.command.again(state.command(), through);
            self.connection.write_config(pci::regs::COMMAND, &command);
        }
    }

    /// Keeps the device from starting requests after a slow write, if the port above does not let
    /// them through: in the transition to D0 the kernel restores the COMMAND that it saved before
    /// D3, when the port may have let requests through
    /// (drivers/vfio/pci/vfio_pci_core.c, `vfio_pci_set_power_state`).
    pub(super) fn withhold_bus_master(&self, state: &State) {
        if !state.requests_through {
            let command = self.command.again(state.command(), false);
            self.connection.write_config(pci::regs::COMMAND, &command);
        }
    }
}
