//! Devices come onto the guest's bus, and their BARs to their first places.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pci::bar::Bars;
use pci::{Bdf, bar_assignment};
use tracing::info;

use crate::config::device::{DeviceConfig, Slot};
use crate::machine::{Machine, MachineError};
use crate::vfio::device::SharedDevice;
use crate::vfio::function::VfioFunction;
use crate::vfio::function::rom::RomSource;
use crate::{layout, phase};

impl Machine {
    /// Puts a device on the root bus, at its slot or the next free one. Before the guest runs.
    ///
    /// # Errors
    /// When its ROM's file cannot be used, the device does not answer, its slot is taken, or the bus
    /// is full.
    pub fn add_device(
        &mut self,
        device: SharedDevice,
        config: &DeviceConfig,
    ) -> Result<Bdf, MachineError> {
        self.in_use.fetch_add(1, Ordering::Relaxed);
        self.attach(device, config.slot, RomSource::load(&config.rom)?)
    }

    pub(super) fn attach(
        &mut self,
        device: SharedDevice,
        slot: Option<Slot>,
        rom: RomSource,
    ) -> Result<Bdf, MachineError> {
        let _phase = phase!("add_device", device.name());
        let device = self.stats.meter(device);
        let function = VfioFunction::new(Arc::clone(&device), self.around.clone(), rom)?;
        let bdf = match slot {
            Some(Slot {
                device,
                function: number,
            }) => self.root.add(device, number, function.clone())?,
            None => self.root.add_next(function.clone())?,
        };
        info!("{} is {bdf} in the guest", function.name());
        let pin = bdf.function % layout::INTX_PINS;
        let gsi = layout::gsi_of_pin(bdf.device, pin);
        function.connect_pin(pin, gsi, Arc::downgrade(&self.service));
        self.functions.push((bdf, Arc::clone(&function)));
        self.watch(&device, &function)?;
        Ok(bdf)
    }

    /// Gives every BAR its first address, as firmware does.
    pub(super) fn place_bars(&self) -> Result<(), MachineError> {
        let mut bars: Vec<(Bdf, Bars)> = self
            .functions
            .iter()
            .map(|(bdf, f)| (*bdf, f.bars()))
            .collect();
        let mut wishes: Vec<(Bdf, &mut Bars)> =
            bars.iter_mut().map(|(b, bars)| (*b, bars)).collect();
        bar_assignment::assign(&mut wishes, &self.layout.windows())?;
        for ((_, function), (_, bars)) in self.functions.iter().zip(bars) {
            function.set_reset_bars(bars);
        }
        Ok(())
    }

    pub(super) fn vfio_functions(&self) -> Vec<Arc<VfioFunction>> {
        self.functions.iter().map(|(_, f)| Arc::clone(f)).collect()
    }
}
