//! A wrapper of a device that counts interrupts and resets. With `--stats` a function gets the
//! wrapper instead of the device itself.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

use pci::atomic_ops::AtomicOps;
use pci::link::Link;

use crate::stats::devices::DeviceMeter;
use crate::stats::interrupts::Ledger;
use crate::vfio::device::{Device, DeviceError, Irq, IrqInfo, RegionInfo, SharedDevice};

/// Passes every call on, and counts some of them.
pub struct Metered {
    device: SharedDevice,
    ledger: Arc<Ledger>,
    meter: Arc<DeviceMeter>,
}

impl Metered {
    /// Wraps `device`, and counts in `ledger` and `meter`.
    pub fn new(device: SharedDevice, ledger: Arc<Ledger>, meter: Arc<DeviceMeter>) -> Self {
        Self {
            device,
            ledger,
            meter,
        }
    }
}

impl Device for Metered {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn region(&self, index: u32) -> RegionInfo {
        self.device.region(index)
    }

    fn irq(&self, irq: Irq) -> Option<IrqInfo> {
        self.device.irq(irq)
    }

    fn can_reset(&self) -> bool {
        self.device.can_reset()
    }

    fn resets_by_power(&self) -> bool {
        self.device.resets_by_power()
    }

    fn atomic_ops(&self) -> AtomicOps {
        self.device.atomic_ops()
    }

    fn link(&self, config: &[u8]) -> Option<Link> {
        self.device.link(config)
    }

    fn map_fd(&self) -> RawFd {
        self.device.map_fd()
    }

    fn can_export(&self) -> bool {
        self.device.can_export()
    }

    fn export(&self, bar: u32, offset: u64, size: u64) -> io::Result<OwnedFd> {
        self.device.export(bar, offset, size)
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        self.device.read(region, offset, data)
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.device.write(region, offset, data)
    }

    fn write_slowly(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.device.write_slowly(region, offset, data)
    }

    fn set_events(
        &self,
        irq: Irq,
        start: u32,
        events: &[Option<BorrowedFd<'_>>],
    ) -> Result<(), DeviceError> {
        let begun = Instant::now();
        let outcome = self.device.set_events(irq, start, events);
        self.meter.irqs.count(begun.elapsed());
        self.ledger.after_enable(self.name(), irq);
        let messages = matches!(irq, Irq::Msi | Irq::Msix);
        if outcome.is_ok() && messages && events.iter().any(Option::is_some) {
            self.meter.first_vector.get_or_init(Instant::now);
        }
        outcome
    }

    fn mask(&self, irq: Irq) -> Result<(), DeviceError> {
        self.device.mask(irq)
    }

    fn unmask(&self, irq: Irq) -> Result<(), DeviceError> {
        self.device.unmask(irq)
    }

    fn set_unmask_event(&self, event: BorrowedFd<'_>) -> Result<(), DeviceError> {
        self.device.set_unmask_event(event)
    }

    fn disable(&self, irq: Irq) -> Result<(), DeviceError> {
        self.ledger.before_disable(self.name(), irq);
        let begun = Instant::now();
        let outcome = self.device.disable(irq);
        self.meter.irqs.count(begun.elapsed());
        if outcome.is_ok() {
            self.ledger.after_disable(self.name(), irq);
        }
        outcome
    }

    fn reset(&self) -> Result<(), DeviceError> {
        let begun = Instant::now();
        let outcome = self.device.reset();
        self.meter.resets.count(begun.elapsed());
        outcome
    }

    fn hot_reset_scope(&self) -> Result<Vec<String>, DeviceError> {
        self.device.hot_reset_scope()
    }

    fn hot_reset(&self) -> Result<(), DeviceError> {
        let begun = Instant::now();
        let outcome = self.device.hot_reset();
        self.meter.resets.count(begun.elapsed());
        outcome
    }
}
