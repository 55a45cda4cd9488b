//! The device behind a function, until the device is given back to the host.
//!
//! Several vCPUs use the device at the same time, some of them without the function's lock. So the
//! reference to the device has a lock of its own, which is held only while the reference is cloned
//! or dropped.

use std::sync::{PoisonError, RwLock};

use pci::regs::power::STATE as POWER_STATE;
use pci::regs::{COMMAND, command};

use crate::log::error_chain::with_causes;
use crate::log::limit::{RateLimit, warn_limited};
use crate::vfio::device::{CONFIG_REGION, DeviceError, SharedDevice};

/// The device of a function, and the device's configuration space.
pub(super) struct Connection {
    name: String,
    /// `None` once the device has been given back to the host.
    device: RwLock<Option<SharedDevice>>,
    limit: RateLimit,
}

impl Connection {
    pub(super) fn new(device: SharedDevice) -> Self {
        Self {
            name: device.name().into(),
            device: RwLock::new(Some(device)),
            limit: RateLimit::default(),
        }
    }

    /// The host's name of the device.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The device; `None` once the device has been given back to the host.
    pub(super) fn device(&self) -> Option<SharedDevice> {
        let device = self.device.read();
        device.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Drops the reference to the device, for good.
    pub(super) fn close(&self) {
        let device = self.device.write();
        device.unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Writes registers of the device's configuration space.
    pub(super) fn write_config(&self, offset: u16, data: &[u8]) {
        if let Some(device) = self.device()
            && let Err(e) = device.write(CONFIG_REGION, offset.into(), data)
        {
            self.complain(&e);
        }
    }

    /// Writes registers by which the device is reset or changes its power state.
    pub(super) fn write_config_slowly(&self, offset: u16, data: &[u8]) {
        if let Some(device) = self.device()
            && let Err(e) = device.write_slowly(CONFIG_REGION, offset.into(), data)
        {
            self.complain(&e);
        }
    }

    /// Reads registers of the device's configuration space. Returns whether the device answers; if
    /// not, the bytes are all ones.
    pub(super) fn read_config(&self, offset: u16, data: &mut [u8]) -> bool {
        data.fill(0xff);
        let Some(device) = self.device() else {
            return false;
        };
        let answer = device.read(CONFIG_REGION, offset.into(), data);
        if let Err(e) = &answer {
            data.fill(0xff);
            self.complain(e);
        }
        answer.is_ok()
    }

    /// Logs an error that a guest's access has caused. The guest gets its answer all the same.
    pub(super) fn complain(&self, error: &DeviceError) {
        warn_limited!(self.limit, "{}", with_causes(error));
    }

    /// Whether the device answers, decodes memory, and is in D0 by its register at `pmcsr`. Only
    /// then does VFIO hand out the pages of a BAR (drivers/vfio/pci/vfio_pci_core.c,
    /// `__vfio_pci_memory_enabled`).
    pub(super) fn decodes_memory(&self, pmcsr: Option<u16>) -> bool {
        let Some(device) = self.device() else {
            return false;
        };
        let read = |at: u16, data: &mut [u8]| device.read(CONFIG_REGION, at.into(), data).is_ok();
        let (mut id, mut enables, mut power) = ([0; 4], [0; 2], [0; 2]);
        read(0, &mut id)
            && id != [0xff; 4]
            && read(COMMAND, &mut enables)
            && u16::from_le_bytes(enables) & command::MEMORY != 0
            && pmcsr.is_none_or(|at| read(at, &mut power))
            && power[0] & POWER_STATE == 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::vfio::function::test_device::TestDevice;

    const PMCSR: u16 = 0x44;

    #[test]
    fn a_closed_connection_reads_as_ones() {
        let device = Arc::new(TestDevice::new());
        let connection = Connection::new(device.clone());
        connection.write_config(0x0c, &[0x10]);
        let mut data = [0];
        connection.read_config(0x0c, &mut data);
        assert_eq!(data, [0x10]);
        connection.close();
        assert!(connection.device().is_none());
        // No other reference keeps the device open.
        assert_eq!(Arc::strong_count(&device), 1);
        connection.write_config(0x0c, &[0x20]);
        connection.read_config(0x0c, &mut data);
        assert_eq!((data, device.config(0x0c)), ([0xff], 0x10));
        assert_eq!(connection.name(), "test");
    }

    #[test]
    fn a_device_that_does_not_answer_reads_as_ones() {
        let device = Arc::new(TestDevice::new());
        let connection = Connection::new(device.clone());
        device.set_deaf(true);
        let mut data = [0; 4];
        connection.read_config(0, &mut data);
        assert_eq!(data, [0xff; 4]);
    }

    #[test]
    fn memory_is_decoded_only_in_d0_by_a_device_that_answers() {
        let device = Arc::new(TestDevice::new());
        let connection = Connection::new(device.clone());
        assert!(!connection.decodes_memory(Some(PMCSR)));
        connection.write_config(COMMAND, &[command::MEMORY as u8]);
        assert!(connection.decodes_memory(Some(PMCSR)) && connection.decodes_memory(None));
        connection.write_config(PMCSR, &[3]);
        assert!(!connection.decodes_memory(Some(PMCSR)) && connection.decodes_memory(None));
        device.set_deaf(true);
        assert!(!connection.decodes_memory(None));
        device.set_deaf(false);
        connection.write_config(0, &[0xff; 4]);
        assert!(
            !connection.decodes_memory(None),
            "the device is off the bus"
        );
        connection.close();
        assert!(!connection.decodes_memory(None));
    }
}
