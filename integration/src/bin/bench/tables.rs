//! Figures as text, and the Markdown report. All pure.

use std::fmt::Write;

use crate::results::{Measure, Results, SUBJECT};
use crate::stats::{ratio, slope};

/// What the parts are called.
pub fn part_title(part: u8) -> &'static str {
    match part {
        1 => "1. From process start to the guest's first instruction, on this machine's /dev/kvm",
        2 => "2. From process start to /init, in the lab",
        3 => "3. NVMe reads, in the lab",
        4 => "4. Memory for DMA, in the lab",
        _ => "5. Growth",
    }
}

/// Three digits that mean something.
pub fn figure(value: f64) -> String {
    let digits = match value.abs() {
        a if a >= 100.0 || a == 0.0 => 0,
        a if a >= 10.0 => 1,
        a if a >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// A measure's median with its quartiles: "2.10 (2.00–2.31) ms".
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

/// mini-vmm's median for each of another subject's, in the same row.
pub fn ratio_to(row: &[&Measure], other: &Measure) -> Option<f64> {
    let ours = row.iter().find(|measure| measure.subject == SUBJECT)?;
    if other.subject == SUBJECT {
        return None;
    }
    ratio(ours.summary()?.median, other.summary()?.median)
}

/// One quantity of one subject at all places along an axis.
#[derive(Clone, Debug)]
pub struct Line {
    /// Work and quantity.
    pub title: String,
    /// Who.
    pub subject: String,
    /// What grows.
    pub axis: String,
    /// Unit of the quantity.
    pub unit: String,
    /// Place and median.
    pub points: Vec<(f64, f64)>,
}

/// All that is varied in a part.
pub fn lines(results: &Results, part: u8) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for measure in results
        .measures
        .iter()
        .filter(|measure| measure.part == part)
    {
        let (Some(at), Some(summary)) = (&measure.at, measure.summary()) else {
            continue;
        };
        let line = Line {
            title: format!("{}: {}", measure.work, measure.quantity),
            subject: measure.subject.clone(),
            axis: at.axis.clone(),
            unit: measure.unit.clone(),
            points: vec![(at.value, summary.median)],
        };
        let known = lines.iter_mut().find(|known| {
            (&known.title, &known.subject, &known.axis) == (&line.title, &line.subject, &line.axis)
        });
        match known {
            Some(known) => known.points.extend(line.points),
            None => lines.push(line),
        }
    }
    lines
}

/// The report as Markdown.
pub fn markdown(results: &Results) -> String {
    let mut text = format!("Measured on {} (UTC)", results.date);
    for (name, value) in &results.about {
        let _ = write!(text, "; {name}: {value}");
    }
    text.push_str(&format!(
        ".\nMedians, in brackets the quartiles; × is {SUBJECT}'s median for each of that column's.\n"
    ));
    for part in results.parts() {
        let subjects = results.subjects(part);
        let _ = write!(text, "\n### {}\n\n| |", part_title(part));
        for subject in &subjects {
            let _ = write!(text, " {subject} |");
        }
        text.push_str("\n| --- |");
        text.push_str(&" --- |".repeat(subjects.len()));
        text.push('\n');
        for row in results.rows(part) {
            let _ = write!(text, "| {} |", row[0].row().title());
            for subject in &subjects {
                match row.iter().find(|measure| measure.subject == *subject) {
                    Some(measure) => {
                        let _ = write!(text, " {}", cell(measure));
                        if let Some(ratio) = ratio_to(&row, measure) {
                            let _ = write!(text, ", ×{}", figure(ratio));
                        }
                        text.push_str(" |");
                    }
                    None => text.push_str(" |"),
                }
            }
            text.push('\n');
        }
        let grown = slopes(results, part);
        if !grown.is_empty() {
            text.push_str("\n| what grows, for each more |");
            for subject in &subjects {
                let _ = write!(text, " {subject} |");
            }
            text.push_str("\n| --- |");
            text.push_str(&" --- |".repeat(subjects.len()));
            text.push('\n');
            for (title, by) in grown {
                let _ = writeln!(text, "| {title} | {} |", by.join(" | "));
            }
        }
    }
    if !results.missing.is_empty() {
        text.push_str("\nNot measured:\n\n");
        for line in &results.missing {
            let _ = writeln!(text, "- {line}");
        }
    }
    let _ = write!(text, "\n### Targets\n\n{}", targets(results));
    text
}

/// What was to be reached, as a table.
pub fn targets(results: &Results) -> String {
    let mut text = "| target | reached | figure |\n| --- | --- | --- |\n".to_owned();
    for target in &results.targets {
        let (what, reached, figure) = (&target.target, target.word(), &target.figure);
        let _ = writeln!(text, "| {what} | {reached} | {figure} |");
    }
    text
}

/// By how much each quantity grows: its title, and the slope of each subject of the part, or nothing.
pub fn slopes(results: &Results, part: u8) -> Vec<(String, Vec<String>)> {
    let all = lines(results, part);
    let mut known: Vec<(&str, &str)> = Vec::new();
    for line in &all {
        if line.points.len() > 1 && !known.contains(&(&line.title, &line.axis)) {
            known.push((&line.title, &line.axis));
        }
    }
    known
        .into_iter()
        .map(|(title, axis)| {
            let of = |subject: &&str| {
                let line = all.iter().find(|line| {
                    (
                        line.title.as_str(),
                        line.axis.as_str(),
                        line.subject.as_str(),
                    ) == (title, axis, *subject)
                });
                line.and_then(|line| Some((slope(&line.points)?, line)))
                    .map_or(String::new(), |(by, line)| {
                        format!("{} {}", signed(by), line.unit)
                    })
            };
            (
                format!("{title}, {axis}"),
                results.subjects(part).iter().map(of).collect(),
            )
        })
        .collect()
}

fn signed(value: f64) -> String {
    // Slopes are often small: two digits that mean something, wherever they stand.
    if value == 0.0 {
        return "0".into();
    }
    let places = (1.0 - value.abs().log10().floor()).clamp(0.0, 9.0) as usize;
    format!("{value:+.places$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::example;

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

    #[test]
    fn the_report_has_rows_ratios_slopes_and_gaps() {
        let text = markdown(&example());
        assert!(text.contains("| | mini-vmm | peer |"), "{text}");
        assert!(
            text.contains(
                "| start, 512 MiB: time | 3.00 (2.50–3.50) ms | 9.00 (8.50–9.50) ms, ×0.333 |"
            ),
            "{text}"
        );
        assert!(
            text.contains("| start, 1024 MiB: time | 5.00 ms | |"),
            "{text}"
        );
        assert!(
            text.contains("| start: time, MiB | +0.0039 ms |  |"),
            "{text}"
        );
        assert!(text.contains("| start < 4 ms | yes | 3 ms |"), "{text}");
        assert!(text.contains("- no <peer> for part 2"), "{text}");
    }
}
