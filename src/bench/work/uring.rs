//! Several reads and writes in flight by one thread, with the kernel's rings (io_uring(7)).

use std::fs::File;
use std::io;
use std::mem;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::time::Instant;

use io_uring::{IoUring, opcode, types};

use crate::error::{Context, Error, Result};
use crate::stats::latency::Latencies;
use crate::work::aligned::Aligned;
use crate::work::queues::{Done, Part};
use crate::work::task::Work;
use crate::work::window::{Positions, Window};
use crate::work::writes::Writes;

/// Whether this kernel lets this process use the rings.
pub fn is_there() -> bool {
    IoUring::new(1).is_ok()
}

/// A read or write in flight.
struct Slot {
    buffer: Aligned,
    from: Instant,
    at: u64,
    writes: bool,
}

/// The ring, with the buffers that the kernel reads and writes.
struct Operations<'a> {
    ring: IoUring,
    slots: Vec<Slot>,
    in_flight: usize,
    file: &'a File,
    positions: Positions,
    writes: Writes,
}

/// Does a kind of work on a part of the disk. Returns its times, and what was written.
pub(super) fn run(
    file: &File,
    area: &Range<u64>,
    work: &Work,
    seed: u64,
    (part, window): (Part, Window<'_>),
) -> Result<Done> {
    let ring = IoUring::new(work.depth).context("cannot use io_uring")?;
    let number = u64::from(part.number);
    let now = Instant::now();
    let slot = |_| Slot {
        buffer: Aligned::new(work.block as usize),
        from: now,
        at: 0,
        writes: false,
    };
    let mut operations = Operations {
        ring,
        slots: (0..work.depth).map(slot).collect(),
        in_flight: 0,
        file,
        positions: Positions::new(work, area, seed.wrapping_add(number << 32))?,
        writes: Writes::new(work, seed, (number, part.of)),
    };
    let times = operations.run(work.block, window);
    operations.drain();
    Ok((times?, vec![operations.writes]))
}

impl Operations<'_> {
    fn run(&mut self, block: u32, window: Window<'_>) -> Result<Latencies> {
        let mut times = Latencies::default();
        for index in 0..self.slots.len() {
            self.push(index, block)?;
        }
        loop {
            self.wait()?;
            let ended: Vec<(u64, i32)> = self
                .ring
                .completion()
                .map(|entry| (entry.user_data(), entry.result()))
                .collect();
            let now = Instant::now();
            self.in_flight -= ended.len();
            for (index, result) in ended {
                // `user_data` is the index that `push` gave.
                let index = index as usize;
                let slot = &self.slots[index];
                let from = slot.from;
                check(result, block, slot)?;
                window.count(&mut times, from, now);
                if window.is_open(now) {
                    self.push(index, block)?;
                }
            }
            if self.in_flight == 0 {
                return Ok(times);
            }
        }
    }

    fn push(&mut self, index: usize, block: u32) -> Result<()> {
        let slot = &mut self.slots[index];
        slot.at = self.positions.next();
        slot.writes = self.writes.next(slot.at, slot.buffer.bytes());
        let file = types::Fd(self.file.as_raw_fd());
        let bytes = slot.buffer.bytes().as_mut_ptr();
        let entry = match slot.writes {
            false => opcode::Read::new(file, bytes, block)
                .offset(slot.at)
                .build(),
            true => opcode::Write::new(file, bytes, block)
                .offset(slot.at)
                .build(),
        };
        let entry = entry.user_data(index as u64);
        // Making the data is no part of the operation.
        slot.from = Instant::now();
        // SAFETY: the file stays open, and the slot's buffer stays allocated and untouched, until
        // the operation has ended: `drain` waits for all of them, or gives the buffers up.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(|_| Error::new("the queue of io_uring is full"))?;
        self.in_flight += 1;
        Ok(())
    }

    /// Submits what is queued, and waits for at least one operation.
    fn wait(&mut self) -> Result<()> {
        loop {
            match self.ring.submit_and_wait(1) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(drop).context("io_uring failed"),
            }
        }
    }

    /// Waits for all operations. The kernel uses the buffers until then, so they are never freed
    /// if it cannot be waited for.
    fn drain(&mut self) {
        while self.in_flight > 0 {
            if self.wait().is_err() {
                mem::forget(mem::take(&mut self.slots));
                return;
            }
            self.in_flight -= self.ring.completion().count();
        }
    }
}

fn check(result: i32, block: u32, slot: &Slot) -> Result<()> {
    let (what, at) = match slot.writes {
        false => ("read the disk", slot.at),
        true => ("write to the disk", slot.at),
    };
    match u32::try_from(result) {
        Ok(done) if done == block => Ok(()),
        Ok(done) => Err(Error::new(format!(
            "cannot {what} at {at}: {done} bytes of {block} were done"
        ))),
        Err(_) => {
            let error = io::Error::from_raw_os_error(-result);
            Err(error).context(format!("cannot {what} at {at}"))
        }
    }
}
