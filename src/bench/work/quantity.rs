//! The quantity by which subjects are compared: the median time of reads or writes that come one
//! at a time, and their number in each second of all others. One quantity for each kind of work
//! keeps the number of comparisons small.

use crate::work::task::{Queues, Sample, Work};
use crate::work::traffic::Traffic;

/// The value of a sample.
pub fn value(work: &Work, sample: &Sample) -> f64 {
    match is_time(work) {
        true => sample.median_us,
        false => sample.per_second,
    }
}

/// Whether the quantity is a time, of which less is better.
pub fn is_time(work: &Work) -> bool {
    work.depth == 1 && work.queues == Queues::One
}

/// The quantity's name.
pub fn name(work: &Work) -> &'static str {
    match work.traffic {
        Some(Traffic::Request) => return "median time of a request",
        Some(Traffic::Send) => return "blocks sent each second",
        Some(Traffic::Receive) => return "blocks received each second",
        Some(Traffic::Packets) => return "packets that came back each second",
        None => {}
    }
    match (is_time(work), work.writes) {
        (true, 0) => "median time of a read",
        (true, 100) => "median time of a write",
        (true, _) => "median time of a read or write",
        (false, 0) => "reads each second",
        (false, 100) => "writes each second",
        (false, _) => "reads and writes each second",
    }
}

/// A value with its unit.
pub fn in_words(work: &Work, value: f64) -> String {
    match is_time(work) {
        true => format!("{} µs", digits(value)),
        false => match work.traffic {
            Some(Traffic::Send | Traffic::Receive) => {
                let gigabits = digits(gigabits(work, value));
                format!("{} ({gigabits} Gbit/s)", digits(value))
            }
            _ => digits(value),
        },
    }
}

/// Blocks each second in units of 10⁹ bits.
pub fn gigabits(work: &Work, value: f64) -> f64 {
    value * f64::from(work.block) * 8.0 / 1e9
}

/// A number with at least three digits that count.
pub fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
