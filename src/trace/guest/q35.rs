//! Where the chipset that QEMU's q35 is has configuration space in memory. A firmware writes the
//! address to the host bridge long before there are ACPI tables (Intel 3 Series Express Chipset
//! Family datasheet, PCIEXBAR).

use crate::guest::acpi::Ecam;

/// Vendor and device.
const ID: u32 = 0x29c0_8086;
/// The register's two dwords.
const PCIEXBAR: u16 = 0x60;
const PCIEXBAR_HIGH: u16 = 0x64;

/// What the guest has read and written of the host bridge, which is 00:00.0.
#[derive(Debug, Default)]
pub struct HostBridge {
    id: Option<u32>,
    low: u32,
    high: u32,
}

impl HostBridge {
    /// Learns from an access to a register. The range, if the guest has enabled one now.
    pub fn learn(&mut self, register: u16, data: &[u8]) -> Option<Ecam> {
        let value = u32::from_le_bytes(data.try_into().ok()?);
        let kept = match register {
            0 => return self.id.replace(value).and(None),
            PCIEXBAR => &mut self.low,
            PCIEXBAR_HIGH => &mut self.high,
            _ => return None,
        };
        *kept = value;
        self.ecam().filter(|_| self.id == Some(ID))
    }

    fn ecam(&self) -> Option<Ecam> {
        let buses: u64 = match self.low >> 1 & 3 {
            0 => 256,
            1 => 128,
            2 => 64,
            _ => return None,
        };
        let base = u64::from(self.high) << 32 | u64::from(self.low);
        (self.low & 1 == 1).then_some(Ecam {
            base: base & !((buses << 20) - 1),
            segment: 0,
            buses: (0, (buses - 1) as u8),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_register_has_base_size_and_a_switch() {
        let at = |id: u32, high: u32, low: u32| {
            let mut bridge = HostBridge::default();
            let mut learn = |register, value: u32| bridge.learn(register, &value.to_le_bytes());
            assert_eq!(learn(0, id), None);
            assert_eq!(learn(PCIEXBAR_HIGH, high), None);
            let ecam = learn(PCIEXBAR, low)?;
            Some((ecam.base, ecam.buses))
        };
        assert_eq!(at(ID, 0, 0xb000_0001), Some((0xb000_0000, (0, 255))));
        assert_eq!(at(ID, 1, 0xb000_0001), Some((0x1_b000_0000, (0, 255))));
        assert_eq!(at(ID, 0, 0xb800_0003), Some((0xb800_0000, (0, 127))));
        assert_eq!(at(ID, 0, 0xbc00_0005), Some((0xbc00_0000, (0, 63))));
        assert_eq!(at(ID, 0, 0xb000_0007), None);
        assert_eq!(at(ID, 0, 0xb000_0000), None);
        assert_eq!(at(0x1237_8086, 0, 0xb000_0001), None);
        assert_eq!(HostBridge::default().learn(PCIEXBAR, &[1]), None);
    }
}
