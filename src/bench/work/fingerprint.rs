//! Whether two subjects read the same content: blocks at fixed positions are hashed.

use std::fs::File;
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

use crate::error::{Context, Result};
use crate::work::aligned::Aligned;
use crate::work::task::{Message, Order, Work};
use crate::work::window::Positions;

/// The number of blocks.
const BLOCKS: u32 = 64;

/// The same positions for each subject.
const SEED: u64 = 0x6d69_6e69;

/// Reads the blocks, the disk's first among them.
pub(super) fn read(file: &File, bytes: u64) -> Result<Message> {
    let work = Work::new(4, 1, Order::Random);
    let mut positions = Positions::new(&work, bytes, SEED)?;
    let mut buffer = Aligned::new(work.block as usize);
    let mut hash = Sha256::new();
    let mut zeros = 0;
    for number in 0..BLOCKS {
        let at = if number == 0 { 0 } else { positions.next() };
        let block = buffer.bytes();
        file.read_exact_at(block, at)
            .context(format!("cannot read the disk at {at}"))?;
        zeros += u32::from(block.iter().all(|byte| *byte == 0));
        hash.update(block);
    }
    Ok(Message::Content {
        sha256: hex(&hash.finalize()),
        zeros,
        blocks: BLOCKS,
    })
}

/// The hash of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
