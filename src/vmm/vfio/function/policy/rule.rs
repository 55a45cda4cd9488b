//! What a row of the policy says: who owns a register, and why.

use pci::passed::Bits;

/// How a register is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// The device answers. A write reaches the device with the guest's bits; VFIO filters the write
    /// once more.
    Pass(Bits),
    /// The VMM answers.
    Emulate,
    /// The guest does not see the capability: it is unlinked from its chain, and its bytes read as
    /// zero.
    Hide,
}

/// All bits are the guest's.
pub(super) const PASS: Treatment = Treatment::Pass(Bits::GUEST);
/// All bits are the host's. The guest reads the device's values.
pub(super) const READ_ONLY: Treatment = Treatment::Pass(Bits::READ_ONLY);

/// The bits of `guest` are the guest's. All others are the host's.
pub(super) const fn bits(guest: u32) -> Treatment {
    Treatment::Pass(Bits {
        guest,
        cleared: 0,
        concealed: 0,
    })
}

/// A register: its offset, what is done with it, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// Offset in bytes, from the start of the capability.
    pub offset: u16,
    /// Length in bytes. At most four, if only some bits are the guest's.
    pub len: u16,
    /// The name in the specification.
    pub name: &'static str,
    /// What is done.
    pub treatment: Treatment,
    /// The reason.
    pub reason: &'static str,
    /// What is done behind a root port, and why; `None` if the same as on bus 0.
    pub behind_port: Option<(Treatment, &'static str)>,
}

impl Register {
    /// Sets what is done behind a root port.
    pub(super) const fn behind_port(mut self, treatment: Treatment, reason: &'static str) -> Self {
        self.behind_port = Some((treatment, reason));
        self
    }

    /// What is done and why, behind a root port or on bus 0.
    pub fn at(&self, behind_port: bool) -> (Treatment, &'static str) {
        let on_root_bus = (self.treatment, self.reason);
        self.behind_port
            .filter(|_| behind_port)
            .unwrap_or(on_root_bus)
    }
}

/// A capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapabilityRule {
    /// The ID.
    pub id: u16,
    /// The name, for people.
    pub name: &'static str,
    /// The registers that differ, or have a name of interest, in order.
    pub registers: &'static [Register],
    /// What is done with all other registers.
    pub treatment: Treatment,
    /// The reason for that.
    pub reason: &'static str,
}

pub(super) const fn register(
    offset: u16,
    len: u16,
    name: &'static str,
    treatment: Treatment,
    reason: &'static str,
) -> Register {
    Register {
        offset,
        len,
        name,
        treatment,
        reason,
        behind_port: None,
    }
}

pub(super) const fn capability(
    id: u16,
    name: &'static str,
    registers: &'static [Register],
    treatment: Treatment,
    reason: &'static str,
) -> CapabilityRule {
    CapabilityRule {
        id,
        name,
        registers,
        treatment,
        reason,
    }
}

/// A capability that the guest does not see.
pub(super) const fn hidden(id: u16, name: &'static str, reason: &'static str) -> CapabilityRule {
    capability(id, name, &[], Treatment::Hide, reason)
}
