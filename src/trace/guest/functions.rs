//! The functions that the guest has found, and where their BARs are.

use std::collections::BTreeMap;

use pci::bdf::Bdf;

use crate::guest::access::Space;
use crate::guest::shadow::{Located, Shadow};

/// The most functions that are remembered. A guest can ask for all 65,536 of a segment, but those
/// that are not there are not remembered.
const MOST: usize = 512;

/// A function in the guest.
pub type Address = (u16, u8, u8);

/// Segment, bus, and device and function as a name: the segment only if it is not 0.
pub fn name((segment, bus, devfn): Address) -> String {
    let bdf = Bdf {
        segment,
        bus,
        device: devfn >> 3,
        function: devfn & 7,
    };
    let text = bdf.to_string();
    match segment {
        0 => text.trim_start_matches("0000:").to_string(),
        _ => text,
    }
}

/// The functions.
#[derive(Debug, Default)]
pub struct Functions {
    all: BTreeMap<Address, Shadow>,
    located: Vec<(Located, Address)>,
}

impl Functions {
    /// A function that is known.
    pub fn get(&mut self, address: Address) -> Option<&mut Shadow> {
        self.all.get_mut(&address)
    }

    /// The name of a register.
    pub fn register(&self, address: Address, register: u16) -> String {
        match self.all.get(&address) {
            Some(shadow) => shadow.name(register),
            None => Shadow::default().name(register),
        }
    }

    /// Learns from an access to configuration space.
    pub fn learn(&mut self, address: Address, register: u16, write: bool, bytes: &[u8]) {
        // Nothing there: all ones, or (Linux) a vendor ID of 0.
        if !self.all.contains_key(&address) {
            let absent = write || bytes.iter().all(|byte| *byte == 0xff);
            if absent || self.all.len() == MOST {
                return;
            }
        }
        let shadow = self.all.entry(address).or_default();
        let bar = match write {
            true => shadow.write(register, bytes),
            false => shadow.read(register, bytes),
        };
        if bar {
            let located = shadow.located();
            self.located.retain(|(_, of)| *of != address);
            self.located
                .extend(located.into_iter().map(|located| (located, address)));
        }
    }

    /// The function and BAR at a port or address, and the offset in the BAR. Of BARs that overlap
    /// for a while, such as while the guest moves them, the smallest.
    pub fn at(&self, space: Space, address: u64) -> Option<(Address, u8, u64)> {
        let hit = |located: &Located| {
            located.port == (space == Space::Port)
                && address
                    .checked_sub(located.start)
                    .is_some_and(|o| o < located.size)
        };
        let hits = self.located.iter().filter(|(located, _)| hit(located));
        let (located, of) = hits.min_by_key(|(located, _)| located.size)?;
        Some((*of, located.bar, address - located.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_functions_are_not_remembered() {
        let mut functions = Functions::default();
        for devfn in 0..=255 {
            functions.learn((0, 1, devfn), 0, false, &[0xff; 4]);
            functions.learn((0, 1, devfn), 0x10, true, &[0xff; 4]);
        }
        assert!(functions.all.is_empty());
        for bus in 0..=255 {
            for devfn in 0..=255 {
                functions.learn((0, bus, devfn), 0, false, &[0x86, 0x80, 1, 0]);
            }
        }
        assert_eq!(functions.all.len(), MOST);
    }

    #[test]
    fn a_bar_is_found_by_address() {
        let mut functions = Functions::default();
        let function = (0, 0, 0x18);
        functions.learn(function, 0, false, &[0x86, 0x80, 1, 0]);
        functions.learn(function, 0x10, true, &[0xff; 4]);
        functions.learn(function, 0x10, false, &0xffff_f000u32.to_le_bytes());
        functions.learn(function, 0x10, true, &0xfeb0_0000u32.to_le_bytes());
        assert_eq!(
            functions.at(Space::Memory, 0xfeb0_0ffc),
            Some((function, 0, 0xffc))
        );
        assert_eq!(functions.at(Space::Memory, 0xfeb0_1000), None);
        assert_eq!(functions.at(Space::Port, 0xfeb0_0000), None);
        assert_eq!(name(function), "00:03.0");
        assert_eq!(name((1, 0, 0x18)), "0001:00:03.0");
    }
}
