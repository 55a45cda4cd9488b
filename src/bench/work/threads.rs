//! A thread for each read or write in flight.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Instant;

use crate::error::{Context, Result};
use crate::stats::latency::Latencies;
use crate::work::aligned::Aligned;
use crate::work::queues::{Done, Part, gather};
use crate::work::task::Work;
use crate::work::window::{Positions, Window};
use crate::work::writes::Writes;

/// Does a kind of work on a part of the disk. Returns its times, and what each thread has written.
pub(super) fn run(
    file: &File,
    area: &Range<u64>,
    work: &Work,
    seed: u64,
    (part, window): (Part, Window<'_>),
) -> Result<Done> {
    let first = u64::from(part.number) * u64::from(work.depth);
    let threads = part.of.saturating_mul(work.depth);
    let one = |number: u64| -> Result<Done> {
        let mut positions = Positions::new(work, area, seed.wrapping_add(number << 32))?;
        let mut writes = Writes::new(work, seed, (number, threads));
        let mut buffer = Aligned::new(work.block as usize);
        let mut times = Latencies::default();
        loop {
            if !window.is_open(Instant::now()) {
                return Ok((times, vec![writes]));
            }
            let at = positions.next();
            let is_write = writes.next(at, buffer.bytes());
            // Making the data is no part of the operation.
            let from = Instant::now();
            match is_write {
                false => file
                    .read_exact_at(buffer.bytes(), at)
                    .context(format!("cannot read the disk at {at}"))?,
                true => file
                    .write_all_at(buffer.bytes(), at)
                    .context(format!("cannot write to the disk at {at}"))?,
            }
            window.count(&mut times, from, Instant::now());
        }
    };
    thread::scope(|scope| {
        let all: Vec<_> = (first..first + u64::from(work.depth))
            .map(|number| thread::Builder::new().spawn_scoped(scope, move || one(number)))
            .collect();
        gather(all)
    })
}
