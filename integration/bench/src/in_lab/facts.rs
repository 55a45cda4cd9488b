//! The lines that L1 printed in its rounds, as data.

use std::path::Path;

use crate::error::{Error, Result};

/// One line that L1 printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fact<'a> {
    /// The first word: "watched", "window", "marks" and so on.
    pub kind: &'a str,
    /// The run's number.
    pub run: usize,
    /// The rest of the line.
    pub rest: &'a str,
}

/// All lines of the rounds that count.
#[derive(Debug, Default)]
pub struct Facts {
    lines: Vec<String>,
    /// The messages of failures, each once.
    pub failures: Vec<String>,
    /// The number of rounds that count.
    pub rounds: usize,
}

impl Facts {
    /// Parses L1's lines; `dir` is the directory of L1's log. The first round is a warm-up and does
    /// not count.
    ///
    /// # Errors
    /// No round that counts has a line.
    pub fn of(lines: impl Iterator<Item = String>, dir: &Path) -> Result<Self> {
        let mut facts = Self::default();
        let mut counts = false;
        let mut ended = false;
        for line in lines {
            if let Some(round) = line.strip_prefix("round ") {
                counts = round != "0";
                facts.rounds += usize::from(counts);
            } else if let Some(why) = line.strip_prefix("probe-failed ") {
                if !facts.failures.iter().any(|known| known == why) {
                    facts.failures.push(why.to_owned());
                }
            } else if line.starts_with("script ") {
                ended = true;
            } else if counts {
                facts.lines.push(line);
            }
        }
        if !ended {
            let log = dir.join("transcript.log");
            let why = format!(
                "the machine went off before its rounds were over; its log is {}",
                log.display()
            );
            facts.failures.push(why);
        }
        if facts.lines.is_empty() {
            return Err(Error::new(facts.failures.join("; ")));
        }
        Ok(facts)
    }

    /// Iterates over the facts in order.
    pub fn iter(&self) -> impl Iterator<Item = Fact<'_>> {
        self.lines.iter().filter_map(|line| {
            let (kind, rest) = line.split_once(' ')?;
            let (run, rest) = rest.split_once(' ')?;
            Some(Fact {
                kind,
                run: run.parse().ok()?,
                rest,
            })
        })
    }

    /// The failures as texts for the results.
    pub fn failed_runs(&self, part: u8) -> impl Iterator<Item = String> {
        let failures = self.failures.iter();
        failures.map(move |why| format!("part {part}, a run: {why}"))
    }
}

/// The number in "name=NUMBER".
pub fn value(fact: &str, name: &str) -> Option<f64> {
    lab::transcript::value(fact, name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(lines: &[&str]) -> Result<Facts> {
        Facts::of(lines.iter().map(|line| (*line).to_owned()), Path::new("/d"))
    }

    #[test]
    fn the_first_round_warms_up() {
        let facts = facts(&[
            "round 0",
            "watched 3 at=9 init uptime=1",
            "round 1",
            "watched 3 at=7.5 init uptime=1",
            "probe-failed 4: it broke",
            "probe-failed 4: it broke",
            "marks 1 0.5 0.6",
            "script 0",
        ])
        .unwrap();
        let all: Vec<_> = facts.iter().collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].kind, all[0].run), ("watched", 3));
        assert_eq!(value(all[0].rest, "at"), Some(7.5));
        assert_eq!(all[1].rest, "0.5 0.6");
        assert_eq!(facts.failures, ["4: it broke"]);
        assert_eq!(facts.rounds, 1);
    }

    #[test]
    fn a_machine_that_went_off_early_has_figures_up_to_then() {
        assert!(facts(&["round 0", "marks 1 2", "script 1"]).is_err());
        assert!(facts(&["round 0", "round 1"]).is_err());
        let early = facts(&["round 0", "round 1", "marks 1 2"]).unwrap();
        assert_eq!((early.iter().count(), early.failures.len()), (1, 1));
    }
}
