//! A thread for each read in flight.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Instant;

use crate::error::{Context, Error, Result};
use crate::stats::latency::Latencies;
use crate::work::aligned::Aligned;
use crate::work::task::Work;
use crate::work::window::{Positions, Window};

pub(super) fn read(
    file: &File,
    bytes: u64,
    work: &Work,
    seed: u64,
    window: Window<'_>,
) -> Result<Latencies> {
    let one = |number: u64| -> Result<Latencies> {
        let mut positions = Positions::new(work, bytes, seed.wrapping_add(number << 32))?;
        let mut buffer = Aligned::new(work.block as usize);
        let mut times = Latencies::default();
        loop {
            let from = Instant::now();
            if !window.is_open(from) {
                return Ok(times);
            }
            let at = positions.next();
            file.read_exact_at(buffer.bytes(), at)
                .context(format!("cannot read the disk at {at}"))?;
            window.count(&mut times, from, Instant::now());
        }
    };
    thread::scope(|scope| {
        let all: Vec<_> = (0..u64::from(work.depth))
            .map(|number| thread::Builder::new().spawn_scoped(scope, move || one(number)))
            .collect();
        let mut times = Latencies::default();
        for thread in all {
            let thread = thread.context("cannot start a thread")?;
            let part = thread.join().map_err(|_| Error::new("a thread failed"))?;
            times.merge(&part?);
        }
        Ok(times)
    })
}
