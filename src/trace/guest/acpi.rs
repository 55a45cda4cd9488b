//! Finds where PCI configuration space is in memory, as the guest does: by the tables RSDP, XSDT or
//! RSDT, and MCFG (ACPI 6.5, 5.2.5 to 5.2.8; PCI Firmware 3.3, 4.1.2).

/// The guest's memory.
pub trait GuestMemory {
    /// Reads at a guest-physical address. Whether all bytes could be read.
    fn read(&self, address: u64, into: &mut [u8]) -> bool;
}

/// Where the RSDP may be: a BIOS has it in its extended data area or above 0xe0000, Cloud
/// Hypervisor at 0xa0000, and mini-vmm in low memory.
const SEARCHED: std::ops::Range<u64> = 0x0..0x10_0000;
const PAGE: usize = 4096;
/// The most entries of XSDT and MCFG.
const MOST: usize = 64;

/// A range of buses whose configuration space is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ecam {
    /// Address of bus 0's registers, even if the range begins with another bus.
    pub base: u64,
    /// The segment.
    pub segment: u16,
    /// First and last bus.
    pub buses: (u8, u8),
}

impl Ecam {
    /// Bus, device and function byte, and register, of an address.
    pub fn register(&self, address: u64) -> Option<(u8, u8, u16)> {
        let offset = address.checked_sub(self.base)?;
        let bus = u8::try_from(offset >> 20).ok()?;
        let inside = (self.buses.0..=self.buses.1).contains(&bus);
        inside.then_some((bus, (offset >> 12) as u8, (offset & 0xfff) as u16))
    }
}

/// Finds the ranges. Empty if there is no MCFG, or not yet.
pub fn find(memory: &dyn GuestMemory) -> Vec<Ecam> {
    let found = rsdp(memory).and_then(|(table, width)| mcfg(memory, table, width));
    found.unwrap_or_default()
}

fn number<const N: usize>(memory: &dyn GuestMemory, address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    memory.read(address, &mut bytes[..N]).then_some(())?;
    Some(u64::from_le_bytes(bytes))
}

/// Address of the XSDT or RSDT, and the width of its entries.
fn rsdp(memory: &dyn GuestMemory) -> Option<(u64, u64)> {
    let mut page = [0; PAGE];
    for at in SEARCHED.step_by(PAGE) {
        if !memory.read(at, &mut page) {
            continue;
        }
        let Some(index) = (0..PAGE - 20).step_by(16).find(|i| {
            let sum = page[*i..*i + 20]
                .iter()
                .fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            page[*i..].starts_with(b"RSD PTR ") && sum == 0
        }) else {
            continue;
        };
        let at = at + index as u64;
        return match page[index + 15] {
            0 => Some((number::<4>(memory, at + 16)?, 4)),
            _ => Some((number::<8>(memory, at + 24)?, 8)),
        };
    }
    None
}

fn mcfg(memory: &dyn GuestMemory, table: u64, width: u64) -> Option<Vec<Ecam>> {
    let len = number::<4>(memory, table.checked_add(4)?)?;
    for i in 0..(len.saturating_sub(36) / width).min(MOST as u64) {
        let at = table.checked_add(36 + i * width)?;
        let entry = match width {
            4 => number::<4>(memory, at)?,
            _ => number::<8>(memory, at)?,
        };
        if number::<4>(memory, entry) == Some(u64::from(u32::from_le_bytes(*b"MCFG"))) {
            return ranges(memory, entry);
        }
    }
    None
}

fn ranges(memory: &dyn GuestMemory, mcfg: u64) -> Option<Vec<Ecam>> {
    let len = number::<4>(memory, mcfg.checked_add(4)?)?;
    let count = (len.saturating_sub(44) / 16).min(MOST as u64);
    (0..count)
        .map(|i| {
            let at = mcfg.checked_add(44 + i * 16)?;
            let buses = number::<4>(memory, at.checked_add(8)?)?.to_le_bytes();
            Some(Ecam {
                base: number::<8>(memory, at)?,
                segment: u16::from_le_bytes([buses[0], buses[1]]),
                buses: (buses[2], buses[3]),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bytes(Vec<u8>);

    impl GuestMemory for Bytes {
        fn read(&self, address: u64, into: &mut [u8]) -> bool {
            let bytes = usize::try_from(address)
                .ok()
                .and_then(|at| self.0.get(at..));
            let bytes = bytes.and_then(|bytes| bytes.get(..into.len()));
            bytes.map(|bytes| into.copy_from_slice(bytes)).is_some()
        }
    }

    fn tables() -> Vec<u8> {
        let mut memory = vec![0; 0x20_0000];
        let mut put = |at: usize, bytes: &[u8]| memory[at..at + bytes.len()].copy_from_slice(bytes);
        put(0xe_0010, b"RSD PTR ");
        put(0xe_001f, &[2]);
        put(0xe_0028, &0x10_0000u64.to_le_bytes());
        let sum = b"RSD PTR "
            .iter()
            .fold(2u8, |sum, byte| sum.wrapping_add(*byte));
        put(0xe_0018, &[sum.wrapping_neg()]);
        put(0x10_0000, b"XSDT");
        put(0x10_0004, &(36u32 + 16).to_le_bytes());
        put(0x10_0024, &0x10_0100u64.to_le_bytes());
        put(0x10_002c, &0x10_0200u64.to_le_bytes());
        put(0x10_0100, b"FACP");
        put(0x10_0200, b"MCFG");
        put(0x10_0204, &(44u32 + 16).to_le_bytes());
        put(0x10_022c, &0xe000_0000u64.to_le_bytes());
        put(0x10_0236, &[0, 15]);
        memory
    }

    #[test]
    fn ecam_is_found() {
        let ecam = find(&Bytes(tables()));
        let expected = Ecam {
            base: 0xe000_0000,
            segment: 0,
            buses: (0, 15),
        };
        assert_eq!(ecam, [expected]);
        assert_eq!(expected.register(0xe011_8010), Some((1, 0x18, 0x10)));
        assert_eq!(expected.register(0xe100_0000), None);
        assert_eq!(expected.register(0xdfff_ffff), None);
    }

    #[test]
    fn broken_tables_end_the_search() {
        for (at, bytes) in [
            (0x10_0004, [0xff; 8]),
            (0x10_0024, [0xff; 8]),
            (0x10_0204, [0xff; 8]),
            (0xe_0028, [0xff; 8]),
        ] {
            let mut memory = tables();
            memory[at..at + 8].copy_from_slice(&bytes);
            assert!(find(&Bytes(memory)).len() <= MOST);
        }
        assert!(find(&Bytes(Vec::new())).is_empty());
    }
}
