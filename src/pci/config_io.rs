//! The two ways to configuration space as devices on the bus: ports 0xcf8 to 0xcff, and ECAM.

use std::sync::{Arc, Mutex, PoisonError};

use vm_device::bus::{MmioAddress, MmioAddressOffset, PioAddress, PioAddressOffset};
use vm_device::{DeviceMmio, DevicePio};

use crate::RootBus;
use crate::config_access::{Mechanism1, decode_ecam};

/// Ports that mechanism 1 takes, from 0xcf8.
pub const PORTS: u16 = 8;
/// The data port, from 0xcf8.
const DATA: u8 = 4;

/// Configuration mechanism 1.
pub struct ConfigPorts {
    root: Arc<RootBus>,
    mechanism: Mutex<Mechanism1>,
}

impl ConfigPorts {
    /// Ports to the functions of `root`.
    pub fn new(root: Arc<RootBus>) -> Self {
        Self {
            root,
            mechanism: Mutex::default(),
        }
    }

    /// Back to power-on.
    pub fn reset(&self) {
        self.mechanism
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .reset();
    }
}

impl DevicePio for ConfigPorts {
    fn pio_read(&self, _: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        let port = offset as u8;
        let mechanism = *self
            .mechanism
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match port.checked_sub(DATA) {
            None => mechanism.address_read(port, data),
            Some(port) => self.root.read(mechanism.decode(port, data.len()), data),
        }
    }

    fn pio_write(&self, _: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        let port = offset as u8;
        let mut mechanism = self
            .mechanism
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match port.checked_sub(DATA) {
            None => mechanism.address_write(port, data),
            Some(port) => {
                let target = mechanism.decode(port, data.len());
                drop(mechanism);
                self.root.write(target, data);
            }
        }
    }
}

/// ECAM, PCI Express's memory-mapped configuration space.
pub struct Ecam(pub Arc<RootBus>);

impl DeviceMmio for Ecam {
    fn mmio_read(&self, _: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        self.0.read(decode_ecam(offset, data.len()), data);
    }

    fn mmio_write(&self, _: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        self.0.write(decode_ecam(offset, data.len()), data);
    }
}
