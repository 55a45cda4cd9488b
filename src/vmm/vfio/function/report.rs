//! A function as a report shows it.

use std::sync::Arc;

use pci::regs::COMMAND;

use crate::counters::wakeups::WakeupMeter;
use crate::vfio::function::VfioFunction;
use crate::vfio::view::{BarView, FunctionView};

impl VfioFunction {
    /// Counts the wake-ups of threads of this process for the device's interrupts.
    pub fn wakeups(&self) -> Arc<WakeupMeter> {
        self.lock().interrupts.wakeups()
    }

    /// What the function looks like now. The device is not asked.
    pub fn view(&self) -> FunctionView {
        let state = self.lock();
        let mut header = [0; 64];
        state.config.read(0, &mut header);
        state.decode.read(0, &mut header);
        let mut command = [0; 2];
        state.config.read(COMMAND, &mut command);
        let decode = &state.decode;
        let bars = decode.bars().iter().map(|(index, bar, address)| BarView {
            index,
            kind: bar.kind,
            size: bar.size,
            address,
            mapped: decode.mapped(index),
            direct: decode
                .areas(index)
                .iter()
                .map(|area| (area.start, area.size))
                .collect(),
        });
        FunctionView {
            name: self.name().into(),
            header,
            reachable: state.reachable(),
            command: u16::from_le_bytes(command),
            in_d0: decode.is_in_d0(),
            bars: bars.collect(),
            interrupts: state.interrupts.view(),
        }
    }
}
