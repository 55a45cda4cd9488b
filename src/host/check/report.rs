//! Prints findings, for people and for programs.

use pci::Bdf;
use serde::Serialize;

use crate::check::finding::{Finding, Level, is_good};
use crate::style::{Style, WIDTH, fill};

/// Columns of a check's name.
const NAME: usize = 20;
/// Columns before the text: the level and the name.
const INDENT: usize = 6 + NAME;

/// Prints a line for each fact and a remedy below it; the host first, then each device under its
/// address. A remedy is not wrapped, so that it can be copied.
pub fn to_text(findings: &[Finding], style: Style) -> String {
    let mut text = String::new();
    let mut device: Option<Bdf> = None;
    for finding in findings {
        if finding.device != device {
            device = finding.device;
            let heading = device.map(|bdf| format!("{bdf}\n"));
            text.push_str(&heading.unwrap_or_default());
        }
        let level = match finding.level {
            Level::Pass => style.good("PASS"),
            Level::Warn => style.so_so("WARN"),
            Level::Fail => style.bad("FAIL"),
        };
        let mut lines = paragraph(&finding.text).into_iter();
        let first = lines.next().unwrap_or_default();
        text.push_str(&format!("{level}  {:NAME$}{first}\n", finding.name));
        for line in lines {
            text.push_str(&format!("{:INDENT$}{line}\n", ""));
        }
        if let Some(fix) = &finding.fix {
            text.push_str(&format!("      → {fix}\n"));
        }
    }
    text
}

fn paragraph(text: &str) -> Vec<String> {
    let words: Vec<_> = text.split(' ').map(String::from).collect();
    fill(&words, " ", WIDTH - INDENT)
}

#[derive(Serialize)]
struct Report<'a> {
    good: bool,
    checks: &'a [Finding],
}

/// Prints one JSON object with `good` and the array `checks`, over several lines.
///
/// # Errors
/// serde_json's signature requires an error, but these types cause no error.
pub fn to_json(findings: &[Finding]) -> serde_json::Result<String> {
    let report = Report {
        good: is_good(findings),
        checks: findings,
    };
    let mut text = serde_json::to_string_pretty(&report)?;
    text.push('\n');
    Ok(text)
}
