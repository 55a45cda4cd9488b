//! Times for people.

/// A time with three digits or more.
pub fn duration(ns: u64) -> String {
    match ns {
        0..10_000 => format!("{:.1} µs", ns as f64 / 1e3),
        10_000..10_000_000 => format!("{} µs", ns / 1000),
        10_000_000..10_000_000_000 => format!("{} ms", ns / 1_000_000),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (ns, text) in [
            (0, "0.0 µs"),
            (1500, "1.5 µs"),
            (15_000, "15 µs"),
            (15_000_000, "15 ms"),
            (15_000_000_000, "15.0 s"),
        ] {
            assert_eq!(duration(ns), text);
        }
    }
}
