//! When a run has enough rounds.
//!
//! The rule looks at the width of the intervals and at the clock, never at whether an interval
//! holds 1. A run that went on until a difference appears would find one in the end, by chance
//! alone.

use std::time::Duration;

use crate::stats::ratio::Ratio;

/// The rule of a run.
#[derive(Clone, Copy, Debug)]
pub struct Stopping {
    /// The run has at least so many rounds, if there is time for them.
    pub fewest: usize,
    /// The run has at most so many rounds.
    pub most: usize,
    /// The run ends when no interval is wider than this share of its ratio.
    pub width: f64,
    /// No round starts that is likely to end later.
    pub time: Duration,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// All intervals are narrow enough.
    Width,
    /// The time is over.
    Time,
    /// All rounds were made.
    Rounds,
}

impl Stopping {
    /// Whether the run ends after `rounds` rounds, which took `elapsed` together. `ratios` holds
    /// each comparison's ratio, or `None` where there is no interval yet.
    pub fn ends(
        &self,
        rounds: usize,
        elapsed: Duration,
        ratios: &[Option<Ratio>],
    ) -> Option<Reason> {
        if rounds >= self.most {
            return Some(Reason::Rounds);
        }
        let round = elapsed.checked_div(u32::try_from(rounds).unwrap_or(u32::MAX));
        if rounds > 0 && elapsed + round.unwrap_or_default() > self.time {
            return Some(Reason::Time);
        }
        let narrow = |ratio: &Option<Ratio>| ratio.is_some_and(|r| r.width() <= self.width);
        if rounds >= self.fewest && !ratios.is_empty() && ratios.iter().all(narrow) {
            return Some(Reason::Width);
        }
        None
    }
}
