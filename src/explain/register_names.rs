//! Names of the header's registers, for people to read (PCI Express 6.0, 7.5). The policy has the
//! names of all other registers.

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
