//! A comparison of two subjects.

use serde::{Deserialize, Serialize};

/// A comparison of two subjects by one kind of work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// The name of the work.
    pub work: String,
    /// The index of the subject that the other is compared with.
    pub base: usize,
    /// The index of the other subject.
    pub other: usize,
    /// The quantity.
    pub quantity: String,
    /// The value of `other` divided by that of `base`; null if there are too few rounds.
    pub ratio: Option<f64>,
    /// The interval of the ratio.
    pub interval: Option<(f64, f64)>,
    /// Rounds that were left out as outliers.
    pub outliers: usize,
    /// `no difference`, `less`, `more`, or `too few rounds`.
    pub verdict: String,
}
