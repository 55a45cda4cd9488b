//! What this program writes. The content of a block follows from a seed and the block's offset, so
//! a block that was lost, torn or written elsewhere is found: every 512 bytes have the seed and
//! their own offset. No block begins or ends as a file system does.

/// The unit that a disk writes as a whole at least.
const SECTOR: usize = 512;

/// The start of each sector, before seed and offset.
const MARK: &[u8; 8] = b"mvmbench";

/// The bytes of mark, seed and offset.
const HEAD: usize = 24;

/// The content of blocks by one seed.
#[derive(Clone)]
pub(super) struct Content {
    seed: u64,
    noise: Vec<u8>,
}

impl Content {
    /// The content of blocks with `len` bytes.
    pub(super) fn new(seed: u64, len: usize) -> Self {
        let mut noise = vec![0; len];
        fastrand::Rng::with_seed(seed).fill(&mut noise);
        Self { seed, noise }
    }

    /// The bytes of a block.
    pub(super) fn len(&self) -> usize {
        self.noise.len()
    }

    /// Fills the block at an offset of the disk.
    pub(super) fn fill(&self, at: u64, block: &mut [u8]) {
        block.copy_from_slice(&self.noise);
        for (number, sector) in (0..).zip(block.chunks_exact_mut(SECTOR)) {
            let head = self.head(at + number * SECTOR as u64);
            sector[..HEAD].copy_from_slice(&head);
        }
    }

    /// Whether a block is what was written to an offset.
    pub(super) fn is(&self, at: u64, block: &[u8]) -> bool {
        let sectors = block
            .chunks_exact(SECTOR)
            .zip(self.noise.chunks_exact(SECTOR));
        block.len() == self.noise.len()
            && (0..).zip(sectors).all(|(number, (sector, noise))| {
                let head = self.head(at + number * SECTOR as u64);
                sector[..HEAD] == head && sector[HEAD..] == noise[HEAD..]
            })
    }

    fn head(&self, at: u64) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(MARK);
        head[8..16].copy_from_slice(&self.seed.to_le_bytes());
        head[16..].copy_from_slice(&at.to_le_bytes());
        head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_torn_and_misplaced_blocks_are_found() {
        let content = Content::new(7, 4096);
        let mut block = vec![0; 4096];
        content.fill(8192, &mut block);
        assert!(content.is(8192, &block));
        assert!(!content.is(4096, &block) && !Content::new(8, 4096).is(8192, &block));
        assert!(!content.is(8192, &block[..2048]));
        let mut older = vec![0; 4096];
        Content::new(6, 4096).fill(8192, &mut older);
        for torn in 0..8 {
            let mut block = block.clone();
            let sector = torn * SECTOR..(torn + 1) * SECTOR;
            block[sector.clone()].copy_from_slice(&older[sector]);
            assert!(!content.is(8192, &block), "{torn}");
        }
        block[4095] ^= 1;
        assert!(!content.is(8192, &block));
    }
}
