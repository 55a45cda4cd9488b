//! The trapped side of a BAR: a guest's access that left KVM finds its function here.

use std::sync::Weak;

use vm_device::bus::{MmioAddress, MmioAddressOffset, PioAddress, PioAddressOffset};
use vm_device::{DeviceMmio, DevicePio};

use super::function::VfioFunction;

/// A BAR of a function on the bus. It does not keep the function alive.
pub(super) struct BarTrap {
    pub(super) function: Weak<VfioFunction>,
    pub(super) bar: usize,
}

impl BarTrap {
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
