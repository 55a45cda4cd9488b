//! Names of capabilities of configuration space and of their registers, by the PCI Express
//! specification (6.0, 7.5 to 7.9 and 9.3.3), and by PCI Local Bus 3.0 for what is older.

use crate::guest::config_names::{Register, find};

/// What both layouts of MSI have (7.7.1).
const MSI: &[Register] = &[(2, 2, "message control"), (4, 4, "message address")];
/// The rest, with an address of 32 bits.
const MSI_NARROW: &[Register] = &[
    (0x08, 2, "message data"),
    (0x0a, 2, "extended message data"),
    (0x0c, 4, "mask bits"),
    (0x10, 4, "pending bits"),
];
/// The rest, with an address of 64 bits.
const MSI_WIDE: &[Register] = &[
    (0x08, 4, "message address, upper half"),
    (0x0c, 2, "message data"),
    (0x0e, 2, "extended message data"),
    (0x10, 4, "mask bits"),
    (0x14, 4, "pending bits"),
];
/// Bit 7 of MSI's message control: the address has 64 bits.
const WIDE: u16 = 1 << 7;
/// Bit 8: each vector can be masked. Without it the capability ends before the mask.
const MASKS: u16 = 1 << 8;

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

/// A capability: its ID, its name, and its registers behind the ID and the pointer.
type Capability<Id> = (Id, &'static str, &'static [Register]);

/// PCI Code and ID Assignment Specification 1.16, 2.
const STANDARD: &[Capability<u8>] = &[
    (
        0x01,
        "power management",
        &[
            (2, 2, "PMC"),
            (4, 2, "PMCSR"),
            (6, 1, "bridge support"),
            (7, 1, "data"),
        ],
    ),
    (0x02, "AGP", &[]),
    (0x03, "VPD", &[(2, 2, "address"), (4, 4, "data")]),
    (0x04, "slot identification", &[]),
    (0x05, "MSI", MSI),
    (0x07, "PCI-X", &[]),
    (0x08, "HyperTransport", &[]),
    (0x09, "vendor-specific", &[(2, 1, "length")]),
    (0x0a, "debug port", &[]),
    (
        0x0d,
        "bridge subsystem ID",
        &[(4, 2, "subsystem vendor ID"), (6, 2, "subsystem ID")],
    ),
    (0x10, "PCI Express", EXPRESS),
    (
        0x11,
        "MSI-X",
        &[(2, 2, "message control"), (4, 4, "table"), (8, 4, "PBA")],
    ),
    (0x12, "SATA", &[]),
    (
        0x13,
        "advanced features",
        &[
            (2, 1, "length"),
            (3, 1, "capabilities"),
            (4, 1, "control"),
            (5, 1, "status"),
        ],
    ),
    (0x14, "enhanced allocation", &[(2, 2, "number of entries")]),
];

const VIRTUAL_CHANNEL: &[Register] = &[
    (0x04, 4, "port VC capability 1"),
    (0x08, 4, "port VC capability 2"),
    (0x0c, 2, "port VC control"),
    (0x0e, 2, "port VC status"),
    (0x10, 4, "VC resource capability"),
    (0x14, 4, "VC resource control"),
    (0x1a, 2, "VC resource status"),
];
const AER: &[Register] = &[
    (0x04, 4, "uncorrectable error status"),
    (0x08, 4, "uncorrectable error mask"),
    (0x0c, 4, "uncorrectable error severity"),
    (0x10, 4, "correctable error status"),
    (0x14, 4, "correctable error mask"),
    (0x18, 4, "capabilities and control"),
    (0x1c, 16, "header log"),
    (0x2c, 4, "root error command"),
    (0x30, 4, "root error status"),
    (0x34, 4, "error source identification"),
    (0x38, 16, "TLP prefix log"),
];
const SR_IOV: &[Register] = &[
    (0x04, 4, "capabilities"),
    (0x08, 2, "control"),
    (0x0a, 2, "status"),
    (0x0c, 2, "initial VFs"),
    (0x0e, 2, "total VFs"),
    (0x10, 2, "number of VFs"),
    (0x12, 1, "function dependency link"),
    (0x14, 2, "first VF offset"),
    (0x16, 2, "VF stride"),
    (0x1a, 2, "VF device ID"),
    (0x1c, 4, "supported page sizes"),
    (0x20, 4, "system page size"),
    (0x24, 4, "VF BAR0"),
    (0x28, 4, "VF BAR1"),
    (0x2c, 4, "VF BAR2"),
    (0x30, 4, "VF BAR3"),
    (0x34, 4, "VF BAR4"),
    (0x38, 4, "VF BAR5"),
    (0x3c, 4, "VF migration state array offset"),
];
const CAPABILITY_AND_CONTROL: &[Register] = &[(4, 2, "capability"), (6, 2, "control")];

/// The same, 3.
const EXTENDED: &[Capability<u16>] = &[
    (0x01, "AER", AER),
    (0x02, "virtual channel", VIRTUAL_CHANNEL),
    (0x03, "device serial number", &[(4, 8, "number")]),
    (
        0x04,
        "power budgeting",
        &[(4, 1, "data select"), (8, 4, "data"), (12, 1, "capability")],
    ),
    (0x09, "virtual channel", VIRTUAL_CHANNEL),
    (
        0x0b,
        "extended vendor-specific",
        &[(4, 4, "vendor-specific header")],
    ),
    (
        0x0d,
        "ACS",
        &[
            (4, 2, "capability"),
            (6, 2, "control"),
            (8, 4, "egress control vector"),
        ],
    ),
    (0x0e, "ARI", CAPABILITY_AND_CONTROL),
    (0x0f, "ATS", CAPABILITY_AND_CONTROL),
    (0x10, "SR-IOV", SR_IOV),
    (0x12, "multicast", CAPABILITY_AND_CONTROL),
    (
        0x13,
        "page request",
        &[
            (4, 2, "control"),
            (6, 2, "status"),
            (8, 4, "outstanding capacity"),
            (12, 4, "outstanding allocation"),
        ],
    ),
    (
        0x15,
        "resizable BAR",
        &[(4, 4, "first capability"), (8, 4, "first control")],
    ),
    (0x16, "dynamic power allocation", &[]),
    (
        0x17,
        "TPH requester",
        &[(4, 4, "capability"), (8, 4, "control")],
    ),
    (
        0x18,
        "latency tolerance reporting",
        &[(4, 2, "maximum snoop"), (6, 2, "maximum no-snoop")],
    ),
    (
        0x19,
        "secondary PCI Express",
        &[(4, 4, "link control 3"), (8, 4, "lane error status")],
    ),
    (0x1b, "PASID", CAPABILITY_AND_CONTROL),
    (
        0x1d,
        "DPC",
        &[
            (4, 2, "capability"),
            (6, 2, "control"),
            (8, 2, "status"),
            (10, 2, "error source ID"),
        ],
    ),
    (
        0x1e,
        "L1 PM substates",
        &[
            (4, 4, "capabilities"),
            (8, 4, "control 1"),
            (12, 4, "control 2"),
        ],
    ),
    (0x1f, "PTM", &[(4, 4, "capability"), (8, 4, "control")]),
    (0x23, "DVSEC", &[(4, 4, "header 1"), (8, 2, "header 2")]),
    (
        0x25,
        "data link feature",
        &[(4, 4, "capabilities"), (8, 4, "status")],
    ),
    (0x26, "physical layer 16.0 GT/s", &[]),
    (0x27, "lane margining", &[]),
];

/// The name of a register of a capability, by its offset from the capability's start. `control` is
/// the word behind ID and pointer, which says how long MSI's address is.
pub fn standard(id: u8, offset: u16, control: Option<u16>) -> String {
    let found = STANDARD.iter().find(|(known, ..)| *known == id);
    let capability = found.map_or_else(|| format!("capability {id:#04x}"), |c| c.1.into());
    let control = control.filter(|_| id == 0x05);
    let (rest, before_mask) = match control.map(|control| control & WIDE != 0) {
        Some(true) => (MSI_WIDE, 3),
        Some(false) => (MSI_NARROW, 2),
        None => (MSI_NARROW, 0),
    };
    let rest = match control.is_some_and(|control| control & MASKS != 0) {
        true => rest,
        false => rest.get(..before_mask).unwrap_or_default(),
    };
    match offset {
        0 => format!("{capability} ID"),
        1 => format!("{capability} next pointer"),
        _ => {
            let own = found.and_then(|(.., registers)| find(registers, offset));
            match own.or_else(|| find(rest, offset)) {
                Some(name) => format!("{capability} {name}"),
                None => format!("{capability} +{offset:#x}"),
            }
        }
    }
}

/// The name of a register of an extended capability.
pub fn extended(id: u16, offset: u16) -> String {
    let found = EXTENDED.iter().find(|(known, ..)| *known == id);
    let name = found.map_or_else(
        || format!("extended capability {id:#06x}"),
        |c| c.1.to_string(),
    );
    match (offset, found) {
        (0..4, _) => format!("{name} header"),
        (_, Some((.., registers))) => match find(registers, offset) {
            Some(register) => format!("{name} {register}"),
            None => format!("{name} +{offset:#x}"),
        },
        _ => format!("{name} +{offset:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msi_has_two_layouts() {
        assert_eq!(standard(5, 4, None), "MSI message address");
        assert_eq!(standard(5, 8, None), "MSI +0x8");
        assert_eq!(standard(5, 8, Some(0)), "MSI message data");
        assert_eq!(standard(5, 12, Some(0)), "MSI +0xc");
        assert_eq!(standard(5, 12, Some(MASKS)), "MSI mask bits");
        assert_eq!(standard(5, 0x10, Some(WIDE)), "MSI +0x10");
        let wide = Some(WIDE | MASKS | 1);
        assert_eq!(standard(5, 8, wide), "MSI message address, upper half");
        assert_eq!(standard(5, 12, wide), "MSI message data");
        assert_eq!(standard(5, 0x10, wide), "MSI mask bits");
        // The word is of MSI alone.
        assert_eq!(standard(0x11, 8, wide), "MSI-X PBA");
    }

    #[test]
    fn names_of_capabilities() {
        assert_eq!(standard(0x11, 2, None), "MSI-X message control");
        assert_eq!(standard(0x13, 4, None), "advanced features control");
        assert_eq!(standard(0xee, 0, None), "capability 0xee ID");
        assert_eq!(standard(0xee, 4, None), "capability 0xee +0x4");
        assert_eq!(extended(1, 2), "AER header");
        assert_eq!(extended(1, 4), "AER uncorrectable error status");
        assert_eq!(extended(1, 0x20), "AER header log +4");
        assert_eq!(extended(0x10, 0x10), "SR-IOV number of VFs");
        assert_eq!(extended(0x99, 8), "extended capability 0x0099 +0x8");
    }

    #[test]
    fn no_two_registers_overlap() {
        let standard = STANDARD.iter().map(|c| (c.1, c.2.to_vec(), 2));
        let extended = EXTENDED.iter().map(|c| (c.1, c.2.to_vec(), 4));
        let msi = [MSI_NARROW, MSI_WIDE].map(|rest| ("MSI", [MSI, rest].concat(), 2));
        for (capability, registers, first) in standard.chain(extended).chain(msi) {
            let mut end = first;
            for (at, len, name) in registers {
                assert!(at >= end && len > 0, "{capability} {name}");
                end = at + len;
            }
        }
    }
}
