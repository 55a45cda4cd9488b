//! The writes of a kind of work, and the check of what they have left on the disk.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::error::{Context, Error, Result};
use crate::work::aligned::Aligned;
use crate::work::content::Content;
use crate::work::task::Work;
use crate::work::window::Window;

/// No write comes before this offset, where partition tables, file systems and volumes have their
/// signatures.
const START: u64 = 8 << 20;

/// No write comes into these bytes before the end, for the same reason.
const END: u64 = 1 << 20;

/// The number of blocks that are read again, for all threads together. They are drawn from all that
/// were written.
const KEPT: usize = 2048;

/// The part of a disk that a kind of work uses: all of it for reads alone.
///
/// # Errors
/// The disk is too small for writes.
pub(super) fn area(work: &Work, bytes: u64) -> Result<Range<u64>> {
    if work.writes == 0 {
        return Ok(0..bytes);
    }
    match bytes.checked_sub(END) {
        Some(end) if end > 2 * START => Ok(START..end),
        _ => Err(Error::new(format!(
            "the disk has {bytes} bytes; too few for writes, which leave {START} at its start and \
             {END} at its end as they are"
        ))),
    }
}

/// Decides which operations are writes, and remembers where they went.
pub(super) struct Writes {
    percent: u8,
    rng: fastrand::Rng,
    content: Content,
    kept: Vec<u64>,
    most: usize,
    seen: usize,
}

impl Writes {
    /// The writes of a kind of work. `seed` is the content's. `thread` is one of as many
    /// as `threads`, which write the same content.
    pub(super) fn new(work: &Work, seed: u64, (thread, threads): (u64, u32)) -> Self {
        let len = if work.writes == 0 { 0 } else { work.block };
        Self {
            percent: work.writes,
            rng: fastrand::Rng::with_seed(!seed.wrapping_add(thread << 32)),
            content: Content::new(seed, len as usize),
            kept: Vec::new(),
            most: (KEPT / threads.max(1) as usize).max(1),
            seen: 0,
        }
    }

    /// Whether the next operation is a write. If so, its block is filled.
    pub(super) fn next(&mut self, at: u64, block: &mut [u8]) -> bool {
        if self.percent == 0 || self.rng.u8(..100) >= self.percent {
            return false;
        }
        self.content.fill(at, block);
        self.seen += 1;
        // Each block that was written is kept with the same chance.
        if self.kept.len() < self.most {
            self.kept.push(at);
        } else {
            let index = self.rng.usize(..self.seen);
            if let Some(kept) = self.kept.get_mut(index) {
                *kept = at;
            }
        }
        true
    }

    /// Reads the blocks again that were kept, and compares them with what was written. The last
    /// write must have ended.
    ///
    /// # Errors
    /// A block has other content, or cannot be read; or the user has ended the measurement.
    pub(super) fn check(&self, file: &File, window: &Window<'_>) -> Result<()> {
        let mut buffer = Aligned::new(self.content.len());
        for &at in &self.kept {
            window.goes_on()?;
            let block = buffer.bytes();
            file.read_exact_at(block, at)
                .context(format!("cannot read the disk at {at}"))?;
            if !self.content.is(at, block) {
                return Err(Error::new(format!(
                    "the disk has other content at {at} than was written there"
                )));
            }
        }
        Ok(())
    }

    /// The number of writes.
    #[cfg(test)]
    pub(super) fn seen(&self) -> usize {
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::work::task::{DiskId, Engine, FunctionId, Order, Target, Task};

    #[test]
    fn writes_leave_both_ends_of_the_disk_alone() {
        let write = Work::writing(4, 1, Order::Random, 100);
        let read = Work::new(4, 1, Order::Random);
        assert_eq!(area(&write, 32 << 20).unwrap(), 8 << 20..31 << 20);
        assert_eq!(area(&read, 4096).unwrap(), 0..4096);
        assert!(area(&write, 17 << 20).is_err() && area(&write, 0).is_err());
    }

    #[test]
    fn as_many_operations_write_as_the_work_says() {
        let mut block = vec![0; 4096];
        for (percent, least, most, threads) in
            [(0, 0, 0, 1), (30, 2800, 3200, 8), (100, 10_000, 10_000, 1)]
        {
            let work = Work::writing(4, 1, Order::Random, percent);
            let mut writes = Writes::new(&work, 5, (0, threads));
            let wrote = (0..10_000)
                .filter(|n| writes.next(n * 4096, &mut block))
                .count();
            assert!((least..=most).contains(&wrote), "{percent}: {wrote}");
            assert_eq!(writes.seen(), wrote);
            assert_eq!(writes.kept.len(), wrote.min(KEPT / threads as usize));
        }
    }

    #[test]
    fn the_check_ends_when_the_user_says_so() {
        let task = Task {
            works: Vec::new(),
            warm_up_ms: 0,
            measure_ms: 0,
            engine: Engine::Threads,
            target: Target::Disk(DiskId {
                wwid: None,
                sectors: 0,
            }),
            function: FunctionId::default(),
            destroy: None,
        };
        let work = Work::writing(4, 1, Order::Random, 100);
        let mut writes = Writes::new(&work, 5, (0, 1));
        assert!(writes.next(0, &mut vec![0; 4096]));
        let file = File::open("/dev/null").unwrap();
        for stop in [false, true] {
            let stop = AtomicBool::new(stop);
            let ended = writes.check(&file, &Window::start(&task, &stop));
            let stopped = stop.into_inner();
            assert_eq!(ended.unwrap_err().is_interrupted(), stopped);
        }
    }
}
