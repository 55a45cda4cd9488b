//! The ratios of the subjects.

use crate::report::comparison::Comparison;
use crate::report::results::Results;
use crate::stats::ratio::{MISSED, Ratio, Verdict, corrected};
use crate::subjects::list::pairs;
use crate::work::quantity;

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
