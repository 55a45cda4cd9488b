//! The ratios of the subjects.

use crate::report::comparison::Comparison;
use crate::report::measured::{self, Measured};
use crate::report::results::Results;
use crate::stats::ratio::{MISSED, Ratio, Verdict, corrected};
use crate::subjects::list::pairs;

/// All comparisons of a run. Their intervals are corrected for their number.
pub fn of(results: &Results) -> Vec<Comparison> {
    let pairs = pairs(&results.subjects);
    let mut compared = Vec::new();
    for (base, other) in pairs {
        for measured in measured::all(results) {
            let values = [base, other].map(|index| results.values(index, measured.name()));
            let is_whole = |values: &Vec<f64>| values.len() == results.rounds.len();
            // The host starts no guest, and not each function has a reset.
            if matches!(measured, Measured::Work(_)) || values.iter().all(is_whole) {
                compared.push(((base, other), measured, values));
            }
        }
    }
    let missed = corrected(MISSED, compared.len());
    let comparison = |((base, other), measured, values): ((usize, usize), Measured<'_>, [_; 2])| {
        let [of_base, of_other]: [Vec<f64>; 2] = values;
        let ratio = Ratio::of(&of_base, &of_other, missed);
        Comparison {
            work: measured.name().to_owned(),
            base,
            other,
            quantity: measured.quantity().into(),
            ratio: ratio.map(|r| r.ratio),
            interval: ratio.map(|r| (r.low, r.high)),
            outliers: ratio.map_or(0, |r| r.outliers),
            verdict: in_words(ratio.as_ref()).into(),
        }
    };
    compared.into_iter().map(comparison).collect()
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
