//! What changes for a function when the root port above it changes: the BARs that it decodes, the
//! requests that its device may start, and a reset of the bus.
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

    /// Prepares the device for a reset of its bus: the device is quiesced and in D0, and reads as
    /// ones. Waits for the end of a slow write. Returns whether the function has a device.
    pub(super) fn begin_bus_reset(&self) -> bool {
        let mut state = self.without_slow_write();
        if !state.connected {
            return false;
        }
        self.make_quiet(&mut state);
        state.away = true;
        drop(state);
        self.bar_accesses.suspend(true);
        true
    }

    /// Ends what [`VfioFunction::begin_bus_reset`] began: all registers are as after power-on,
    /// before firmware. No BAR has an address.
    pub(super) fn end_bus_reset(&self) {
        self.bar_accesses.suspend(false);
        let mut state = self.lock();
        state.away = false;
        self.slow_write_ended.notify_all();
        if !state.connected {
            self.quiesce_locked(&mut state);
            return;
        }
        state.config = state.reset_config.clone();
        state.decode.clear();
        state.interrupts.power_on();
    }
}
