//! Warm-up and measurement: which reads count, and when to stop.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::stats::latency::Latencies;
use crate::work::task::{Order, Task, Work};

/// The time of a kind of work.
#[derive(Clone, Copy)]
pub(super) struct Window<'a> {
    begin: Instant,
    end: Instant,
    times: (Duration, Duration),
    all: bool,
    stop: &'a AtomicBool,
}

impl<'a> Window<'a> {
    /// The window of a task's work that starts now. `stop` ends it early.
    pub(super) fn start(task: &Task, stop: &'a AtomicBool) -> Self {
        let ms = Duration::from_millis;
        Self::of(ms(task.warm_up_ms), ms(task.measure_ms), stop)
    }

    /// The same with these times.
    pub(super) fn of(warm_up: Duration, measure: Duration, stop: &'a AtomicBool) -> Self {
        let begin = Instant::now() + warm_up;
        Self {
            begin,
            end: begin + measure,
            times: (warm_up, measure),
            all: false,
            stop,
        }
    }

    /// The same window, which starts now.
    pub(super) fn again(self) -> Self {
        let (warm_up, measure) = self.times;
        let all = self.all;
        Self {
            all,
            ..Self::of(warm_up, measure, self.stop)
        }
    }

    /// The same window, in which every read counts.
    pub(super) fn count_all(self) -> Self {
        Self { all: true, ..self }
    }

    /// Whether another read may start now.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        now < self.end && !self.stop.load(Ordering::Relaxed)
    }

    /// Counts a read; its time counts if it ended within the measurement.
    pub(super) fn count(&self, times: &mut Latencies, from: Instant, to: Instant) {
        if self.counts(to) {
            let time = (to - from).as_nanos();
            times.add(u64::try_from(time).unwrap_or(u64::MAX));
        } else {
            times.add_other();
        }
    }

    /// Whether what ends now counts.
    pub(super) fn counts(&self, now: Instant) -> bool {
        self.all || (self.begin..self.end).contains(&now)
    }

    /// The length of the measurement in seconds.
    ///
    /// # Errors
    /// The user has ended the measurement.
    pub(super) fn seconds(&self) -> Result<f64> {
        self.goes_on()?;
        Ok((self.end - self.begin).as_secs_f64())
    }

    /// Checks that the user has not ended the measurement.
    ///
    /// # Errors
    /// The user has.
    pub(super) fn goes_on(&self) -> Result<()> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(Error::interrupted()),
            false => Ok(()),
        }
    }
}

/// The positions of the blocks to read.
pub(super) struct Positions {
    rng: fastrand::Rng,
    order: Order,
    start: u64,
    block: u64,
    blocks: u64,
    next: u64,
}

impl Positions {
    /// The positions for one kind of work on a part of a disk, which begins at a multiple of the
    /// block.
    ///
    /// # Errors
    /// The part is smaller than a block.
    pub(super) fn new(work: &Work, area: &Range<u64>, seed: u64) -> Result<Self> {
        let block = u64::from(work.block);
        let bytes = area.end - area.start;
        let blocks = bytes / block;
        if blocks == 0 {
            return Err(Error::new(format!(
                "the disk has {bytes} bytes, less than one block of {block}"
            )));
        }
        let mut rng = fastrand::Rng::with_seed(seed);
        let next = rng.u64(..blocks);
        Ok(Self {
            rng,
            order: work.order,
            start: area.start,
            block,
            blocks,
            next,
        })
    }

    /// The next position in bytes.
    pub(super) fn next(&mut self) -> u64 {
        let number = match self.order {
            Order::Random => self.rng.u64(..self.blocks),
            Order::Sequential => {
                let number = self.next;
                self.next = (number + 1) % self.blocks;
                number
            }
        };
        self.start + number * self.block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_stay_on_the_disk() {
        for order in [Order::Random, Order::Sequential] {
            let work = Work::new(4, 1, order);
            let mut positions = Positions::new(&work, &(0..10 * 4096 + 17), 3).unwrap();
            let all: Vec<u64> = (0..100).map(|_| positions.next()).collect();
            assert!(all.iter().all(|at| at % 4096 == 0 && *at <= 9 * 4096));
            if order == Order::Sequential {
                let follows = |pair: &[u64]| pair[1] == (pair[0] + 4096) % (10 * 4096);
                assert!(all.windows(2).all(follows), "{all:?}");
            }
        }
        assert!(Positions::new(&Work::new(4, 1, Order::Random), &(0..4095), 3).is_err());
    }
}
