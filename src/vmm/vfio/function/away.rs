//! A function that is away, because the kernel resets its device or changes the power state. Only
//! the vCPU that asked for it waits: the function's lock is released meanwhile, the BARs are
//! removed from the address map, and other vCPUs read ones.

use std::sync::MutexGuard;

use pci::regs::COMMAND;

use crate::vfio::function::{State, VfioFunction};

impl VfioFunction {
    /// Quiesces the device and brings it to D0, because a reset of the device or its bus may not
    /// reach a device in D3. Returns whether the function still has a device.
    pub(super) fn quiesce_for_reset(&self) -> bool {
        let mut state = self.lock();
        if state.connected {
            self.quiesce_locked(&mut state);
            state.decode.set_in_d0(true);
            self.wake_quietly();
        }
        state.connected
    }

    /// Brings a device that is quiesced to D0, where it stays quiesced.
    fn wake_quietly(&self) {
        self.power.wake(&self.connection);
        // In the transition to D0 the kernel may have restored the registers that it saved before
        // D3 (drivers/vfio/pci/vfio_pci_core.c, `vfio_pci_set_power_state`), COMMAND among them.
        self.connection.write_config(COMMAND, &self.command.quiet());
    }

    /// Makes a write during which the kernel resets the device or changes its power state. The lock
    /// is released meanwhile, and the BARs are removed from the address map: other vCPUs do not
    /// wait. Returns the lock.
    ///
    /// Afterwards the device tells the power state and which BARs it decodes: a reset ends D3, and
    /// a device may refuse a power state.
    pub(super) fn write_slowly<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        offset: u16,
        data: &[u8],
    ) -> MutexGuard<'a, State> {
        state.away = true;
        state.decode.set_in_d0(false);
        drop(state);
        self.bar_accesses.suspend(true);
        self.connection.write_config_slowly(offset, data);
        self.bar_accesses.suspend(false);
        let mut state = self.lock();
        state.away = false;
        self.slow_write_ended.notify_all();
        if !state.connected {
            self.quiesce_locked(&mut state);
            return state;
        }
        self.follow_bus_master(&mut state);
        let command = self.command.after_reset(state.command(), &self.connection);
        state.config.set_u16(COMMAND, command);
        self.withhold_bus_master(&state);
        state.decode.set_command(command);
        let in_d0 = self.power.is_in_d0(&self.connection);
        state.decode.set_in_d0(in_d0);
        state
    }

    /// Prepares the device for a reset of its bus: the device is quiesced and in D0, and reads as
    /// ones. Waits for the end of a slow write. The lock is released before the device wakes, for
    /// which the kernel may wait. Returns whether the function has a device.
    pub(super) fn begin_bus_reset(&self) -> bool {
        let mut state = self.without_slow_write();
        if !state.connected {
            return false;
        }
        self.quiesce_locked(&mut state);
        state.decode.set_in_d0(true);
        state.away = true;
        drop(state);
        self.bar_accesses.suspend(true);
        self.wake_quietly();
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
