//! Writes to configuration space that may take long: a function-level reset and a change of the
//! power state. The kernel carries them out during the write: up to 60 s until a device answers
//! again after a reset (drivers/pci/pci.c, `pci_dev_wait`).
//!
//! Such a write is made without the function's lock, so that only the vCPU that makes the write
//! waits. Meanwhile the function reads as ones, and writes to it are dropped, as with a device that
//! is being reset (PCI Express 6.0, 6.6.2).

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use pci::capability;
use pci::capability::id;

/// Device Control in the PCI Express capability, and Initiate Function Level Reset, bit 15
/// (7.5.3.4), in the register's high byte.
const DEVICE_CONTROL_HIGH: u16 = 9;
const INITIATE_FLR: u8 = 1 << 7;
/// The control register of the Advanced Features capability, and its Initiate FLR (PCI Advanced
/// Capabilities ECN, 6.20).
const AF_CONTROL: u16 = 4;
const AF_INITIATE_FLR: u8 = 1 << 0;

/// The registers by which a guest resets a function.
pub(super) struct FunctionReset {
    /// Offset of the byte and its bit.
    triggers: Vec<(u16, u8)>,
}

impl FunctionReset {
    /// Finds the registers in a snapshot of configuration space.
    pub(super) fn find(snapshot: &[u8]) -> Self {
        let at = |id, register, bit| {
            let capability = capability::find(snapshot, id)?;
            Some((capability.offset + register, bit))
        };
        let triggers = [
            at(id::PCIE, DEVICE_CONTROL_HIGH, INITIATE_FLR),
            at(id::AF, AF_CONTROL, AF_INITIATE_FLR),
        ];
        Self {
            triggers: triggers.into_iter().flatten().collect(),
        }
    }

    /// Whether a write starts a reset.
    pub(super) fn starts(&self, offset: u16, data: &[u8]) -> bool {
        self.triggers.iter().any(|(at, bit)| {
            let byte = at.checked_sub(offset).map(usize::from);
            byte.and_then(|byte| data.get(byte))
                .is_some_and(|byte| byte & bit != 0)
        })
    }
}

/// The accesses to BARs that leave KVM. They are suspended while a slow write is under way: in the
/// kernel, such an access would wait for the write.
#[derive(Default)]
pub(super) struct BarAccesses {
    suspended: RwLock<bool>,
}

/// An access that is under way.
pub(super) struct Begun<'a> {
    _guard: RwLockReadGuard<'a, bool>,
}

impl BarAccesses {
    /// Begins an access; `None` while accesses are suspended. A slow write waits for the accesses
    /// that have begun.
    pub(super) fn begin(&self) -> Option<Begun<'_>> {
        let suspended = self.suspended.read();
        let suspended = suspended.unwrap_or_else(PoisonError::into_inner);
        (!*suspended).then_some(Begun { _guard: suspended })
    }

    /// Suspends or resumes accesses. The lock is not held meanwhile, so no access waits.
    pub(super) fn suspend(&self, suspended: bool) {
        let state = self.suspended.write();
        *state.unwrap_or_else(PoisonError::into_inner) = suspended;
    }
}

#[cfg(test)]
mod tests {
    use pci::regs::{CAPABILITIES, STATUS, status};

    use super::*;

    fn found(capabilities: &[(u8, u8)]) -> FunctionReset {
        let mut snapshot = [0; 256];
        snapshot[usize::from(STATUS)] = status::CAPABILITIES_LIST as u8;
        let mut link = usize::from(CAPABILITIES);
        for &(id, at) in capabilities {
            snapshot[link] = at;
            snapshot[usize::from(at)] = id;
            link = usize::from(at) + 1;
        }
        FunctionReset::find(&snapshot)
    }

    #[test]
    fn only_the_bits_of_a_reset_start_one() {
        let reset = found(&[(id::PCIE as u8, 0x50), (id::AF as u8, 0x80)]);
        assert!(reset.starts(0x58, &[0, 0x80]) && reset.starts(0x59, &[0x80]));
        assert!(reset.starts(0x58, &[0, 0x80, 0, 0]) && reset.starts(0x84, &[1]));
        assert!(!reset.starts(0x58, &[0xff, 0x7f]) && !reset.starts(0x58, &[0x80]));
        assert!(!reset.starts(0x5a, &[0x80; 4]) && !reset.starts(0x84, &[0xfe]));
        assert!(!found(&[(id::PM as u8, 0x50)]).starts(0x58, &[0xff; 4]));
    }

    #[test]
    fn suspended_accesses_do_not_begin_and_do_not_wait() {
        let accesses = BarAccesses::default();
        drop(accesses.begin().expect("an access"));
        accesses.suspend(true);
        assert!(accesses.begin().is_none());
        accesses.suspend(false);
        assert!(accesses.begin().is_some());
    }
}
