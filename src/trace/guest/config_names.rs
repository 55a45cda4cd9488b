//! Names of registers of configuration space, by the PCI Express specification (6.0, 7.5 to 7.9).

use pci::regs::{self, bridge};

/// Offset, length in bytes, and name.
type Register = (u16, u16, &'static str);

/// What both header types have.
const COMMON: &[Register] = &[
    (regs::VENDOR, 2, "vendor ID"),
    (regs::VENDOR + 2, 2, "device ID"),
    (regs::COMMAND, 2, "COMMAND"),
    (regs::STATUS, 2, "STATUS"),
    (regs::REVISION, 1, "revision"),
    (regs::REVISION + 1, 3, "class code"),
    (regs::CACHE_LINE, 1, "cache line size"),
    (regs::LATENCY, 1, "latency timer"),
    (regs::HEADER_TYPE, 1, "header type"),
    (regs::BIST, 1, "BIST"),
    (regs::BAR, 4, "BAR0"),
    (regs::BAR + 4, 4, "BAR1"),
    (regs::CAPABILITIES, 1, "capabilities pointer"),
    (regs::INTERRUPT_LINE, 1, "interrupt line"),
    (regs::INTERRUPT_PIN, 1, "interrupt pin"),
];

const TYPE_0: &[Register] = &[
    (regs::BAR + 8, 4, "BAR2"),
    (regs::BAR + 12, 4, "BAR3"),
    (regs::BAR + 16, 4, "BAR4"),
    (regs::BAR + 20, 4, "BAR5"),
    (regs::CARDBUS, 4, "CardBus CIS pointer"),
    (regs::SUBSYSTEM, 2, "subsystem vendor ID"),
    (regs::SUBSYSTEM + 2, 2, "subsystem ID"),
    (regs::ROM, 4, "expansion ROM"),
    (regs::MIN_GRANT, 1, "minimum grant"),
    (regs::MAX_LATENCY, 1, "maximum latency"),
];

const TYPE_1: &[Register] = &[
    (bridge::PRIMARY, 1, "primary bus"),
    (bridge::SECONDARY, 1, "secondary bus"),
    (bridge::SUBORDINATE, 1, "subordinate bus"),
    (0x1b, 1, "secondary latency timer"),
    (bridge::IO_BASE, 1, "I/O base"),
    (bridge::IO_LIMIT, 1, "I/O limit"),
    (0x1e, 2, "secondary status"),
    (bridge::MEMORY_BASE, 2, "memory base"),
    (bridge::MEMORY_LIMIT, 2, "memory limit"),
    (bridge::PREFETCHABLE_BASE, 2, "prefetchable base"),
    (bridge::PREFETCHABLE_LIMIT, 2, "prefetchable limit"),
    (
        bridge::PREFETCHABLE_BASE_UPPER,
        4,
        "prefetchable base, upper half",
    ),
    (
        bridge::PREFETCHABLE_LIMIT_UPPER,
        4,
        "prefetchable limit, upper half",
    ),
    (0x30, 2, "I/O base, upper half"),
    (0x32, 2, "I/O limit, upper half"),
    (0x38, 4, "expansion ROM"),
    (bridge::CONTROL, 2, "bridge control"),
];

/// The registers of a capability; its ID and pointer come before.
const POWER: &[Register] = &[(2, 2, "PMC"), (4, 2, "PMCSR")];
const MSI: &[Register] = &[(2, 2, "message control"), (4, 4, "message address")];
const MSIX: &[Register] = &[(2, 2, "message control"), (4, 4, "table"), (8, 4, "PBA")];
const EXPRESS: &[Register] = &[
    (2, 2, "capabilities"),
    (4, 4, "device capabilities"),
    (8, 2, "device control"),
    (10, 2, "device status"),
    (12, 4, "link capabilities"),
    (16, 2, "link control"),
    (18, 2, "link status"),
    (20, 4, "slot capabilities"),
    (24, 2, "slot control"),
    (26, 2, "slot status"),
    (28, 2, "root control"),
    (30, 2, "root capabilities"),
    (32, 4, "root status"),
    (36, 4, "device capabilities 2"),
    (40, 2, "device control 2"),
    (42, 2, "device status 2"),
    (44, 4, "link capabilities 2"),
    (48, 2, "link control 2"),
    (50, 2, "link status 2"),
    (52, 4, "slot capabilities 2"),
    (56, 2, "slot control 2"),
    (58, 2, "slot status 2"),
];

fn find(registers: &[Register], offset: u16) -> Option<String> {
    let found = registers
        .iter()
        .find(|(at, len, _)| (*at..at + len).contains(&offset))?;
    Some(match offset - found.0 {
        0 => found.2.to_string(),
        byte => format!("{} +{byte}", found.2),
    })
}

/// The name of a register of the header.
pub fn header(offset: u16, is_bridge: bool) -> Option<String> {
    let own = if is_bridge { TYPE_1 } else { TYPE_0 };
    find(COMMON, offset).or_else(|| find(own, offset))
}

/// The name of a capability (PCI Code and ID Assignment Specification 1.16, 2).
pub fn capability(id: u8) -> Option<&'static str> {
    Some(match id {
        0x01 => "power management",
        0x02 => "AGP",
        0x03 => "VPD",
        0x04 => "slot identification",
        0x05 => "MSI",
        0x07 => "PCI-X",
        0x08 => "HyperTransport",
        0x09 => "vendor-specific",
        0x0a => "debug port",
        0x0d => "bridge subsystem ID",
        0x10 => "PCI Express",
        0x11 => "MSI-X",
        0x12 => "SATA",
        0x13 => "advanced features",
        0x14 => "enhanced allocation",
        _ => return None,
    })
}

/// The name of an extended capability (the same, 3).
pub fn extended(id: u16) -> Option<&'static str> {
    Some(match id {
        0x01 => "AER",
        0x02 | 0x09 => "virtual channel",
        0x03 => "device serial number",
        0x04 => "power budgeting",
        0x0b => "extended vendor-specific",
        0x0d => "ACS",
        0x0e => "ARI",
        0x0f => "ATS",
        0x10 => "SR-IOV",
        0x12 => "multicast",
        0x13 => "page request",
        0x15 => "resizable BAR",
        0x16 => "dynamic power allocation",
        0x17 => "TPH requester",
        0x18 => "latency tolerance reporting",
        0x19 => "secondary PCI Express",
        0x1b => "PASID",
        0x1d => "DPC",
        0x1e => "L1 PM substates",
        0x1f => "PTM",
        0x23 => "DVSEC",
        0x25 => "data link feature",
        0x26 => "physical layer 16.0 GT/s",
        0x27 => "lane margining",
        _ => return None,
    })
}

/// The name of a register of a capability, by its offset from the capability's start.
pub fn of_capability(id: u8, offset: u16) -> String {
    let registers = match id {
        0x01 => POWER,
        0x05 => MSI,
        0x10 => EXPRESS,
        0x11 => MSIX,
        _ => &[],
    };
    let capability = capability(id).map_or_else(|| format!("capability {id:#04x}"), String::from);
    match offset {
        0 => format!("{capability} ID"),
        1 => format!("{capability} next pointer"),
        _ => match find(registers, offset) {
            Some(name) => format!("{capability} {name}"),
            None => format!("{capability} +{offset:#x}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_both_headers() {
        assert_eq!(header(0x10, false).as_deref(), Some("BAR0"));
        assert_eq!(header(0x24, false).as_deref(), Some("BAR5"));
        assert_eq!(header(0x24, true).as_deref(), Some("prefetchable base"));
        assert_eq!(header(0x05, false).as_deref(), Some("COMMAND +1"));
        assert_eq!(header(0x35, false), None);
        assert_eq!(of_capability(0x11, 2), "MSI-X message control");
        assert_eq!(of_capability(0x05, 12), "MSI +0xc");
        assert_eq!(of_capability(0xee, 0), "capability 0xee ID");
    }

    /// PCI Express 6.0, 7.5.1.2 and 7.5.1.3.
    #[test]
    fn only_reserved_registers_have_no_name() {
        for (is_bridge, last) in [(false, 0x3b), (true, 0x37)] {
            for offset in 0..0x40 {
                let is_reserved = (0x35..=last).contains(&offset);
                let name = header(offset, is_bridge);
                assert_eq!(name.is_none(), is_reserved, "{offset:#x}: {name:?}");
            }
        }
    }

    #[test]
    fn no_two_registers_overlap() {
        for own in [TYPE_0, TYPE_1] {
            let mut seen = std::collections::BTreeSet::new();
            for (at, len, name) in COMMON.iter().chain(own) {
                for byte in *at..at + len {
                    assert!(seen.insert(byte), "{name}");
                }
            }
            assert_eq!(seen.last(), Some(&0x3f));
        }
    }
}
