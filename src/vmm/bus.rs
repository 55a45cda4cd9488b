//! Port and MMIO dispatch.
//!
//! vm-device keeps the ranges; this wrapper lets the ranges change while vCPUs run. The lock is
//! released before a device is called, so that a device may move its own ranges during an access. A
//! read that no device claims returns all ones, and an unclaimed write is dropped, as on a real
//! bus.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tracing::trace;
use vm_device::bus::{self, BusManager, MmioAddress, MmioRange, PioAddress, PioRange};
use vm_device::device_manager::{IoManager, MmioManager, PioManager};
use vm_device::{DeviceMmio, DevicePio};

/// The guest's port and MMIO spaces.
#[derive(Default)]
pub struct Bus {
    io: RwLock<IoManager>,
}

impl Bus {
    /// An empty bus.
    pub fn new() -> Self {
        Self::default()
    }

    fn read(&self) -> RwLockReadGuard<'_, IoManager> {
        self.io.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, IoManager> {
        self.io.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `[start, start + size)` of the port space to `device`.
    ///
    /// # Errors
    /// When the range is empty, wraps, or is taken.
    pub fn insert_pio(
        &self,
        start: u16,
        size: u16,
        device: Arc<dyn DevicePio + Send + Sync>,
    ) -> Result<(), bus::Error> {
        self.write()
            .register_pio(PioRange::new(PioAddress(start), size)?, device)
    }

    /// Removes the range that begins at `start`.
    pub fn remove_pio(&self, start: u16) {
        self.write().deregister_pio(PioAddress(start));
    }

    /// Gives `[start, start + size)` of the guest-physical space to `device`.
    ///
    /// # Errors
    /// When the range is empty, wraps, or is taken.
    pub fn insert_mmio(
        &self,
        start: u64,
        size: u64,
        device: Arc<dyn DeviceMmio + Send + Sync>,
    ) -> Result<(), bus::Error> {
        self.write()
            .register_mmio(MmioRange::new(MmioAddress(start), size)?, device)
    }

    /// Removes the range that begins at `start`.
    pub fn remove_mmio(&self, start: u64) {
        self.write().deregister_mmio(MmioAddress(start));
    }

    /// A guest's `in`.
    pub fn pio_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        let found = self.read().find_pio(port, data.len());
        match found {
            Some((base, device)) => device.pio_read(PioAddress(base), port - base, data),
            None => trace!(port, "read of an unclaimed port"),
        }
    }

    /// A guest's `out`.
    pub fn pio_write(&self, port: u16, data: &[u8]) {
        let found = self.read().find_pio(port, data.len());
        match found {
            Some((base, device)) => device.pio_write(PioAddress(base), port - base, data),
            None => trace!(port, "write to an unclaimed port"),
        }
    }

    /// A guest's load from an address without memory.
    pub fn mmio_read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        let found = self.read().find_mmio(address, data.len());
        match found {
            Some((base, device)) => device.mmio_read(MmioAddress(base), address - base, data),
            None => trace!(address, "read of unclaimed memory"),
        }
    }

    /// A guest's store to an address without memory.
    pub fn mmio_write(&self, address: u64, data: &[u8]) {
        let found = self.read().find_mmio(address, data.len());
        match found {
            Some((base, device)) => device.mmio_write(MmioAddress(base), address - base, data),
            None => trace!(address, "write to unclaimed memory"),
        }
    }
}

/// Finds the device that claims an access, with the start of its range.
trait Find {
    fn find_pio(&self, port: u16, len: usize) -> Option<(u16, Arc<dyn DevicePio + Send + Sync>)>;
    fn find_mmio(&self, addr: u64, len: usize) -> Option<(u64, Arc<dyn DeviceMmio + Send + Sync>)>;
}

impl Find for IoManager {
    fn find_pio(&self, port: u16, len: usize) -> Option<(u16, Arc<dyn DevicePio + Send + Sync>)> {
        let bus = BusManager::<PioAddress>::bus(self);
        let (range, device) = bus.check_access(PioAddress(port), len).ok()?;
        Some((range.base().0, Arc::clone(device)))
    }

    fn find_mmio(&self, addr: u64, len: usize) -> Option<(u64, Arc<dyn DeviceMmio + Send + Sync>)> {
        let bus = BusManager::<MmioAddress>::bus(self);
        let (range, device) = bus.check_access(MmioAddress(addr), len).ok()?;
        Some((range.base().0, Arc::clone(device)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use vm_device::bus::{MmioAddressOffset, PioAddressOffset};

    use super::*;

    struct Echo;

    impl DevicePio for Echo {
        fn pio_read(&self, base: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
            data.fill((base.0 + offset) as u8);
        }
        fn pio_write(&self, _: PioAddress, _: PioAddressOffset, _: &[u8]) {}
    }

    /// A device that moves itself when written to.
    struct Mover(Weak<Bus>);

    impl DeviceMmio for Mover {
        fn mmio_read(&self, _: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn mmio_write(&self, base: MmioAddress, _: MmioAddressOffset, _: &[u8]) {
            let bus = self.0.upgrade().unwrap();
            bus.remove_mmio(base.0);
            bus.insert_mmio(0x8000, 0x1000, Arc::new(Mover(self.0.clone())))
                .unwrap();
        }
    }

    #[test]
    fn unclaimed_reads_are_all_ones() {
        let bus = Bus::new();
        bus.insert_pio(0x10, 4, Arc::new(Echo)).unwrap();
        let mut data = [0u8; 4];
        bus.pio_read(0x20, &mut data);
        assert_eq!(data, [0xff; 4]);
        bus.pio_read(0x12, &mut data[..2]);
        assert_eq!(data[..2], [0x12; 2]);
        // No device claims an access that only begins inside its range.
        bus.pio_read(0x12, &mut data);
        assert_eq!(data, [0xff; 4]);
        bus.mmio_read(u64::MAX, &mut data);
        assert_eq!(data, [0xff; 4]);
        bus.mmio_write(u64::MAX, &data);
        bus.pio_write(0xffff, &data);
    }

    #[test]
    fn a_device_may_move_itself() {
        let bus = Arc::new(Bus::new());
        bus.insert_mmio(0x1000, 0x1000, Arc::new(Mover(Arc::downgrade(&bus))))
            .unwrap();
        bus.mmio_write(0x1000, &[0]);
        let mut data = [0u8; 1];
        bus.mmio_read(0x1004, &mut data);
        assert_eq!(data, [0xff]);
        bus.mmio_read(0x8004, &mut data);
        assert_eq!(data, [4]);
    }
}
