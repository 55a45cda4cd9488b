//! Several reads in flight by one thread, with the kernel's rings (io_uring(7)).

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::time::Instant;

use io_uring::{IoUring, opcode, types};

use crate::error::{Context, Error, Result};
use crate::stats::latency::Latencies;
use crate::work::aligned::Aligned;
use crate::work::task::Work;
use crate::work::window::{Positions, Window};

/// Whether this kernel lets this process use the rings.
pub fn is_there() -> bool {
    IoUring::new(1).is_ok()
}

/// A read in flight.
struct Slot {
    buffer: Aligned,
    from: Instant,
    at: u64,
}

/// The ring, with the buffers into which the kernel reads.
struct Reads<'a> {
    ring: IoUring,
    slots: Vec<Slot>,
    in_flight: usize,
    file: &'a File,
}

pub(super) fn read(
    file: &File,
    bytes: u64,
    work: &Work,
    seed: u64,
    window: Window<'_>,
) -> Result<Latencies> {
    let mut positions = Positions::new(work, bytes, seed)?;
    let ring = IoUring::new(work.depth).context("cannot use io_uring")?;
    let now = Instant::now();
    let slot = |_| Slot {
        buffer: Aligned::new(work.block as usize),
        from: now,
        at: 0,
    };
    let mut reads = Reads {
        ring,
        slots: (0..work.depth).map(slot).collect(),
        in_flight: 0,
        file,
    };
    let times = reads.run(&mut positions, work.block, window);
    reads.drain();
    times
}

impl Reads<'_> {
    fn run(
        &mut self,
        positions: &mut Positions,
        block: u32,
        window: Window<'_>,
    ) -> Result<Latencies> {
        let mut times = Latencies::default();
        for index in 0..self.slots.len() {
            self.push(index, positions.next(), block)?;
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
                let Slot { from, at, .. } = self.slots[index];
                check(result, block, at)?;
                window.count(&mut times, from, now);
                if window.is_open(now) {
                    self.push(index, positions.next(), block)?;
                }
            }
            if self.in_flight == 0 {
                return Ok(times);
            }
        }
    }

    fn push(&mut self, index: usize, at: u64, block: u32) -> Result<()> {
        let slot = &mut self.slots[index];
        (slot.from, slot.at) = (Instant::now(), at);
        let file = types::Fd(self.file.as_raw_fd());
        let entry = opcode::Read::new(file, slot.buffer.bytes().as_mut_ptr(), block)
            .offset(at)
            .build()
            .user_data(index as u64);
        // SAFETY: the file stays open, and the slot's buffer stays allocated and untouched, until
        // the read has ended: `drain` waits for all of them, or gives the buffers up.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(|_| Error::new("the queue of io_uring is full"))?;
        self.in_flight += 1;
        Ok(())
    }

    /// Submits what is queued, and waits for at least one read.
    fn wait(&mut self) -> Result<()> {
        loop {
            match self.ring.submit_and_wait(1) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(drop).context("io_uring failed"),
            }
        }
    }

    /// Waits for all reads. The kernel writes into the buffers until then, so they are never freed
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

fn check(result: i32, block: u32, at: u64) -> Result<()> {
    let read = match u32::try_from(result) {
        Ok(read) => read,
        Err(_) => {
            let error = io::Error::from_raw_os_error(-result);
            return Err(error).context(format!("cannot read the disk at {at}"));
        }
    };
    match read == block {
        true => Ok(()),
        false => Err(Error::new(format!(
            "the disk gave {read} bytes of {block} at {at}"
        ))),
    }
}
