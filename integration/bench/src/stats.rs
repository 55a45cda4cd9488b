//! Statistics of a few samples: the middle, the spread, and how a cost grows.
//! Medians and quartiles are used because one run that the host disturbed must not move the result.

/// The middle of some samples, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// How many there are.
    pub count: usize,
    /// The least.
    pub min: f64,
    /// A quarter of them is below.
    pub q1: f64,
    /// Half of them is below.
    pub median: f64,
    /// A quarter of them is above.
    pub q3: f64,
    /// The greatest.
    pub max: f64,
}

impl Summary {
    /// Sums up the finite samples; nothing where there are none.
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

/// `a` divided by `b`; nothing where `b` is zero.
pub fn ratio(a: f64, b: f64) -> Option<f64> {
    (b != 0.0).then(|| a / b)
}

/// By how much y grows with x: the median of the slopes between all pairs of points (Theil and
/// Sen), which a single bad point does not tilt. Nothing for fewer than two values of x.
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

/// Whether two sets of samples lie apart: the middle half of neither reaches into the other's.
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
