//! The ratios of the subjects.

use serde::{Deserialize, Serialize};

use crate::report::results::Results;
use crate::stats::ratio::{MISSED, Ratio, Verdict, corrected};
use crate::subjects::list::pairs;
use crate::work::quantity;

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

/// All comparisons of a run. Their intervals are corrected for their number.
pub fn of(results: &Results) -> Vec<Comparison> {
    let pairs = pairs(&results.subjects);
    let missed = corrected(MISSED, pairs.len() * results.works.len());
    let mut all = Vec::new();
    for (base, other) in pairs {
        for work in &results.works {
            let ratio = Ratio::of(
                &results.values(base, &work.name),
                &results.values(other, &work.name),
                missed,
            );
            all.push(Comparison {
                work: work.name.clone(),
                base,
                other,
                quantity: quantity::name(work).into(),
                ratio: ratio.map(|r| r.ratio),
                interval: ratio.map(|r| (r.low, r.high)),
                outliers: ratio.map_or(0, |r| r.outliers),
                verdict: in_words(ratio.as_ref()).into(),
            });
        }
    }
    all
}

/// What a ratio says.
pub fn in_words(ratio: Option<&Ratio>) -> &'static str {
    match ratio.map(Ratio::verdict) {
        None => "too few rounds",
        Some(Verdict::NoDifference) => "no difference",
        Some(Verdict::Less) => "less",
        Some(Verdict::More) => "more",
    }
}
