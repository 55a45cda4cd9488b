//! Random reads and writes of a disk without the page cache, and a check of all blocks afterwards.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::thread;

use lab::error::Context;
use lab::load::{BLOCK, EXTENT, Operation, Plan, Worker, check, fill};
use lab::{Error, Result};

/// A buffer whose address is aligned for direct I/O.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn new() -> Self {
        let bytes = vec![0; (EXTENT + 1) * BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK);
        Self { bytes, start }
    }

    fn blocks(&mut self, count: usize) -> &mut [u8] {
        &mut self.bytes[self.start..][..count * BLOCK]
    }
}

fn open(disk: &str) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(disk)
        .context(format!("open {disk}"))
}

fn parse(plan: &str) -> Result<Plan> {
    plan.parse().map_err(Error::Failed)
}

/// Runs one round of some of a plan's workers, each on a thread of its own.
pub fn load(disk: &str, plan: &str, workers: &[&str]) -> Result<()> {
    let plan = parse(plan)?;
    let file = &open(disk)?;
    thread::scope(|scope| {
        let mut running = Vec::new();
        for word in workers {
            let number = word.parse().context(format!("find worker {word}"))?;
            running
                .push(scope.spawn(move || work(file, Worker::new(&plan, number), &plan, number)));
        }
        running
            .into_iter()
            .try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(_) => Err(Error::failed("a worker panicked")),
            })
    })
}

fn work(file: &File, mut worker: Worker, plan: &Plan, number: u32) -> Result<()> {
    let mut buffer = Buffer::new();
    let mut done = [0; 2];
    while let Some(operation) = worker.next() {
        let Operation {
            write,
            block,
            count,
        } = operation;
        let bytes = buffer.blocks(count);
        let at = plan.offset(block);
        let each = |bytes| (block..).zip(<[u8]>::chunks_exact_mut(bytes, BLOCK));
        if write {
            for (block, bytes) in each(bytes) {
                fill(block, worker.generation(block), bytes);
            }
            file.write_all_at(buffer.blocks(count), at)
                .context(format!("write block {block}"))?;
        } else {
            file.read_exact_at(bytes, at)
                .context(format!("read block {block}"))?;
            for (block, bytes) in each(bytes) {
                check(block, worker.generation(block), bytes).map_err(Error::Failed)?;
            }
        }
        done[usize::from(write)] += 1;
    }
    println!(
        "L2: loaded worker={number} reads={} writes={}",
        done[0], done[1]
    );
    Ok(())
}

/// Reads all blocks of a plan and compares them with the content that the plan predicts.
pub fn verify(disk: &str, plan: &str) -> Result<()> {
    let plan = parse(plan)?;
    let file = open(disk)?;
    let generations = plan.generations();
    let mut buffer = Buffer::new();
    for (extent, generations) in generations.chunks(EXTENT).enumerate() {
        let first = extent * EXTENT;
        let bytes = buffer.blocks(generations.len());
        file.read_exact_at(bytes, plan.offset(first))
            .context(format!("read block {first}"))?;
        for ((block, generation), bytes) in
            (first..).zip(generations).zip(bytes.chunks_exact(BLOCK))
        {
            check(block, *generation, bytes).map_err(Error::Failed)?;
        }
    }
    let newest = generations.iter().max().copied().unwrap_or(0);
    println!("L2: verified blocks={} newest={newest}", generations.len());
    Ok(())
}
