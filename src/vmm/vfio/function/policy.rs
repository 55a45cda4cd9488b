//! How each register is treated: passed to the device, emulated by the VMM, or hidden. Of a passed
//! register, some bits may be the host's: a guest's write does not change them.
//!
//! The tables are the policy: [`header`], [`standard`], [`extended`], `express` and [`igd`].
//! [`apply`] turns a device's configuration space into the guest's. docs/ownership.md is made from
//! the tables. Register names and offsets: PCI Express Base 6.0, 7.5 (header and PCIe capability),
//! 7.6 to 7.9 (extended capabilities).
//!
//! What no row is for has a rule too:
//!
//! - An unknown capability is hidden. VFIO unlinks each capability that it does not know, but
//!   passes reads and writes of its bytes (drivers/vfio/pci/vfio_pci_config.c, `vfio_ecap_init` and
//!   `unassigned_perms`). So the chains are read from sysfs as well ([`Original::hardware`]), and
//!   the bytes of an unlinked capability read as zero.
//! - A byte of the first 256 that is in no capability is the guest's: drivers of older devices have
//!   registers there, such as the timings of IDE and the port routing of xHCI.
//! - A byte of extended space that is in no capability can be read, and never written: what is
//!   there is most often about the link. If sysfs does not tell the chains, it reads as zero.

mod express;
pub mod extended;
pub mod header;
pub mod igd;
pub mod rule;
pub mod standard;

use std::ops::Range;

use pci::byte_enable;
use pci::capability::{self, Capability, ext_id, id};
use pci::clique;
use pci::config_space::{CONVENTIONAL_SIZE, ConfigSpace};
use pci::host_path::HostPath;
use pci::passed::Bits;
use pci::regs;
use pci::regs::header_type;
use pci::regs::power::PMCSR;
use rule::{CapabilityRule, Register, Treatment};

/// A device's configuration space on the host.
#[derive(Clone, Copy, Debug)]
pub struct Original<'a> {
    /// The host's name of the device.
    pub name: &'a str,
    /// The configuration space as VFIO shows it, 256 or 4096 bytes.
    pub snapshot: &'a [u8],
    /// The configuration space as sysfs shows it, with the capabilities that VFIO has unlinked.
    /// Shorter than the snapshot if it is not known.
    pub hardware: &'a [u8],
    /// The size of BAR 0.
    pub bar_0: u64,
    /// What the root port above the function shows in the guest; `None` on bus 0.
    pub port: Option<HostPath>,
}

/// The tables.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The type 0 header.
    pub header: &'static [Register],
    /// The standard capabilities.
    pub standard: &'static [CapabilityRule],
    /// The extended capabilities.
    pub extended: &'static [CapabilityRule],
    /// Intel's integrated GPU.
    pub igd: &'static [Register],
}

/// The tables that are in force.
pub const POLICY: Policy = Policy {
    header: header::HEADER,
    standard: standard::STANDARD,
    extended: extended::EXTENDED,
    igd: igd::REGISTERS,
};

impl Policy {
    /// The rule for a capability of a configuration space.
    pub fn rule(&self, space: &[u8], cap: &Capability) -> &'static CapabilityRule {
        let (table, unknown) = match cap.extended {
            true if is_cxl(space, cap) => return &extended::CXL,
            true => (self.extended, &extended::UNKNOWN),
            false if clique::is_at(space, cap) => return &standard::CLIQUE,
            false => (self.standard, &standard::UNKNOWN),
        };
        table.iter().find(|r| r.id == cap.id).unwrap_or(unknown)
    }

    fn hides(&self, space: &[u8], cap: &Capability) -> bool {
        self.rule(space, cap).treatment == Treatment::Hide
    }
}

fn is_cxl(space: &[u8], cap: &Capability) -> bool {
    let vendor = byte_enable::u16_at(space, usize::from(cap.offset) + 4);
    cap.id == ext_id::DVSEC && vendor == Some(extended::CXL_VENDOR)
}

/// Registers of the header whose write changes more than their value: COMMAND, the BARs and the
/// ROM's.
const SIDE_EFFECTS: [(u16, usize); 3] = [(regs::COMMAND, 2), (regs::BAR, 24), (regs::ROM, 4)];

/// Makes the guest's configuration space out of the device's.
pub fn apply(original: &Original<'_>) -> ConfigSpace {
    POLICY.apply(original)
}

impl Policy {
    /// Makes the guest's configuration space out of the device's.
    ///
    /// An extended space of all zeros is hidden: it reads as all ones, as on a machine without
    /// ECAM, and a guest does not read it again. Linux would look for each capability that it knows
    /// behind a null header: 28 exits in a boot.
    pub fn apply(&self, original: &Original<'_>) -> ConfigSpace {
        let mut image = original.snapshot.to_vec();
        let extended = image.get(CONVENTIONAL_SIZE..).unwrap_or_default();
        if extended.iter().all(|byte| *byte == 0) {
            image.truncate(CONVENTIONAL_SIZE);
        }
        let mut caps = all(&image);
        let unlinked = unlinked(original.snapshot, original.hardware);
        let space = image.clone();
        capability::hide_standard(&mut image, |cap| self.hides(&space, cap));
        capability::hide_extended(&mut image, |cap| self.hides(&space, cap));

        let mut config = ConfigSpace::new(image.len());
        config.bytes_mut().copy_from_slice(&image);
        let port = original.port.as_ref();
        self.set_header(&mut config, port.is_some());
        for cap in &caps {
            self.set_capability(&mut config, &space, cap, port);
        }
        for cap in &unlinked {
            hide(&mut config, cap.offset, cap.len);
        }
        caps.extend(unlinked);
        let known = original.hardware.len() >= original.snapshot.len();
        set_extended_gaps(&mut config, &caps, known);
        if igd::is_igd(original.name, original.snapshot) {
            self.set_igd(&mut config, &caps, original.bar_0);
        }
        config
    }

    fn set_header(&self, config: &mut ConfigSpace, behind_port: bool) {
        config.set_passed(0, usize::from(HEADER_SIZE), Bits::READ_ONLY);
        for row in self.header {
            set_register(config, 0, row, behind_port);
        }
        for offset in [regs::BIST, regs::INTERRUPT_LINE, regs::INTERRUPT_PIN] {
            config.set_u8(offset, 0);
        }
        let layout = config.u8(regs::HEADER_TYPE) & !header_type::MULTI_FUNCTION;
        config.set_u8(regs::HEADER_TYPE, layout);
        let bars = (regs::BAR..regs::CARDBUS).step_by(4);
        for offset in bars.chain([regs::CARDBUS, regs::ROM]) {
            config.set_u32(offset, 0);
        }
        config.set_writable(regs::INTERRUPT_LINE, &[0xff]);
        // The device answers COMMAND. The guest's last value is kept in `config` as well.
        config.set_writable(regs::COMMAND, &header::COMMAND_BITS.to_le_bytes());
        for (offset, len) in SIDE_EFFECTS {
            config.set_side_effects(offset, len);
        }
    }

    fn set_capability(
        &self,
        config: &mut ConfigSpace,
        space: &[u8],
        cap: &Capability,
        port: Option<&HostPath>,
    ) {
        let rule = self.rule(space, cap);
        // ID and next pointer are emulated, because the chain is relinked.
        let header = if cap.extended { 4 } else { 2 };
        if rule.treatment == Treatment::Hide {
            // The head of the extended chain stays, as a link without an ID.
            let kept = if cap.offset == EXTENDED_START {
                header
            } else {
                0
            };
            hide(config, cap.offset + kept, cap.len.saturating_sub(kept));
            config.set_emulated(cap.offset, header.into());
            return;
        }
        match rule.treatment {
            Treatment::Pass(bits) => set_bits(config, cap.offset, cap.len, bits),
            _ => config.set_emulated(cap.offset, cap.len.into()),
        }
        for row in rule.registers {
            if row.offset + row.len <= cap.len {
                set_register(config, cap.offset, row, port.is_some());
            }
        }
        config.set_emulated(cap.offset, header.into());
        match cap.id {
            _ if cap.extended => {}
            id::MSI | id::MSIX => config.set_side_effects(cap.offset, cap.len.into()),
            id::PCIE => match port {
                None => express::integrate(config, cap),
                Some(path) => express::attach(config, space, cap, path),
            },
            id::PM => config.set_side_effects(cap.offset + PMCSR, 1),
            _ => {}
        }
    }

    fn set_igd(&self, config: &mut ConfigSpace, caps: &[Capability], bar_0: u64) {
        let free = |at: &u16| !covers(caps, *at);
        let Register { offset, len, .. } = igd::GAP;
        for at in (offset..offset + len).filter(free) {
            config.set_passed(at, 1, Bits::READ_ONLY);
        }
        for row in self.igd {
            for at in (row.offset..row.offset + row.len).filter(free) {
                match row.treatment {
                    Treatment::Pass(bits) => config.set_passed(at, 1, bits),
                    _ if row.offset == igd::GGC => config.set_emulated(at, 1),
                    _ => hide(config, at, 1),
                }
            }
        }
        igd::no_stolen_memory(config, bar_0);
    }
}

const HEADER_SIZE: u16 = 0x40;
/// Extended capabilities begin here (PCI Express 6.0, 7.6.3).
const EXTENDED_START: u16 = 0x100;

fn all(space: &[u8]) -> Vec<Capability> {
    let mut caps = capability::standard(space);
    caps.extend(capability::extended(space));
    caps
}

/// Ranges of standard space that are the device's and in no capability that VFIO shows: those that
/// VFIO has unlinked, or each byte that is not zero where the hardware's chain is not known.
pub fn in_use(snapshot: &[u8], hardware: &[u8]) -> Vec<Range<u16>> {
    if hardware.len() < snapshot.len() {
        let standard = snapshot.iter().take(CONVENTIONAL_SIZE);
        let used = (0u16..).zip(standard).filter(|(_, byte)| **byte != 0);
        return used.map(|(at, _)| at..at + 1).collect();
    }
    let unlinked = unlinked(snapshot, hardware).into_iter();
    unlinked
        .filter(|cap| !cap.extended)
        .map(|cap| cap.offset..cap.offset.saturating_add(cap.len))
        .collect()
}

/// The capabilities that the device has and VFIO has unlinked.
pub fn unlinked(snapshot: &[u8], hardware: &[u8]) -> Vec<Capability> {
    let size = snapshot.len();
    let (shown, mut all) = (all(snapshot), all(hardware));
    let is_shown = |cap: &Capability| {
        shown
            .iter()
            .any(|c| (c.offset, c.id) == (cap.offset, cap.id))
    };
    all.retain(|cap| !is_shown(cap) && usize::from(cap.offset) < size);
    for cap in &mut all {
        // VFIO shows the head of the extended chain as a link without an ID.
        if shown.iter().any(|c| c.offset == cap.offset) {
            cap.offset += 4;
            cap.len = cap.len.saturating_sub(4);
        }
    }
    all
}

/// Sets what a row says.
fn set_register(config: &mut ConfigSpace, base: u16, row: &Register, behind_port: bool) {
    let offset = base + row.offset;
    match row.at(behind_port).0 {
        Treatment::Pass(bits) => set_bits(config, offset, row.len, bits),
        Treatment::Emulate => config.set_emulated(offset, row.len.into()),
        Treatment::Hide => hide(config, offset, row.len),
    }
}

/// Sets the owners of the bits of one register, or of many with the same owner.
fn set_bits(config: &mut ConfigSpace, offset: u16, len: u16, bits: Bits) {
    for at in (0..len).step_by(4) {
        config.set_passed(offset + at, usize::from(len - at).min(4), bits);
    }
}

/// Makes bytes read as zero, and drops writes.
fn hide(config: &mut ConfigSpace, offset: u16, len: u16) {
    for at in offset..offset.saturating_add(len) {
        config.set_u8(at, 0);
        config.set_emulated(at, 1);
    }
}

fn covers(caps: &[Capability], at: u16) -> bool {
    caps.iter()
        .any(|cap| at >= cap.offset && at - cap.offset < cap.len)
}

/// Sets the rule for bytes of extended space that are in no capability.
fn set_extended_gaps(config: &mut ConfigSpace, caps: &[Capability], known: bool) {
    let end = config.size() as u16;
    for at in (EXTENDED_START..end).filter(|at| !covers(caps, *at)) {
        match known {
            true => config.set_passed(at, 1, Bits::READ_ONLY),
            false => hide(config, at, 1),
        }
    }
}

#[cfg(test)]
mod tests;
