//! The report of a failed scenario: the last lines of all logs, then the error and the path of the
//! whole log.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::outcome::Outcome;
use crate::transcript::{Line, Speaker};

/// The number of transcript lines in a report.
const LAST_LINES: usize = 30;

/// The number of lines of each other log in a report.
const LAST_OF_OTHERS: usize = 8;

/// Facts that each guest prints at its start. They rarely explain why a scenario failed.
const INVENTORY: [&str; 5] = ["cmdline", "pci", "bar", "irq", "memory"];

/// Returns the report of an error.
pub fn explain(error: &str, outcome: &Outcome) -> String {
    let mut text = String::new();
    let useful: Vec<&Line> = outcome
        .transcript
        .lines
        .iter()
        .filter(|line| is_useful(line))
        .collect();
    for line in &useful[useful.len().saturating_sub(LAST_LINES)..] {
        let at = line.at.as_secs_f64();
        let _ = writeln!(text, "[{at:8.3}] {:?}| {}", line.from, line.text);
    }
    // If QEMU exits with an error, its first line explains the error.
    for line in lines(&outcome.dir.join("qemu.log"))
        .iter()
        .take(LAST_OF_OTHERS)
    {
        let _ = writeln!(text, "QEMU| {line}");
    }
    let kernel = lines(&outcome.dir.join("l1-kernel.log"));
    for line in &kernel[kernel.len().saturating_sub(LAST_OF_OTHERS)..] {
        let _ = writeln!(text, "L1's kernel| {line}");
    }
    let log = outcome.dir.join("transcript.log");
    let _ = write!(text, "error: {error}\nlog: {}", log.display());
    text
}

fn is_useful(line: &Line) -> bool {
    let inventory = line.from == Speaker::Guest
        && line
            .text
            .strip_prefix("L2: ")
            .and_then(|fact| fact.split(' ').next())
            .is_some_and(|key| INVENTORY.contains(&key));
    !inventory && !line.text.trim().is_empty()
}

/// The lines of a file that are not empty.
fn lines(path: &Path) -> Vec<String> {
    let text = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .map(|line| line.trim_end().to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::Transcript;
    use std::time::Duration;

    #[test]
    fn what_is_wrong_comes_last_and_inventory_does_not_push_it_out() {
        let mut raw = vec!["VMM| ERROR the device failed".to_owned()];
        raw.extend((0..100).map(|n| format!("L2| L2: bar 0000:00:01.0 {n}")));
        raw.push("L2| L2: act-failed no read".to_owned());
        let lines = raw.iter().map(|raw| Line::new(Duration::ZERO, raw));
        let outcome = Outcome {
            transcript: Transcript {
                lines: lines.collect(),
            },
            dir: "/nowhere".into(),
        };
        let text = explain("the guest said act-failed: no read", &outcome);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[0].ends_with("Vmm| ERROR the device failed"));
        assert!(lines[1].ends_with("L2: act-failed no read"));
        assert_eq!(lines[2], "error: the guest said act-failed: no read");
        assert_eq!(lines[3], "log: /nowhere/transcript.log");
    }
}
