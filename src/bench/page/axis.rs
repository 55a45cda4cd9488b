//! A logarithmic axis: a slow subject does not flatten the others, and equal ratios have equal
//! lengths.

/// An axis from one value to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axis {
    low: f64,
    high: f64,
}

/// A value at which the axis has a line, and its label.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tick {
    pub(super) value: f64,
    pub(super) label: String,
}

impl Axis {
    /// The axis that has room for these values; `None` if no measurement can be among them. A file
    /// of results may say anything.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values = values.into_iter().filter(|v| (1e-30..1e30).contains(v));
        let (low, high) = values.fold((f64::INFINITY, 0.0_f64), |(low, high), v| {
            (low.min(v), high.max(v))
        });
        if low > high {
            return None;
        }
        // Not even equal values make an axis without a length.
        let margin = (high / low).powf(0.06).max(1.01);
        Some(Self {
            low: low / margin,
            high: high * margin,
        })
    }

    /// The position of a value in per cent of the axis.
    pub(super) fn percent(&self, value: f64) -> f64 {
        if !value.is_finite() || value <= 0.0 {
            return 0.0;
        }
        let part = (value / self.low).ln() / (self.high / self.low).ln();
        100.0 * part.clamp(0.0, 1.0)
    }

    /// The lines of the axis: round values, of which there are at least two and at most nine.
    pub(super) fn ticks(&self) -> Vec<Tick> {
        let decades = (self.high / self.low).log10();
        let values = match decades {
            d if d < 0.8 => self.steps(),
            d if d < 2.6 => self.decades(1, &[1.0, 2.0, 5.0]),
            d => self.decades((d / 7.0).ceil() as i32, &[1.0]),
        };
        let nearest = values.windows(2).map(|pair| pair[1] - pair[0]);
        let step = nearest.fold(f64::INFINITY, f64::min);
        let label = |value: f64| Tick {
            value,
            label: label(value, step),
        };
        values.into_iter().map(label).collect()
    }

    /// Multiples of a round number.
    fn steps(&self) -> Vec<f64> {
        let rough = (self.high - self.low) / 5.0;
        let unit = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * unit);
        let step = step.into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        (first..=last).map(|n| n as f64 * step).collect()
    }

    /// Powers of ten, each times these numbers.
    fn decades(&self, every: i32, numbers: &[f64]) -> Vec<f64> {
        let first = self.low.log10().floor() as i32;
        let last = self.high.log10().ceil() as i32;
        let powers = (first..=last).filter(|power| power % every == 0);
        powers
            .flat_map(|power| numbers.iter().map(move |n| n * 10_f64.powi(power)))
            .filter(|value| (self.low..=self.high).contains(value))
            .collect()
    }
}

/// A value in as many digits as tell it from its neighbour, which is `step` away.
fn label(value: f64, step: f64) -> String {
    let (unit, name) = match value {
        v if v >= 1e6 => (1e6, " M"),
        v if v >= 1e4 => (1e3, " k"),
        _ => (1.0, ""),
    };
    let step = if step.is_finite() {
        step.min(value)
    } else {
        value
    };
    let digits = -((step / unit).log10() + 1e-9).floor();
    format!("{:.*}{name}", digits.clamp(0.0, 6.0) as usize, value / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_nobody_measured_are_left_out() {
        let odd = [0.0, -1.0, 1e-300, 1e300, f64::NAN, f64::INFINITY];
        assert_eq!(Axis::of(odd), None);
        assert_eq!(Axis::of(odd.into_iter().chain([5.0])), Axis::of([5.0]));
        assert!(Axis::of([1e-30, 9e29]).unwrap().ticks().len() < 10);
    }

    fn labels(low: f64, high: f64) -> Vec<String> {
        let ticks = Axis::of([low, high]).unwrap().ticks();
        ticks.into_iter().map(|tick| tick.label).collect()
    }

    #[test]
    fn a_slow_subject_leaves_room_for_the_others() {
        let axis = Axis::of([10.0, 11.0, 1000.0]).unwrap();
        let apart = axis.percent(11.0) - axis.percent(10.0);
        assert!(apart > 1.5, "{apart}");
        assert!(axis.percent(1000.0) < 100.0 && axis.percent(10.0) > 0.0);
        // Equal ratios have equal lengths.
        let other = axis.percent(110.0) - axis.percent(100.0);
        assert!((apart - other).abs() < 1e-9);
    }

    #[test]
    fn an_axis_has_round_values() {
        assert_eq!(
            labels(10.0, 1000.0),
            ["10", "20", "50", "100", "200", "500", "1000"]
        );
        assert_eq!(labels(1.0, 1.2), ["1.00", "1.05", "1.10", "1.15", "1.20"]);
        assert_eq!(
            labels(20_000.0, 60_000.0),
            ["20 k", "30 k", "40 k", "50 k", "60 k"]
        );
        for (low, high) in [
            (1.0, 1.0),
            (0.998, 1.003),
            (3.0, 1e9),
            (1e-5, 1.0),
            (7e5, 2e6),
        ] {
            let labels = labels(low, high);
            assert!((2..=9).contains(&labels.len()), "{low}–{high}: {labels:?}");
            let mut different = labels.clone();
            different.dedup();
            assert_eq!(different, labels);
        }
    }

    #[test]
    fn nothing_has_no_axis() {
        assert_eq!(Axis::of([]), None);
        assert_eq!(Axis::of([0.0, -1.0, f64::NAN]), None);
    }
}
