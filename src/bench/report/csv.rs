//! Every sample and moment as a line of comma-separated values (RFC 4180), for spreadsheets and
//! statistics.

use crate::report::add::add;
use crate::report::results::Results;
use crate::stats::latency::{Latencies, PERCENTILES};
use crate::work::moment::Moment;

/// The columns before the percentiles.
const HEADS: [&str; 14] = [
    "date",
    "machine",
    "device",
    "serial",
    "round",
    "subject",
    "repeats",
    "started_s",
    "ready_ms",
    "work",
    "operations",
    "seconds",
    "per_second",
    "median_us",
];

/// A run as comma-separated values. A value that is not known is empty.
pub fn text(results: &Results) -> String {
    let mut text = HEADS.join(",");
    for percentile in PERCENTILES {
        add(&mut text, format_args!(",p{percentile}_us"));
    }
    text.push_str("\r\n");
    let name = |index: usize| {
        let subject = results.subjects.get(index);
        subject.map_or("", |subject| subject.name.as_str())
    };
    for (round, turns) in results.rounds.iter().enumerate() {
        for trial in turns {
            let subject = results.subjects.get(trial.subject);
            let repeats = subject.and_then(|subject| subject.repeats);
            let known = [
                word(&results.date),
                word(&results.machine.name),
                word(&results.device.address),
                word(results.device.serial.as_deref().unwrap_or_default()),
                (round + 1).to_string(),
                word(name(trial.subject)),
                repeats.map_or_else(String::new, |index| word(name(index))),
                format!("{:.3}", trial.started_s),
                trial.ready_ms.map_or_else(String::new, |ms| ms.to_string()),
            ];
            let line = |text: &mut String, values: &[String; 5], times: &Latencies| {
                add(
                    text,
                    format_args!("{},{}", known.join(","), values.join(",")),
                );
                for percentile in PERCENTILES {
                    match times.percentile(percentile) {
                        Some(time) => add(text, format_args!(",{}", time as f64 / 1000.0)),
                        None => text.push(','),
                    }
                }
                text.push_str("\r\n");
            };
            for sample in &trial.samples {
                let mut times = Latencies::default();
                for (time, count) in &sample.histogram {
                    times.add_many(*time, *count);
                }
                let values = [
                    word(&sample.work),
                    sample.operations.to_string(),
                    sample.seconds.to_string(),
                    sample.per_second.to_string(),
                    sample.median_us.to_string(),
                ];
                line(&mut text, &values, &times);
            }
            for moment in Moment::ALL {
                let Some(time) = trial.moments.of(moment) else {
                    continue;
                };
                let values = [
                    moment.name().into(),
                    "1".into(),
                    (time / 1e6).to_string(),
                    String::new(),
                    time.to_string(),
                ];
                line(&mut text, &values, &Latencies::default());
            }
        }
    }
    text
}

/// A text as one value. A spreadsheet takes a value for a formula by its first letter, so such a
/// text gets an apostrophe before it: a device says what it likes.
fn word(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    let formula = text.starts_with(['=', '+', '-', '@']);
    let text = format!("{}{text}", if formula { "'" } else { "" });
    match text.contains([',', '"']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::word;

    #[test]
    fn a_text_is_one_value_and_no_formula() {
        for (text, wanted) in [
            ("S1", "S1"),
            ("mini-vmm, mmap=off", "\"mini-vmm, mmap=off\""),
            ("a\"b", "\"a\"\"b\""),
            ("=1+2", "'=1+2"),
            ("two\r\nlines", "twolines"),
        ] {
            assert_eq!(word(text), wanted);
        }
    }
}
