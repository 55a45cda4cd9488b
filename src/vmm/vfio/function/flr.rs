//! A function-level reset that the guest asks for, in the PCI Express capability's Device Control
//! (PCI Express 6.0, 7.5.3.4 and 6.6.2) or in the Advanced Features capability's control register
//! (PCI, Advanced Capabilities ECN). VFIO carries the reset out, and keeps COMMAND and the BARs.

use pci::capability;
use pci::capability::id;

/// Offset of Device Control's high byte in the PCI Express capability, and the bit that initiates
/// the reset.
const EXPRESS: (u16, u8) = (0x09, 0x80);
/// Offset of the control register in the Advanced Features capability, and the bit that initiates
/// the reset.
const ADVANCED: (u16, u8) = (0x04, 0x01);

/// The bytes of configuration space by which a guest resets a function.
pub(super) struct FunctionLevelReset {
    /// Offset of the byte, and the bit in it.
    triggers: Vec<(u16, u8)>,
}

impl FunctionLevelReset {
    /// Finds the capabilities in a snapshot of configuration space.
    pub(super) fn find(snapshot: &[u8]) -> Self {
        let trigger = |id, (offset, bit): (u16, u8)| {
            capability::find(snapshot, id).map(|capability| (capability.offset + offset, bit))
        };
        let triggers = [trigger(id::PCIE, EXPRESS), trigger(id::AF, ADVANCED)];
        Self {
            triggers: triggers.into_iter().flatten().collect(),
        }
    }

    /// Whether a write of configuration space asks for a reset.
    pub(super) fn is_asked_by(&self, offset: u16, data: &[u8]) -> bool {
        self.triggers.iter().any(|(at, bit)| {
            let at = at.checked_sub(offset).map(usize::from);
            let byte = at.and_then(|at| data.get(at));
            byte.is_some_and(|byte| byte & bit != 0)
        })
    }
}

#[cfg(test)]
mod tests {
    use pci::regs::{CAPABILITIES, STATUS, status};

    use super::*;

    #[test]
    fn a_reset_is_asked_by_its_bit_alone() {
        let mut snapshot = [0; 256];
        snapshot[usize::from(STATUS)] = status::CAPABILITIES_LIST as u8;
        snapshot[usize::from(CAPABILITIES)] = 0x40;
        snapshot[0x40] = id::PCIE as u8;
        snapshot[0x41] = 0x80;
        snapshot[0x80] = id::AF as u8;
        let flr = FunctionLevelReset::find(&snapshot);
        assert!(flr.is_asked_by(0x48, &[0, 0x80]) && flr.is_asked_by(0x49, &[0x80]));
        assert!(flr.is_asked_by(0x48, &[0, 0x90, 0, 0]) && flr.is_asked_by(0x84, &[1]));
        assert!(!flr.is_asked_by(0x48, &[0xff, 0x7f]) && !flr.is_asked_by(0x48, &[0x80]));
        assert!(!flr.is_asked_by(0x4a, &[0x80]) && !flr.is_asked_by(0x84, &[0xfe, 1]));
        assert!(!FunctionLevelReset::find(&[0; 256]).is_asked_by(0x48, &[0, 0x80]));
    }
}
