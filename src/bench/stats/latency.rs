//! The times of single operations, in a histogram.

use hdrhistogram::Histogram;

/// The longest time that is told apart, in nanoseconds: a minute.
const LONGEST: u64 = 60_000_000_000;

/// The number of decimal digits to which times are told apart.
const DIGITS: u8 = 3;

/// A percentile is printed only if at least so many operations took longer.
pub const BEYOND: u64 = 30;

/// The percentiles of a report.
pub const PERCENTILES: [f64; 5] = [50.0, 90.0, 99.0, 99.9, 99.99];

/// The times of operations.
#[derive(Clone, Debug)]
pub struct Latencies {
    histogram: Histogram<u64>,
    others: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        let made = Histogram::new_with_bounds(1, LONGEST, DIGITS);
        // The bounds and the digits are constants within the limits of the library.
        Self {
            histogram: made.unwrap_or_else(|_| unreachable!()),
            others: 0,
        }
    }
}

impl Latencies {
    /// Adds an operation without a time, such as one of the warm-up.
    pub fn add_other(&mut self) {
        self.others += 1;
    }

    /// The number of operations with and without a time.
    pub fn all(&self) -> u64 {
        self.len() + self.others
    }

    /// Adds an operation of this many nanoseconds.
    pub fn add(&mut self, nanoseconds: u64) {
        self.histogram.saturating_record(nanoseconds);
    }

    /// Adds `count` operations of this many nanoseconds.
    pub fn add_many(&mut self, nanoseconds: u64, count: u64) {
        self.histogram.saturating_record_n(nanoseconds, count);
    }

    /// Adds all operations of another histogram.
    pub fn merge(&mut self, other: &Self) {
        self.others += other.others;
        for (nanoseconds, count) in other.counts() {
            self.add_many(nanoseconds, count);
        }
    }

    /// The number of operations.
    pub fn len(&self) -> u64 {
        self.histogram.len()
    }

    /// Whether there are no operations.
    pub fn is_empty(&self) -> bool {
        self.histogram.is_empty()
    }

    /// The times that occurred, in nanoseconds, each with the number of operations.
    pub fn counts(&self) -> impl Iterator<Item = (u64, u64)> {
        let all = self.histogram.iter_recorded();
        all.map(|value| (value.value_iterated_to(), value.count_at_value()))
    }

    /// The times to two digits, each with the number of operations: small enough to be sent and
    /// kept for each turn.
    pub fn coarse(&self) -> Vec<(u64, u64)> {
        let mut coarse: Vec<(u64, u64)> = Vec::new();
        for (time, count) in self.counts() {
            let unit = 10_u64.pow(time.checked_ilog10().unwrap_or(0).saturating_sub(1));
            let time = (time + unit / 2) / unit * unit;
            match coarse.last_mut() {
                Some((last, sum)) if *last == time => *sum += count,
                _ => coarse.push((time, count)),
            }
        }
        coarse
    }

    /// A percentile in nanoseconds; `None` if fewer than [`BEYOND`] operations are beyond it.
    pub fn percentile(&self, percentile: f64) -> Option<u64> {
        let beyond = self.len() as f64 * (100.0 - percentile) / 100.0;
        // A percentage such as 99.9 is not exact in binary.
        let enough = beyond * (1.0 + 1e-9) >= BEYOND as f64;
        enough.then(|| self.histogram.value_at_percentile(percentile))
    }

    /// The median in nanoseconds, of however few operations; `None` if there are none.
    pub fn median(&self) -> Option<u64> {
        (!self.is_empty()).then(|| self.histogram.value_at_quantile(0.5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(count: u64) -> Latencies {
        let mut times = Latencies::default();
        (1..=count).for_each(|n| times.add(n * 1000));
        times
    }

    #[test]
    fn a_percentile_needs_thirty_operations_beyond_it() {
        assert_eq!(of(2_999).percentile(99.0), None);
        assert!(of(3_000).percentile(99.0).is_some());
        assert_eq!(of(29_999).percentile(99.9), None);
        assert!(of(30_000).percentile(99.9).is_some());
        assert_eq!(of(59).percentile(50.0), None);
        let median = of(60).percentile(50.0).unwrap();
        assert!((29_900..=31_000).contains(&median), "{median}");
    }

    #[test]
    fn times_are_told_apart_to_a_thousandth() {
        let mut times = Latencies::default();
        times.add(1_000_000);
        times.add(1_003_000);
        assert_eq!(times.counts().count(), 2);
        times.add(u64::MAX);
        assert_eq!(times.len(), 3);
    }

    #[test]
    fn coarse_times_have_two_digits_and_all_operations() {
        let coarse = of(1_000).coarse();
        assert!(coarse.len() < 250, "{}", coarse.len());
        assert_eq!(coarse.iter().map(|(_, count)| count).sum::<u64>(), 1_000);
        assert!(coarse.is_sorted());
        let mut one = Latencies::default();
        one.add(7);
        assert_eq!(one.coarse(), [(7, 1)]);
    }

    #[test]
    fn merged_histograms_have_all_operations() {
        let mut all = of(100);
        let mut more = of(200);
        more.add_other();
        all.merge(&more);
        assert_eq!((all.len(), all.all()), (300, 301));
        assert_eq!(all.counts().map(|(_, count)| count).sum::<u64>(), 300);
    }
}
