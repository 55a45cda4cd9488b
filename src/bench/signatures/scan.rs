//! Reading the positions of a disk.

use std::collections::BTreeMap;
use std::fmt;

use super::table::{ALL, PARTITION_TABLES, ZFS_LABEL, ZFS_RING, ZFS_SLOT, ZFS_UBERBLOCK};
use crate::error::Result;

/// The unit of reads, a multiple of every block size that disks have.
pub const BLOCK: u64 = 4096;

/// A signature that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// What it stands for.
    pub what: &'static str,
    /// Its offset on the disk.
    pub at: u64,
    /// The number of its bytes.
    pub len: u64,
}

impl Signature {
    /// Whether it stands for a partition table.
    pub fn is_partition_table(&self) -> bool {
        PARTITION_TABLES.iter().any(|(what, ..)| *what == self.what)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at byte {})", self.what, self.at)
    }
}

/// Reads a block of [`BLOCK`] bytes at a multiple of its size. The disk's last block may be
/// shorter.
pub type ReadBlock<'a> = dyn FnMut(u64) -> Result<Vec<u8>> + 'a;

/// All signatures of a disk with `size` bytes.
///
/// # Errors
/// The disk cannot be read.
pub fn find(size: u64, read: &mut ReadBlock<'_>) -> Result<Vec<Signature>> {
    let mut disk = Disk {
        size,
        read,
        blocks: BTreeMap::new(),
    };
    let mut found = Vec::new();
    for (what, positions, values) in ALL.into_iter().flatten() {
        for at in positions.iter().filter_map(|position| position.on(size)) {
            disk.look(what, at, values, &mut found)?;
        }
    }
    let whole = size / ZFS_LABEL * ZFS_LABEL;
    let labels = [
        Some(0),
        Some(ZFS_LABEL),
        whole.checked_sub(2 * ZFS_LABEL),
        whole.checked_sub(ZFS_LABEL),
    ];
    for label in labels.into_iter().flatten() {
        for at in (label + ZFS_RING..label + ZFS_LABEL).step_by(ZFS_SLOT as usize) {
            disk.look("a member of a ZFS pool", at, &ZFS_UBERBLOCK, &mut found)?;
        }
    }
    found.sort_by_key(|signature| signature.at);
    found.dedup();
    Ok(found)
}

struct Disk<'a, 'b> {
    size: u64,
    read: &'a mut ReadBlock<'b>,
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Disk<'_, '_> {
    /// Looks for one of these values at an offset.
    fn look(
        &mut self,
        what: &'static str,
        at: u64,
        values: &[&[u8]],
        found: &mut Vec<Signature>,
    ) -> Result<()> {
        for value in values {
            if self.has(at, value)? {
                let len = value.len() as u64;
                found.push(Signature { what, at, len });
            }
        }
        Ok(())
    }

    fn has(&mut self, at: u64, value: &[u8]) -> Result<bool> {
        for (at, wanted) in (at..).zip(value) {
            if at >= self.size || self.byte(at)? != Some(*wanted) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn byte(&mut self, at: u64) -> Result<Option<u8>> {
        let start = at / BLOCK * BLOCK;
        if !self.blocks.contains_key(&start) {
            let block = (self.read)(start)?;
            self.blocks.insert(start, block);
        }
        let block = self.blocks.get(&start);
        Ok(block.and_then(|block| block.get((at - start) as usize).copied()))
    }
}
