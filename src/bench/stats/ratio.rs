//! The ratio of two subjects, with a bootstrap interval.
//!
//! 1. Each round gives the logarithm of the ratio of the two values.
//! 2. A round whose logarithm is further from the median than six standard deviations is left
//!    out, and counted. The deviation is estimated by the median of the distances from the median,
//!    which outliers do not reach. Such a round was disturbed in one turn and not in the other.
//! 3. The estimate is the mean of the logarithms that remain.
//! 4. The interval is the symmetric bootstrap-t interval (Efron and Tibshirani, An Introduction to
//!    the Bootstrap, 12.5; Hall, The Bootstrap and Edgeworth Expansion, 3.5): rounds are drawn with
//!    replacement, and the distance of each draw's mean from the estimate is measured in standard
//!    errors of that draw. With ten rounds it holds the true ratio as often as it says, which the
//!    interval of plain percentiles does not.
//!
//! The draws have a fixed seed, so the same samples give the same interval.

use fastrand::Rng;

use crate::stats::summary::median;

/// Fewer rounds give no interval.
pub const FEWEST: usize = 5;

/// The share of runs that may claim a difference which is not there.
pub const MISSED: f64 = 0.05;

/// The number of draws.
const DRAWS: usize = 10_000;

/// A distance from the median, in standard deviations, beyond which a round is an outlier.
const FAR: f64 = 6.0;

/// The standard deviation of normal values is this multiple of the median of their distances from
/// the median.
const DEVIATION: f64 = 1.4826;

/// Logarithms that differ by less are equal.
const ROUNDING: f64 = 1e-12;

/// The ratio of two subjects.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The estimate.
    pub ratio: f64,
    /// The lower end of the interval.
    pub low: f64,
    /// The upper end of the interval.
    pub high: f64,
    /// The number of rounds.
    pub rounds: usize,
    /// The number of those that were left out as outliers.
    pub outliers: usize,
}

/// What an interval says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The interval holds 1.
    NoDifference,
    /// The value of the second subject is smaller.
    Less,
    /// The value of the second subject is larger.
    More,
}

/// The share of intervals that may miss the true ratio, in all `comparisons` of a run together. By
/// Bonferroni's correction each comparison gets an equal part, so its interval is wider.
pub fn corrected(fraction: f64, comparisons: usize) -> f64 {
    fraction / comparisons.max(1) as f64
}

impl Ratio {
    /// The ratio of `other` to `base`, which have one positive value for each round, in the same
    /// order. `missed` is the share of intervals that may miss the true ratio, such as 0.05.
    /// Returns `None` if there are too few rounds, or a value is not positive.
    pub fn of(base: &[f64], other: &[f64], missed: f64) -> Option<Self> {
        Self::with_draws(base, other, missed, DRAWS)
    }

    pub(super) fn with_draws(
        base: &[f64],
        other: &[f64],
        missed: f64,
        draws: usize,
    ) -> Option<Self> {
        let (base, other) = (logarithms(base)?, logarithms(other)?);
        if base.len() != other.len() {
            return None;
        }
        let all: Vec<f64> = base.iter().zip(&other).map(|(a, b)| b - a).collect();
        let kept = without_outliers(&all);
        let outliers = all.len() - kept.len();
        interval(&[&kept], missed, draws, all.len(), outliers)
    }

    /// The ratio of the values of `other` to those of `base`, which come from two runs, so that no
    /// value of one belongs to a value of the other.
    pub fn of_two_runs(base: &[f64], other: &[f64], missed: f64) -> Option<Self> {
        Self::of_two_runs_with_draws(base, other, missed, DRAWS)
    }

    pub(super) fn of_two_runs_with_draws(
        base: &[f64],
        other: &[f64],
        missed: f64,
        draws: usize,
    ) -> Option<Self> {
        let (base, other) = (logarithms(base)?, logarithms(other)?);
        let all = base.len() + other.len();
        let (base, other) = (without_outliers(&base), without_outliers(&other));
        let outliers = all - base.len() - other.len();
        interval(&[&other, &base], missed, draws, all, outliers)
    }

    /// What the ratios of some machines have in common: each machine counts once, however many
    /// rounds it made, and none is left out as an outlier.
    pub fn over_machines(ratios: &[f64], missed: f64) -> Option<Self> {
        let all = logarithms(ratios)?;
        interval(&[&all], missed, DRAWS, all.len(), 0)
    }

    /// What the interval says.
    pub fn verdict(&self) -> Verdict {
        match self {
            _ if self.low > 1.0 => Verdict::More,
            _ if self.high < 1.0 => Verdict::Less,
            _ => Verdict::NoDifference,
        }
    }

    /// The width of the interval, as a share of the ratio.
    pub fn width(&self) -> f64 {
        (self.high - self.low) / self.ratio
    }
}

/// The logarithms of positive values.
fn logarithms(values: &[f64]) -> Option<Vec<f64>> {
    let positive = |value: &f64| value.is_finite() && *value > 0.0;
    let all = values.iter().all(positive);
    all.then(|| values.iter().map(|value| value.ln()).collect())
}

/// The ratio whose logarithm is the mean of the first set, less that of the second if there is one.
fn interval(
    sets: &[&[f64]],
    missed: f64,
    draws: usize,
    rounds: usize,
    outliers: usize,
) -> Option<Ratio> {
    if sets.iter().any(|set| set.len() < FEWEST) {
        return None;
    }
    let (mean, error) = difference(sets);
    let reach = distance(sets, missed, draws) * error;
    Some(Ratio {
        ratio: mean.exp(),
        low: (mean - reach).exp(),
        high: (mean + reach).exp(),
        rounds,
        outliers,
    })
}

/// The mean of the first set less that of the second, and its standard error.
fn difference(sets: &[&[f64]]) -> (f64, f64) {
    let (mut mean, mut squares) = (0.0, 0.0);
    for (set, sign) in sets.iter().zip([1.0, -1.0]) {
        let (of_set, error) = mean_and_error(set);
        mean += sign * of_set;
        squares += error * error;
    }
    (mean, squares.sqrt())
}

fn without_outliers(values: &[f64]) -> Vec<f64> {
    let centre = median(values);
    let distances: Vec<f64> = values.iter().map(|v| (v - centre).abs()).collect();
    let limit = FAR * DEVIATION * median(&distances);
    let kept = values.iter().zip(&distances);
    // If more than half of the values are equal, the estimate of the deviation is zero.
    kept.filter(|(_, distance)| limit <= ROUNDING || **distance <= limit)
        .map(|(value, _)| *value)
        .collect()
}

/// The mean, and its standard error.
fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0) / n).sqrt())
}

/// The distance from the estimate, in standard errors, that a share of `missed` of all draws is
/// beyond.
fn distance(sets: &[&[f64]], missed: f64, draws: usize) -> f64 {
    // Values around zero: their sums lose no digits.
    let centred = |set: &&[f64]| -> Vec<f64> {
        let (mean, _) = mean_and_error(set);
        set.iter().map(|value| value - mean).collect()
    };
    let (_, error) = difference(sets);
    if error <= ROUNDING {
        return 0.0;
    }
    // A draw of few different values has hardly any spread, and its distance says nothing.
    let least = error / 4.0;
    let sets: Vec<Vec<f64>> = sets.iter().map(centred).collect();
    let mut rng = Rng::with_seed(1);
    let mut draw = || {
        let (mut away, mut variance) = (0.0, 0.0);
        for (set, sign) in sets.iter().zip([1.0, -1.0]) {
            let (mut sum, mut squares) = (0.0, 0.0);
            for _ in 0..set.len() {
                let value = set[rng.usize(..set.len())];
                sum += value;
                squares += value * value;
            }
            let n = set.len() as f64;
            let mean = sum / n;
            away += sign * mean;
            variance += (squares / n - mean * mean).max(0.0) / (n - 1.0);
        }
        away.abs() / variance.sqrt().max(least)
    };
    let mut distances: Vec<f64> = (0..draws).map(|_| draw()).collect();
    // No draw is beyond the share that is asked for: the largest distance is the answer then.
    let at = ((1.0 - missed) * draws as f64).ceil() as usize;
    let at = at.min(draws - 1);
    let (_, found, _) = distances.select_nth_unstable_by(at, f64::total_cmp);
    *found
}
