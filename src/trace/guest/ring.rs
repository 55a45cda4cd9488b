//! KVM's ring of coalesced writes (`struct kvm_coalesced_mmio_ring`; api.rst, 4.116). The traced
//! program removes writes from the ring at a time of its own; this reader has its own cursor.
//!
//! A ring of 170 entries that goes round once between two looks loses writes for this reader, and
//! nothing in the ring tells so. The ring is therefore looked at after each KVM_RUN of any vCPU.

use crate::guest::access::{Access, Register, Space};

/// Bytes of the two indexes.
pub const HEADER: usize = 8;
/// Bytes of an entry.
pub const ENTRY: usize = 24;
/// Entries in a page.
pub const ENTRIES: u32 = ((4096 - HEADER) / ENTRY) as u32;

/// The next entry that this reader has not seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor(u32);

impl Cursor {
    /// Entries that are new, by the ring's header: index of the first, and their number.
    pub fn new_entries(&self, header: [u8; HEADER]) -> (u32, u32) {
        let last = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        match last < ENTRIES {
            true => (self.0, (last + ENTRIES - self.0) % ENTRIES),
            // The page is not a ring, or the program has overwritten the header.
            false => (self.0, 0),
        }
    }

    /// So many entries have been read.
    pub fn advance(&mut self, entries: u32) {
        self.0 = (self.0 + entries % ENTRIES) % ENTRIES;
    }
}

/// Offset of an entry in the page.
pub fn offset(index: u32) -> u64 {
    HEADER as u64 + u64::from(index % ENTRIES) * ENTRY as u64
}

/// Decodes an entry.
pub fn parse(entry: &[u8; ENTRY]) -> Access {
    let mut address = [0; 8];
    address.copy_from_slice(&entry[..8]);
    let width = entry[8].min(8);
    Access {
        register: Register {
            space: match entry[12] {
                0 => Space::Memory,
                _ => Space::Port,
            },
            address: u64::from_le_bytes(address),
            write: true,
        },
        width,
        count: 1,
        data: entry[16..16 + usize::from(width)].to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(first: u32, last: u32) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&first.to_le_bytes());
        bytes[4..].copy_from_slice(&last.to_le_bytes());
        bytes
    }

    #[test]
    fn each_entry_is_read_once() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.new_entries(header(0, 3)), (0, 3));
        cursor.advance(3);
        // That the program has removed them changes nothing.
        assert_eq!(cursor.new_entries(header(3, 3)), (3, 0));
        assert_eq!(cursor.new_entries(header(3, 169)), (3, 166));
        cursor.advance(166);
        assert_eq!(cursor.new_entries(header(169, 2)), (169, 3));
        cursor.advance(3);
        assert_eq!(cursor.new_entries(header(169, 2)), (2, 0));
    }

    #[test]
    fn an_index_out_of_range_is_no_entry() {
        let cursor = Cursor::default();
        assert_eq!(cursor.new_entries(header(0, 170)).1, 0);
        assert_eq!(cursor.new_entries(header(0, u32::MAX)).1, 0);
        assert!(offset(u32::MAX) + ENTRY as u64 <= 4096);
    }

    #[test]
    fn an_entry() {
        let mut entry = [0; ENTRY];
        entry[..2].copy_from_slice(&[0xf8, 0x0c]);
        entry[8] = 4;
        entry[12] = 1;
        entry[16..20].copy_from_slice(&0x8000_0010u32.to_le_bytes());
        let access = parse(&entry);
        assert_eq!(access.register.space, Space::Port);
        assert_eq!(access.value(), Some(0x8000_0010));
        entry[8] = 0xff;
        assert_eq!(parse(&entry).data.len(), 8);
    }
}
