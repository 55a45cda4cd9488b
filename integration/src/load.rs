//! Random reads and writes of a disk by several workers at once, with results that can be
//! predicted.
//!
//! A [`Plan`] determines the blocks that each worker reads or writes, their order, and the content
//! of each block after each write. A worker therefore knows the result of each read. The guest and
//! the lab both have the plan, so both know the content of the whole disk afterwards.

use std::fmt;
use std::str::FromStr;

use crate::random::Random;

/// Bytes of a block, the unit of reads and writes.
pub const BLOCK: usize = 4096;

/// The number of blocks in an extent. Each extent belongs to one worker, and the extents go to the
/// workers in turn. A read or write never crosses the end of an extent.
pub const EXTENT: usize = 16;

const MIB: u64 = 1 << 20;

/// A plan of reads and writes on a disk. Its text form lists the numbers, separated by commas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The offset of the blocks on the disk, in MiB.
    pub at: u64,
    /// The size of all blocks, in MiB.
    pub size: u64,
    /// The number of workers, which run at the same time.
    pub workers: u32,
    /// Reads and writes of each worker in each round.
    pub operations: u32,
    /// The number of earlier rounds. A round starts with the disk content at the end of the earlier
    /// round.
    pub round: u32,
}

impl Plan {
    /// The plan of another round of the same workers.
    pub const fn in_round(self, round: u32) -> Self {
        Self { round, ..self }
    }

    /// The offset of a block on the disk, in bytes.
    pub fn offset(&self, block: usize) -> u64 {
        self.at * MIB + (block * BLOCK) as u64
    }

    /// The number of blocks.
    pub fn blocks(&self) -> usize {
        usize::try_from(self.size * MIB).unwrap_or(usize::MAX) / BLOCK
    }

    /// The generation of each block at the end of this round: the number of times that the block
    /// was written.
    pub fn generations(&self) -> Vec<u32> {
        let mut all = vec![0; self.blocks()];
        for round in 0..=self.round {
            for number in 0..self.workers {
                let mut worker = Worker::of(&self.in_round(round), number, all);
                while worker.next().is_some() {}
                all = worker.generations;
            }
        }
        all
    }

    /// The content of all blocks before the first round.
    pub fn fresh(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.blocks() * BLOCK];
        for (block, bytes) in bytes.chunks_exact_mut(BLOCK).enumerate() {
            fill(block, 0, bytes);
        }
        bytes
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            at,
            size,
            workers,
            operations,
            round,
        } = self;
        write!(f, "{at},{size},{workers},{operations},{round}")
    }
}

impl FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Vec<u32> = text
            .split(',')
            .map(|word| word.parse().map_err(|_| format!("not a plan: {text}")))
            .collect::<Result<_, _>>()?;
        let &[at, size, workers, operations, round] = numbers.as_slice() else {
            return Err(format!("a plan has five numbers: {text}"));
        };
        Ok(Self {
            at: at.into(),
            size: size.into(),
            workers,
            operations,
            round,
        })
    }
}

/// One read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Whether the operation is a write.
    pub write: bool,
    /// The first block.
    pub block: usize,
    /// The number of blocks, at most [`EXTENT`].
    pub count: usize,
}

/// One worker's sequence of operations in one round.
#[derive(Clone, Debug)]
pub struct Worker {
    plan: Plan,
    number: u32,
    left: u32,
    random: Random,
    generations: Vec<u32>,
}

impl Worker {
    /// Worker `number` of a plan, at the start of the plan's round.
    pub fn new(plan: &Plan, number: u32) -> Self {
        let before = match plan.round {
            0 => vec![0; plan.blocks()],
            round => plan.in_round(round - 1).generations(),
        };
        Self::of(plan, number, before)
    }

    fn of(plan: &Plan, number: u32, generations: Vec<u32>) -> Self {
        let seed = u64::from(plan.round) << 32 | u64::from(number);
        Self {
            plan: *plan,
            number,
            left: plan.operations,
            random: Random::new(seed),
            generations,
        }
    }

    /// The generation of one of this worker's blocks after all operations up to now.
    pub fn generation(&self, block: usize) -> u32 {
        self.generations.get(block).copied().unwrap_or(0)
    }
}

impl Iterator for Worker {
    type Item = Operation;

    /// Returns the next operation. If the operation is a write, its blocks already have their new
    /// generations.
    fn next(&mut self) -> Option<Operation> {
        self.left = self.left.checked_sub(1)?;
        let workers = self.plan.workers as usize;
        let extents = self.plan.blocks() / EXTENT / workers;
        let extent = self.random.below(extents) * workers + self.number as usize;
        let start = self.random.below(EXTENT);
        let operation = Operation {
            write: self.random.below(2) == 1,
            block: extent * EXTENT + start,
            count: 1 + self.random.below(EXTENT - start),
        };
        if operation.write {
            for generation in &mut self.generations[operation.block..][..operation.count] {
                *generation += 1;
            }
        }
        Some(operation)
    }
}

/// Fills `bytes` with the content of a block in a generation: the two numbers, then noise that is
/// computed from both.
pub fn fill(block: usize, generation: u32, bytes: &mut [u8]) {
    let head = (block as u64) << 32 | u64::from(generation);
    let mut random = Random::new(head);
    for (n, word) in bytes.chunks_exact_mut(8).enumerate() {
        let value = if n == 0 { head } else { random.number() };
        word.copy_from_slice(&value.to_le_bytes());
    }
}

/// Checks that `bytes` are the content of a block in a generation.
///
/// # Errors
/// A message names the block and the generation in `bytes`.
pub fn check(block: usize, generation: u32, bytes: &[u8]) -> Result<(), String> {
    let mut wanted = vec![0; bytes.len()];
    fill(block, generation, &mut wanted);
    let Some(at) = bytes.iter().zip(&wanted).position(|(a, b)| a != b) else {
        return Ok(());
    };
    let head = bytes
        .first_chunk()
        .map_or(0, |head| u64::from_le_bytes(*head));
    Err(format!(
        "block {block} should be of generation {generation}, and differs from byte {at} on: its \
         start is that of block {} of generation {}",
        head >> 32,
        head & 0xffff_ffff
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan {
        at: 16,
        size: 2,
        workers: 3,
        operations: 200,
        round: 0,
    };

    #[test]
    fn a_plan_is_the_same_after_a_command_line() {
        assert_eq!(PLAN.to_string(), "16,2,3,200,0");
        assert_eq!("16,2,3,200,0".parse(), Ok(PLAN));
        assert!("16,2,3,200".parse::<Plan>().is_err());
        assert!("16,2,3,x,0".parse::<Plan>().is_err());
    }

    #[test]
    fn workers_keep_to_their_own_blocks_and_leave_what_the_plan_says() {
        let mut written = vec![0_u32; PLAN.blocks()];
        for round in 0..2 {
            for number in 0..PLAN.workers {
                let mut worker = Worker::new(&PLAN.in_round(round), number);
                let mut writes = 0;
                while let Some(operation) = worker.next() {
                    let Operation {
                        write,
                        block,
                        count,
                    } = operation;
                    assert!((1..=EXTENT).contains(&count));
                    assert_eq!(block / EXTENT, (block + count - 1) / EXTENT);
                    assert_eq!(block / EXTENT % 3, number as usize);
                    if write {
                        writes += 1;
                        for (n, times) in written[block..][..count].iter_mut().enumerate() {
                            *times += 1;
                            assert_eq!(worker.generation(block + n), *times);
                        }
                    }
                }
                assert!((50..150).contains(&writes), "{writes} of 200 are writes");
            }
            assert_eq!(PLAN.in_round(round).generations(), written);
        }
    }

    #[test]
    fn old_content_and_content_of_another_block_are_told_apart() {
        let mut bytes = [0; BLOCK];
        fill(7, 3, &mut bytes);
        check(7, 3, &bytes).unwrap();
        assert!(check(7, 2, &bytes).unwrap_err().contains("of generation 3"));
        assert!(check(8, 3, &bytes).unwrap_err().contains("of block 7"));
        bytes[BLOCK - 1] ^= 1;
        assert!(check(7, 3, &bytes).unwrap_err().contains("byte 4095"));
    }
}
