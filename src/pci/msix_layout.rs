//! The positions of MSI-X's vector table and pending bits in a function's BARs (PCI Express 6.0,
//! 7.7.2: Table Offset/BIR and PBA Offset/BIR).

use crate::byte_enable::touches;
use crate::msix::{ENTRY_SIZE, MsixCapability};

/// The two structures of MSI-X in the BARs of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixLayout {
    vectors: u16,
    table: Structure,
    pending: Structure,
}

/// The table or the pending bits: a range of bytes in a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Structure {
    bar: usize,
    offset: u64,
    size: u64,
}

impl Structure {
    fn touches(&self, bar: usize, offset: u64, len: usize) -> bool {
        self.bar == bar && touches(offset, len, self.offset, self.size)
    }

    /// The offset, in the structure, of an access that lies wholly inside; `None` for any other
    /// access.
    fn inside(&self, offset: u64, len: usize) -> Option<u64> {
        let at = offset.checked_sub(self.offset)?;
        (at.checked_add(len as u64)? <= self.size).then_some(at)
    }
}

/// The part of MSI-X that an access touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsixPart {
    /// The vector table, at this offset in the table.
    Table(u64),
    /// The pending bits, at this offset in the array.
    Pending(u64),
    /// A part of the table or of the pending bits, and other bytes. No driver makes such an access.
    Straddling,
}

impl MsixLayout {
    /// The layout that a capability describes. The caller must check that the structures fit into
    /// their BARs.
    pub fn of(capability: &MsixCapability) -> Self {
        Self {
            vectors: capability.vectors,
            table: Structure {
                bar: capability.table_bar.into(),
                offset: capability.table_offset.into(),
                size: capability.table_size(),
            },
            pending: Structure {
                bar: capability.pba_bar.into(),
                offset: capability.pba_offset.into(),
                size: capability.pba_size(),
            },
        }
    }

    /// The number of entries in the table.
    pub fn vectors(&self) -> u16 {
        self.vectors
    }

    /// The ranges of a BAR, as offset and size, that hold the table or the pending bits, and
    /// therefore are virtual.
    pub fn ranges(&self, bar: usize) -> Vec<(u64, u64)> {
        [self.table, self.pending]
            .iter()
            .filter(|structure| structure.bar == bar)
            .map(|structure| (structure.offset, structure.size))
            .collect()
    }

    /// The part of MSI-X that an access of `len` bytes at `offset` of a BAR touches; `None` if the
    /// access touches neither.
    pub fn part_at(&self, bar: usize, offset: u64, len: usize) -> Option<MsixPart> {
        if self.table.touches(bar, offset, len) {
            let at = self.table.inside(offset, len);
            Some(at.map_or(MsixPart::Straddling, MsixPart::Table))
        } else if self.pending.touches(bar, offset, len) {
            let at = self.pending.inside(offset, len);
            Some(at.map_or(MsixPart::Straddling, MsixPart::Pending))
        } else {
            None
        }
    }

    /// The table's entries from vector `first` on: the BAR, and offset and size in the BAR. `None`
    /// if the table has no such entry.
    pub fn entries_from(&self, first: u16) -> Option<(usize, u64, u64)> {
        let skipped = u64::from(first) * ENTRY_SIZE;
        let size = self.table.size.checked_sub(skipped)?;
        let offset = self.table.offset.checked_add(skipped)?;
        Some((self.table.bar, offset, size))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout() -> MsixLayout {
        MsixLayout::of(&MsixCapability {
            offset: 0x90,
            vectors: 65,
            table_bar: 0,
            table_offset: 0x2000,
            pba_bar: 4,
            pba_offset: 0x100,
        })
    }

    #[test]
    fn each_structure_is_in_its_bar() {
        let layout = layout();
        assert_eq!(layout.ranges(0), [(0x2000, 65 * 16)]);
        // 65 bits are two quadwords.
        assert_eq!(layout.ranges(4), [(0x100, 16)]);
        assert_eq!(layout.ranges(1), []);
        assert_eq!(layout.entries_from(1), Some((0, 0x2010, 64 * 16)));
        assert_eq!(layout.entries_from(66), None);
    }

    #[test]
    fn an_access_belongs_to_one_part() {
        let part = |bar, offset, len| layout().part_at(bar, offset, len);
        assert_eq!(part(0, 0x2014, 4), Some(MsixPart::Table(0x14)));
        assert_eq!(part(4, 0x108, 8), Some(MsixPart::Pending(8)));
        assert_eq!(part(0, 0x100, 4), None);
        assert_eq!(part(4, 0x2000, 4), None);
        assert_eq!(part(0, 0x1ffe, 4), Some(MsixPart::Straddling));
        assert_eq!(part(0, 0x2410, 4), None);
        assert_eq!(part(0, 0x240c, 8), Some(MsixPart::Straddling));
        assert_eq!(part(4, 0xfc, 8), Some(MsixPart::Straddling));
        assert_eq!(part(0, u64::MAX, 8), None);
    }

    proptest! {
        #[test]
        fn parts_are_in_the_ranges(bar in 0usize..6, offset in 0u64..0x3000, len in 1usize..9) {
            let layout = layout();
            let touched = |(start, size): &(u64, u64)| touches(offset, len, *start, *size);
            let part = layout.part_at(bar, offset, len);
            prop_assert_eq!(part.is_some(), layout.ranges(bar).iter().any(touched));
        }
    }
}
