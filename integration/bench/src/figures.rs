//! Figures as text: a number, a cell of a table, a ratio.

use crate::names::SUBJECT;
use crate::results::Measure;
use crate::stats::ratio;

/// A number with about three significant digits.
pub fn figure(value: f64) -> String {
    let digits = match value.abs() {
        a if a >= 100.0 || a == 0.0 => 0,
        a if a >= 10.0 => 1,
        a if a >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// A measure's median with its quartiles, as a table cell: "2.10 (2.00–2.31) ms".
pub fn cell(measure: &Measure) -> String {
    let Some(s) = measure.summary() else {
        return "–".into();
    };
    let spread = if s.count == 1 || s.q1 == s.q3 {
        String::new()
    } else {
        format!(" ({}–{})", figure(s.q1), figure(s.q3))
    };
    let text = format!("{}{spread} {}", figure(s.median), measure.unit);
    text.trim_end().to_owned()
}

/// mini-vmm's median divided by another subject's median, in the same row.
pub fn ratio_to(row: &[&Measure], other: &Measure) -> Option<f64> {
    let ours = row.iter().find(|measure| measure.subject == SUBJECT)?;
    if other.subject == SUBJECT {
        return None;
    }
    ratio(ours.summary()?.median, other.summary()?.median)
}

/// A signed number, such as a slope, with two significant digits: slopes are often small.
pub fn signed(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let decimals = (1.0 - value.abs().log10().floor()).clamp(0.0, 9.0) as usize;
    format!("{value:+.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        for (value, text) in [
            (1234.56, "1235"),
            (12.345, "12.3"),
            (1.2345, "1.23"),
            (0.1234, "0.123"),
            (0.0, "0"),
        ] {
            assert_eq!(figure(value), text);
        }
        assert_eq!(
            (signed(0.004_567), signed(-123.4)),
            ("+0.0046".into(), "-123".into())
        );
    }
}
