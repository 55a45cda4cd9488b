//! Statistics of a few samples: median, spread and slope. Medians and quartiles are used, so that a
//! single run that the host disturbed does not change the result.

/// The median of some samples, and their spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The number of samples.
    pub count: usize,
    /// The smallest sample.
    pub min: f64,
    /// The first quartile: a quarter of the samples is below.
    pub q1: f64,
    /// The median: half of the samples are below.
    pub median: f64,
    /// The third quartile: a quarter of the samples is above.
    pub q3: f64,
    /// The greatest sample.
    pub max: f64,
}

impl Summary {
    /// Summarises the finite samples; `None` without such a sample.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = samples.iter().copied().filter(|x| x.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            count: sorted.len(),
            min: *sorted.first()?,
            q1: quantile(&sorted, 0.25)?,
            median: quantile(&sorted, 0.5)?,
            q3: quantile(&sorted, 0.75)?,
            max: *sorted.last()?,
        })
    }
}

/// The value below which a fraction of sorted samples lies, interpolated between neighbours.
fn quantile(sorted: &[f64], fraction: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = fraction * last as f64;
    let below = *sorted.get(position.floor() as usize)?;
    let above = *sorted.get((position.ceil() as usize).min(last))?;
    Some(below + (above - below) * position.fract())
}

/// `a` divided by `b`; `None` if `b` is zero.
pub fn ratio(a: f64, b: f64) -> Option<f64> {
    (b != 0.0).then(|| a / b)
}

/// The slope of y over x: the median of the slopes between all pairs of points (Theil and Sen). A
/// single bad point does not change this slope much. `None` if x has fewer than two values.
pub fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let mut slopes = Vec::new();
    for (n, a) in points.iter().enumerate() {
        for b in &points[n + 1..] {
            if a.0 != b.0 {
                slopes.push((b.1 - a.1) / (b.0 - a.0));
            }
        }
    }
    Summary::of(&slopes).map(|summary| summary.median)
}

/// Whether two sets of samples lie apart: the ranges from first to third quartile do not overlap.
pub fn apart(a: &Summary, b: &Summary) -> bool {
    a.q3 < b.q1 || b.q3 < a.q1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_samples() {
        let s = Summary::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(
            (s.min, s.q1, s.median, s.q3, s.max),
            (1.0, 1.75, 2.5, 3.25, 4.0)
        );
        let one = Summary::of(&[7.0]).unwrap();
        assert_eq!((one.count, one.q1, one.median, one.q3), (1, 7.0, 7.0, 7.0));
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[f64::NAN]), None);
    }

    #[test]
    fn an_outlier_moves_neither_median_nor_slope_far() {
        let s = Summary::of(&[1.0, 1.0, 1.0, 1.0, 100.0]).unwrap();
        assert_eq!((s.median, s.q3), (1.0, 1.0));
        let line = [
            (1.0, 10.0),
            (2.0, 12.0),
            (3.0, 14.0),
            (4.0, 16.0),
            (5.0, 99.0),
        ];
        assert_eq!(slope(&line), Some(2.0));
        assert_eq!(slope(&[(1.0, 5.0), (1.0, 6.0)]), None);
    }

    #[test]
    fn sets_that_touch_are_not_apart() {
        let of = |samples: &[f64]| Summary::of(samples).unwrap();
        let low = of(&[1.0, 2.0, 3.0]);
        assert!(apart(&low, &of(&[10.0, 11.0, 12.0])));
        assert!(apart(&of(&[10.0, 11.0, 12.0]), &low));
        assert!(!apart(&low, &of(&[2.0, 3.0, 4.0])));
        assert!(!apart(&low, &low));
    }

    #[test]
    fn nothing_is_no_measure_for_a_ratio() {
        assert_eq!(ratio(3.0, 2.0), Some(1.5));
        assert_eq!(ratio(3.0, 0.0), None);
    }
}
