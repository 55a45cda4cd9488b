//! Names of the registers of the header of configuration space, by the PCI Express specification
//! (6.0, 7.5.1).

use pci::regs::{self, bridge};

/// Offset, length in bytes, and name.
pub type Register = (u16, u16, &'static str);

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

/// The name of a register, or of a byte of it.
pub fn find(registers: &[Register], offset: u16) -> Option<String> {
    let found = registers
        .iter()
        .find(|(at, len, _)| (*at..at + len).contains(&offset))?;
    Some(match offset - found.0 {
        0 => found.2.to_string(),
        byte => format!("{} +{byte}", found.2),
    })
}

/// What the header is of, by bits 6:0 of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// A function that is no bridge (type 0).
    Endpoint,
    /// A bridge (type 1).
    Bridge,
    /// The guest has not read the type yet, or there is another.
    Unknown,
}

/// The name of a register of the header.
pub fn header(offset: u16, kind: Header) -> Option<String> {
    let own = match kind {
        Header::Endpoint => TYPE_0,
        Header::Bridge => TYPE_1,
        Header::Unknown => &[],
    };
    find(COMMON, offset).or_else(|| find(own, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_both_headers() {
        use Header::{Bridge, Endpoint, Unknown};
        assert_eq!(header(0x10, Unknown).as_deref(), Some("BAR0"));
        assert_eq!(header(0x24, Endpoint).as_deref(), Some("BAR5"));
        assert_eq!(header(0x24, Bridge).as_deref(), Some("prefetchable base"));
        assert_eq!(header(0x24, Unknown), None);
        assert_eq!(header(0x05, Unknown).as_deref(), Some("COMMAND +1"));
        assert_eq!(header(0x35, Endpoint), None);
    }

    /// PCI Express 6.0, 7.5.1.2 and 7.5.1.3.
    #[test]
    fn only_reserved_registers_have_no_name() {
        for (kind, last) in [(Header::Endpoint, 0x3b), (Header::Bridge, 0x37)] {
            for offset in 0..0x40 {
                let is_reserved = (0x35..=last).contains(&offset);
                let name = header(offset, kind);
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
