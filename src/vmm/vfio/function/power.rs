//! A function's power state, which the guest sets in PMCSR (PCI Express 6.0, 7.5.2.2). The kernel
//! does the transition. The VMM only needs to know whether the state is D0, since a device decodes
//! in no other state (5.3.1).

use pci::capability;
use pci::capability::id;
use pci::regs::power::{PMCSR, STATE};

use crate::vfio::function::connection::Connection;

/// The power management capability of a function, if the function has one.
pub(super) struct Power {
    pmcsr: Option<u16>,
}

impl Power {
    /// Finds the capability in a snapshot of configuration space.
    pub(super) fn find(snapshot: &[u8]) -> Self {
        let capability = capability::find(snapshot, id::PM);
        Self {
            pmcsr: capability.map(|capability| capability.offset + PMCSR),
        }
    }

    /// The offset of PMCSR in configuration space.
    pub(super) fn pmcsr(&self) -> Option<u16> {
        self.pmcsr
    }

    /// Whether a write to a device that is `in_d0`, or is not, may change the state.
    pub(super) fn changes(&self, in_d0: bool, offset: u16, data: &[u8]) -> bool {
        let at = self.pmcsr.and_then(|pmcsr| pmcsr.checked_sub(offset));
        let low = at.and_then(|at| data.get(usize::from(at)));
        low.is_some_and(|low| !in_d0 || low & STATE != 0)
    }

    /// Whether the device is in D0 now. A device without the capability is always in D0.
    pub(super) fn is_in_d0(&self, connection: &Connection) -> bool {
        self.pmcsr.is_none_or(|pmcsr| {
            let mut low = [0];
            connection.read_config(pmcsr, &mut low);
            low[0] & STATE == 0
        })
    }

    /// Brings the device to D0.
    pub(super) fn wake(&self, connection: &Connection) {
        if let Some(pmcsr) = self.pmcsr {
            connection.write_config_slowly(pmcsr, &[0, 0]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pci::regs::{CAPABILITIES, STATUS, status};

    use super::*;
    use crate::vfio::function::test_device::TestDevice;

    fn power() -> Power {
        let mut snapshot = [0; 256];
        snapshot[usize::from(STATUS)] = status::CAPABILITIES_LIST as u8;
        snapshot[usize::from(CAPABILITIES)] = 0x40;
        snapshot[0x40] = id::PM as u8;
        Power::find(&snapshot)
    }

    #[test]
    fn only_the_state_bits_change_the_state() {
        let power = power();
        assert_eq!(power.pmcsr(), Some(0x44));
        assert!(power.changes(true, 0x44, &[3]) && power.changes(true, 0x44, &[1, 0, 0, 0]));
        // PME_En, and a byte that is not the state's.
        assert!(!power.changes(true, 0x44, &[0, 1]) && !power.changes(true, 0x45, &[3]));
        assert!(!power.changes(true, 0x40, &[3; 4]));
        // Any write of the state wakes a device that sleeps, or sends it deeper.
        assert!(power.changes(false, 0x44, &[0]) && !power.changes(false, 0x45, &[3]));
        assert!(!Power::find(&[0; 256]).changes(true, 0x44, &[3]));
    }

    #[test]
    fn the_device_says_whether_it_is_in_d0() {
        let (power, device) = (power(), Arc::new(TestDevice::new()));
        let connection = Connection::new(device.clone());
        assert!(power.is_in_d0(&connection));
        connection.write_config(0x44, &[3, 0x81]);
        assert!(!power.is_in_d0(&connection));
        power.wake(&connection);
        assert!(power.is_in_d0(&connection));
        assert_eq!(device.config(0x45), 0);
        // The register of a device that does not answer reads as all ones.
        device.set_deaf(true);
        assert!(!power.is_in_d0(&connection));
        assert!(Power::find(&[0; 256]).is_in_d0(&connection));
    }
}
