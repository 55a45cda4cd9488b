//! Registers of an NVMe controller (NVM Express Base Specification 2.0, 3.1.3).

/// Base class, sub-class and interface of an NVMe controller.
pub const CLASS: [u8; 3] = [0x02, 0x08, 0x01];

/// Where the registers are described.
pub const DOCUMENT: &str = "NVM Express Base 2.0, 3.1.3";

/// Offset of the first doorbell.
const DOORBELLS: u64 = 0x1000;
/// Offset of the high half of CAP, whose low four bits are the doorbells' stride.
const CAP_HIGH: u64 = 4;

const REGISTERS: &[(u64, u64, &str)] = &[
    (0x00, 8, "CAP"),
    (0x08, 4, "VS"),
    (0x0c, 4, "INTMS"),
    (0x10, 4, "INTMC"),
    (0x14, 4, "CC"),
    (0x1c, 4, "CSTS"),
    (0x20, 4, "NSSR"),
    (0x24, 4, "AQA"),
    (0x28, 8, "ASQ"),
    (0x30, 8, "ACQ"),
    (0x38, 4, "CMBLOC"),
    (0x3c, 4, "CMBSZ"),
    (0x40, 4, "BPINFO"),
    (0x44, 4, "BPRSEL"),
    (0x48, 8, "BPMBL"),
    (0x50, 8, "CMBMSC"),
    (0x58, 4, "CMBSTS"),
    (0x5c, 4, "CMBEBS"),
    (0x60, 4, "CMBSWTP"),
    (0x64, 4, "NSSD"),
    (0x68, 4, "CRTO"),
    (0xe00, 4, "PMRCAP"),
    (0xe04, 4, "PMRCTL"),
    (0xe08, 4, "PMRSTS"),
    (0xe0c, 4, "PMREBS"),
    (0xe10, 4, "PMRSWTP"),
    (0xe14, 4, "PMRMSCL"),
    (0xe18, 4, "PMRMSCU"),
];

/// What is known of a controller.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nvme {
    stride: u32,
}

impl Nvme {
    /// Learns from the answer to a read of BAR 0.
    pub fn learn(&mut self, offset: u64, width: u8, value: u64) {
        match (offset, width) {
            (CAP_HIGH, 4) => self.stride = (value & 0xf) as u32,
            (0, 8) => self.stride = (value >> 32 & 0xf) as u32,
            _ => {}
        }
    }

    /// The name of a register of BAR 0.
    pub fn name(&self, offset: u64) -> Option<String> {
        if let Some(at) = offset.checked_sub(DOORBELLS) {
            let doorbell = at / (4 << self.stride);
            let queue = doorbell / 2;
            return match (at % (4 << self.stride), queue) {
                (0, 0..=0xffff) if doorbell.is_multiple_of(2) => Some(format!("SQ{queue}TDBL")),
                (0, 0..=0xffff) => Some(format!("CQ{queue}HDBL")),
                _ => None,
            };
        }
        let mut registers = REGISTERS.iter();
        let found = registers.find(|(at, len, _)| (*at..at + len).contains(&offset))?;
        Some(match offset - found.0 {
            0 => found.2.to_string(),
            byte => format!("{} +{byte}", found.2),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_and_doorbells() {
        let mut nvme = Nvme::default();
        assert_eq!(nvme.name(0x14).as_deref(), Some("CC"));
        assert_eq!(nvme.name(0x2c).as_deref(), Some("ASQ +4"));
        assert_eq!(nvme.name(0x1008).as_deref(), Some("SQ1TDBL"));
        assert_eq!(nvme.name(0x100c).as_deref(), Some("CQ1HDBL"));
        assert_eq!(nvme.name(0x1001), None);
        assert_eq!(nvme.name(0x800), None);
        nvme.learn(0, 8, 1 << 32);
        assert_eq!(nvme.name(0x1008).as_deref(), Some("CQ0HDBL"));
        nvme.learn(4, 4, u64::MAX);
        assert_eq!(nvme.name(0x1000).as_deref(), Some("SQ0TDBL"));
        assert_eq!(nvme.name(u64::MAX), None);
    }
}
