//! The host bridge at 00.0: a function with only a type 0 header (PCI Express 6.0, 7.5.1.1).
//!
//! A guest detects the bus by the host bridge. The bridge has no BARs, no capabilities and nothing
//! to configure. It is a conventional PCI function of 256 bytes, so a guest reads no extended
//! capabilities.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::PciFunction;
use crate::config_space::{CONVENTIONAL_SIZE, ConfigSpace};
use crate::regs::{self, command};

/// Device and vendor ID of Red Hat's generic PCIe host bridge, which guests know and for which they
/// have neither a driver nor a quirk.
const VENDOR_DEVICE: u32 = 0x0008_1b36;
/// Base class 06h bridge, sub-class 00h host bridge.
const CLASS_REVISION: u32 = 0x0600_0000;
/// Memory space and bus mastering are enabled and read-only: the bus always works.
const COMMAND: u16 = command::MEMORY | command::BUS_MASTER;

/// The function at 00.0.
#[derive(Debug)]
pub struct HostBridge {
    config: Mutex<ConfigSpace>,
}

impl HostBridge {
    /// A host bridge after power-on.
    pub fn new() -> Self {
        Self {
            config: Mutex::new(power_on()),
        }
    }

    fn config(&self) -> MutexGuard<'_, ConfigSpace> {
        // The register file stays valid even if a thread panics during an access.
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for HostBridge {
    fn default() -> Self {
        Self::new()
    }
}

impl PciFunction for HostBridge {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.config().read(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        self.config().write(offset, data);
    }

    fn reset(&self) {
        *self.config() = power_on();
    }
}

fn power_on() -> ConfigSpace {
    let mut config = ConfigSpace::new(CONVENTIONAL_SIZE);
    config.set_u32(regs::VENDOR, VENDOR_DEVICE);
    config.set_u16(regs::COMMAND, COMMAND);
    config.set_u32(regs::REVISION, CLASS_REVISION);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_host_bridge_and_stays_one() {
        let bridge = HostBridge::new();
        for offset in (0..4096).step_by(4) {
            bridge.config_write(offset, &[0xff; 4]);
        }
        for _ in 0..2 {
            let mut header = [0xff; 0x40];
            bridge.config_read(0, &mut header);
            assert_eq!(header[..12], [0x36, 0x1b, 8, 0, 6, 0, 0, 0, 0, 0, 0, 6]);
            assert_eq!(header[12..], [0; 0x34]);
            let mut extended = [0; 4];
            bridge.config_read(0x100, &mut extended);
            assert_eq!(extended, [0xff; 4]);
            bridge.reset();
        }
    }
}
