//! Names of registers and capabilities, for people to read (PCI Express 6.0, 7.5 to 7.9).

use pci::capability::{Capability, ext_id, id};
use pci::regs;

/// A register: offset and length in bytes, and its name.
pub type Register = (u16, u16, &'static str);

/// The type 0 header (PCI Express 6.0, 7.5.1).
pub const HEADER: &[Register] = &[
    (regs::VENDOR, 2, "vendor ID"),
    (regs::VENDOR + 2, 2, "device ID"),
    (regs::COMMAND, 2, "command"),
    (regs::STATUS, 2, "status"),
    (regs::REVISION, 1, "revision"),
    (regs::REVISION + 1, 3, "class code"),
    (regs::CACHE_LINE, 1, "cache line size"),
    (regs::LATENCY, 1, "latency timer"),
    (regs::HEADER_TYPE, 1, "header type"),
    (regs::BIST, 1, "self test"),
    (regs::BAR, 4, "BAR 0"),
    (regs::BAR + 4, 4, "BAR 1"),
    (regs::BAR + 8, 4, "BAR 2"),
    (regs::BAR + 12, 4, "BAR 3"),
    (regs::BAR + 16, 4, "BAR 4"),
    (regs::BAR + 20, 4, "BAR 5"),
    (regs::CARDBUS, 4, "CardBus pointer"),
    (regs::SUBSYSTEM, 2, "subsystem vendor ID"),
    (regs::SUBSYSTEM + 2, 2, "subsystem ID"),
    (regs::ROM, 4, "expansion ROM"),
    (regs::CAPABILITIES, 1, "capabilities pointer"),
    (regs::INTERRUPT_LINE, 1, "interrupt line"),
    (regs::INTERRUPT_PIN, 1, "interrupt pin"),
    (regs::MIN_GRANT, 1, "minimum grant"),
    (regs::MAX_LATENCY, 1, "maximum latency"),
];

/// The registers of a capability, by their offset in the capability. A capability may have only the
/// first registers of the list. The list is empty for a capability that is shown as a whole.
pub fn registers(cap: &Capability) -> &'static [Register] {
    match (cap.extended, cap.id) {
        (false, id::PM) => &[
            (0, 2, "header"),
            (2, 2, "capabilities"),
            (4, 2, "control and status"),
        ],
        (false, id::MSIX) => &[
            (0, 2, "header"),
            (2, 2, "message control"),
            (4, 4, "table"),
            (8, 4, "pending bits"),
        ],
        (false, id::PCIE) => &[
            (0x00, 2, "header"),
            (0x02, 2, "type and version"),
            (0x04, 4, "device capabilities"),
            (0x08, 2, "device control"),
            (0x0a, 2, "device status"),
            (0x0c, 4, "link capabilities"),
            (0x10, 2, "link control"),
            (0x12, 2, "link status"),
            (0x24, 4, "device capabilities 2"),
            (0x28, 2, "device control 2"),
            (0x2a, 2, "device status 2"),
            (0x2c, 4, "link capabilities 2"),
            (0x30, 2, "link control 2"),
            (0x32, 2, "link status 2"),
        ],
        (true, ext_id::AER) => &[
            (0x00, 4, "header"),
            (0x04, 4, "uncorrectable status"),
            (0x08, 4, "uncorrectable mask"),
            (0x0c, 4, "uncorrectable severity"),
            (0x10, 4, "correctable status"),
            (0x14, 4, "correctable mask"),
            (0x18, 4, "capabilities and control"),
        ],
        _ => &[],
    }
}

/// The name of a capability.
pub fn capability(cap: &Capability) -> &'static str {
    let names: &[(u16, &str)] = if cap.extended { EXTENDED } else { STANDARD };
    let name = names.iter().find(|(id, _)| *id == cap.id);
    name.map_or("unknown capability", |(_, name)| name)
}

const STANDARD: &[(u16, &str)] = &[
    (id::NULL, "null"),
    (id::PM, "power management"),
    (id::VPD, "vital product data"),
    (id::MSI, "MSI"),
    (id::VENDOR, "vendor-specific"),
    (0x0d, "subsystem IDs of a bridge"),
    (id::PCIE, "PCI Express"),
    (id::MSIX, "MSI-X"),
    (0x12, "SATA"),
    (id::AF, "advanced features"),
    (id::EA, "enhanced allocation"),
];

const EXTENDED: &[(u16, &str)] = &[
    (ext_id::NULL, "null"),
    (ext_id::AER, "advanced error reporting"),
    (ext_id::VC, "virtual channel"),
    (ext_id::DSN, "serial number"),
    (ext_id::POWER_BUDGET, "power budgeting"),
    (ext_id::MFVC, "multi-function virtual channel"),
    (ext_id::VC9, "virtual channel"),
    (ext_id::VENDOR, "vendor-specific"),
    (ext_id::ACS, "access control"),
    (ext_id::ARI, "alternative routing ID"),
    (ext_id::ATS, "address translation"),
    (ext_id::SRIOV, "SR-IOV"),
    (ext_id::MULTICAST, "multicast"),
    (ext_id::PRI, "page requests"),
    (ext_id::REBAR, "resizable BARs"),
    (ext_id::DPA, "dynamic power allocation"),
    (ext_id::TPH, "TLP processing hints"),
    (ext_id::LTR, "latency tolerance"),
    (ext_id::SECONDARY, "secondary PCI Express"),
    (ext_id::PASID, "process address spaces"),
    (ext_id::DPC, "downstream port containment"),
    (ext_id::L1SS, "L1 substates"),
    (ext_id::PTM, "precision time"),
    (ext_id::DVSEC, "designated vendor-specific"),
    (ext_id::VF_REBAR, "resizable BARs of VFs"),
    (ext_id::DATA_LINK, "data link feature"),
    (ext_id::PHYSICAL_16, "physical layer 16 GT/s"),
    (ext_id::LANE_MARGIN, "lane margining"),
    (ext_id::PHYSICAL_32, "physical layer 32 GT/s"),
    (ext_id::DOE, "data object exchange"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_no_gap_but_the_reserved() {
        let mut at = 0;
        for (offset, len, name) in HEADER {
            if at == 0x35 {
                at = 0x3c;
            }
            assert_eq!(*offset, at, "{name}");
            at += len;
        }
        assert_eq!(at, 0x40);
    }
}
