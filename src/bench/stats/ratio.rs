//! The ratio of two subjects, with a bootstrap interval.
//!
//! 1. Each round gives the logarithm of the ratio of the two values.
//! 2. A round whose logarithm is further from the median than [`FAR`] standard deviations is left
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
        let positive = |value: &f64| value.is_finite() && *value > 0.0;
        if base.len() != other.len() || !base.iter().chain(other).all(positive) {
            return None;
        }
        let all: Vec<f64> = base.iter().zip(other).map(|(a, b)| (b / a).ln()).collect();
        let kept = without_outliers(&all);
        if kept.len() < FEWEST {
            return None;
        }
        let (mean, error) = mean_and_error(&kept);
        let reach = distance(&kept, missed, draws) * error;
        Some(Self {
            ratio: mean.exp(),
            low: (mean - reach).exp(),
            high: (mean + reach).exp(),
            rounds: all.len(),
            outliers: all.len() - kept.len(),
        })
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
fn distance(values: &[f64], missed: f64, draws: usize) -> f64 {
    let (centre, _) = mean_and_error(values);
    let mut rng = Rng::with_seed(1);
    let n = values.len();
    let mut distances: Vec<f64> = (0..draws)
        .map(|_| {
            let (mut sum, mut squares) = (0.0, 0.0);
            for _ in 0..n {
                let value = values[rng.usize(..n)] - centre;
                sum += value;
                squares += value * value;
            }
            let mean = sum / n as f64;
            let spread = (squares / n as f64 - mean * mean).max(0.0);
            let error = (spread / (n as f64 - 1.0)).sqrt();
            // A draw of one value alone has no spread but that of rounding.
            match error > ROUNDING {
                true => (mean / error).abs(),
                false if mean.abs() <= ROUNDING => 0.0,
                false => f64::INFINITY,
            }
        })
        .collect();
    // No draw is beyond the share that is asked for: the largest distance is the answer then.
    let at = ((1.0 - missed) * draws as f64).ceil() as usize;
    let at = at.min(draws - 1);
    let (_, found, _) = distances.select_nth_unstable_by(at, f64::total_cmp);
    *found
}
