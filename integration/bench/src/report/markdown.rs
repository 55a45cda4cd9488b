//! The report as Markdown.

use std::fmt::Write;

use crate::figures::{cell, figure, ratio_to};
use crate::names::{SUBJECT, part_title};
use crate::report::series::slopes;
use crate::results::{Measure, Results};

/// The whole report.
pub fn markdown(results: &Results) -> String {
    let mut text = format!("Measured on {} (UTC)", results.date);
    for (name, value) in &results.about {
        let _ = write!(text, "; {name}: {value}");
    }
    let _ = writeln!(
        text,
        ".\nMedians, in brackets the quartiles; × is {SUBJECT}'s median for each of that column's."
    );
    for part in results.parts() {
        one_part(&mut text, results, part);
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

fn one_part(text: &mut String, results: &Results, part: u8) {
    let subjects = results.subjects(part);
    let _ = write!(text, "\n### {}\n\n", part_title(part));
    head(text, "", &subjects);
    for row in results.rows(part) {
        let _ = write!(text, "| {} |", row[0].row().title());
        for subject in &subjects {
            let measure = row.iter().find(|measure| measure.subject == *subject);
            if let Some(measure) = measure {
                let _ = write!(text, " {}", with_ratio(&row, measure));
            }
            text.push_str(" |");
        }
        text.push('\n');
    }
    let grown = slopes(results, part);
    if !grown.is_empty() {
        text.push('\n');
        head(text, " what grows, for each more", &subjects);
        for (title, by) in grown {
            let _ = writeln!(text, "| {title} | {} |", by.join(" | "));
        }
    }
}

/// Writes the first two lines of a table with a column for each subject.
fn head(text: &mut String, first: &str, subjects: &[&str]) {
    let _ = write!(text, "|{first} |");
    for subject in subjects {
        let _ = write!(text, " {subject} |");
    }
    text.push_str("\n| --- |");
    text.push_str(&" --- |".repeat(subjects.len()));
    text.push('\n');
}

/// The text of a cell. For another subject than mini-vmm, the ratio of mini-vmm's median to that
/// subject's median follows.
pub fn with_ratio(row: &[&Measure], measure: &Measure) -> String {
    let ratio = ratio_to(row, measure);
    let ratio = ratio.map_or(String::new(), |ratio| format!(", ×{}", figure(ratio)));
    format!("{}{ratio}", cell(measure))
}

/// The targets as a table.
pub fn targets(results: &Results) -> String {
    let mut text = "| target | reached | figure |\n| --- | --- | --- |\n".to_owned();
    for target in &results.targets {
        let (what, reached, figure) = (&target.target, target.word(), &target.figure);
        let _ = writeln!(text, "| {what} | {reached} | {figure} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::example;

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
