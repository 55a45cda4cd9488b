//! A function's BARs on the bus: passes a guest's access that left KVM to the function.

use std::array;
use std::sync::{Arc, Weak};

use pci::bar::REGISTER_COUNT;
use vm_device::bus::{MmioAddress, MmioAddressOffset, PioAddress, PioAddressOffset};
use vm_device::{DeviceMmio, DevicePio};

/// The function behind trapped BARs.
pub(super) trait BarAccess: Send + Sync {
    /// A guest's read at `offset` of a BAR.
    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]);
    /// A guest's write at `offset` of a BAR.
    fn bar_write(&self, bar: usize, offset: u64, data: &[u8]);
}

/// The bus's handler for one BAR of a function. The trap does not keep the function alive.
pub(super) struct BarTrap {
    function: Weak<dyn BarAccess>,
    bar: usize,
}

impl BarTrap {
    /// Makes a trap for each of a function's BARs and for its ROM.
    pub(super) fn all(function: &Weak<dyn BarAccess>) -> [Arc<Self>; REGISTER_COUNT] {
        array::from_fn(|bar| {
            Arc::new(Self {
                function: function.clone(),
                bar,
            })
        })
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(function) = self.function.upgrade() {
            function.bar_read(self.bar, offset, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(function) = self.function.upgrade() {
            function.bar_write(self.bar, offset, data);
        }
    }
}

impl DeviceMmio for BarTrap {
    fn mmio_read(&self, _: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        self.read(offset, data);
    }

    fn mmio_write(&self, _: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        self.write(offset, data);
    }
}

impl DevicePio for BarTrap {
    fn pio_read(&self, _: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        self.read(offset.into(), data);
    }

    fn pio_write(&self, _: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        self.write(offset.into(), data);
    }
}
