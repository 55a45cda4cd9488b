//! Whether two subjects read the same content: blocks at fixed positions are hashed.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

use crate::error::{Context, Result};
use crate::work::aligned::Aligned;
use crate::work::content::Content;
use crate::work::task::{Order, Work};
use crate::work::window::Positions;

/// The number of blocks.
const BLOCKS: u32 = 64;

/// The same positions for each subject.
const SEED: u64 = 0x6d69_6e69;

/// The bytes of a block.
const BLOCK: usize = 4096;

/// Reads the blocks, the disk's first among them. Returns their hash, how many of them are zero,
/// and how many there are.
pub(super) fn read(file: &File, bytes: u64) -> Result<(String, u32, u32)> {
    let mut buffer = Aligned::new(BLOCK);
    let mut hash = Sha256::new();
    let mut zeros = 0;
    for at in positions(bytes)? {
        let block = buffer.bytes();
        file.read_exact_at(block, at)
            .context(format!("cannot read the disk at {at}"))?;
        zeros += u32::from(block.iter().all(|byte| *byte == 0));
        hash.update(block);
    }
    Ok((hex(&hash.finalize()), zeros, BLOCKS))
}

/// Writes new content to those of the blocks that are in an area.
pub(super) fn write(file: &File, bytes: u64, area: &Range<u64>, seed: u64) -> Result<()> {
    let mut buffer = Aligned::new(BLOCK);
    let content = Content::new(seed, BLOCK);
    for at in positions(bytes)? {
        if area.contains(&at) {
            content.fill(at, buffer.bytes());
            file.write_all_at(buffer.bytes(), at)
                .context(format!("cannot write to the disk at {at}"))?;
        }
    }
    Ok(())
}

/// The offsets of the blocks.
fn positions(bytes: u64) -> Result<Vec<u64>> {
    let work = Work::new(4, 1, Order::Random);
    let mut positions = Positions::new(&work, &(0..bytes), SEED)?;
    Ok((0..BLOCKS)
        .map(|number| match number {
            0 => 0,
            _ => positions.next(),
        })
        .collect())
}

/// The hash of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
