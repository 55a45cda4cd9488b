//! What was measured, as data: tables, plots and comparisons are made from its JSON file.
//! A measure is one quantity of one kind of work under one subject, with all its samples.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Context, Result};
use crate::names::SUBJECT;
use crate::stats::Summary;

/// All figures of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The version of this file's form, 1.
    pub version: u32,
    /// When, in UTC: 2026-01-31 12:00.
    pub date: String,
    /// What was measured on, and what: name and value.
    pub about: BTreeMap<String, String>,
    /// The figures.
    pub measures: Vec<Measure>,
    /// What could not be measured, and why.
    pub missing: Vec<String>,
    /// The targets, and which of them the run reached.
    #[serde(default)]
    pub targets: Vec<Target>,
}

/// Samples of one quantity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// Which part of the bench, 1 to 5.
    pub part: u8,
    /// What was done, such as "first instruction".
    pub work: String,
    /// How much of what, where that is varied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Coordinate>,
    /// What was measured, such as "time".
    pub quantity: String,
    /// Its unit, such as "ms".
    pub unit: String,
    /// The subject: mini-vmm, a peer, or what the kernel does without a VMM.
    pub subject: String,
    /// The figures, in the order in which they came.
    pub samples: Vec<f64>,
}

/// A point on an axis along which work grows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Coordinate {
    /// What grows, with its unit if it has one: "vCPUs", "MiB".
    pub axis: String,
    /// How much of it there is.
    pub value: f64,
}

/// A target, and whether this run reached it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// What the project wants to reach.
    pub target: String,
    /// Whether the run reached it; nothing where the run did not measure it.
    pub reached: Option<bool>,
    /// The figure that tells, with the figure it is compared with; "-" where nothing was measured.
    pub figure: String,
}

impl Target {
    /// "yes", "no", or "-".
    pub fn word(&self) -> &'static str {
        match self.reached {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        }
    }
}

/// What a measure is of, without its figures.
#[derive(Clone, Debug, PartialEq)]
pub struct Key<'a> {
    /// Part of the bench.
    pub part: u8,
    /// What was done.
    pub work: &'a str,
    /// The axis that is varied, and the value on it.
    pub at: Option<(&'a str, f64)>,
    /// What was measured, and in which unit.
    pub quantity: (&'a str, &'a str),
}

impl Measure {
    /// Median, quartiles and extremes.
    pub fn summary(&self) -> Option<Summary> {
        Summary::of(&self.samples)
    }

    /// The key of the table row that this measure stands in, which all subjects have in common.
    pub fn row(&self) -> Key<'_> {
        Key {
            part: self.part,
            work: &self.work,
            at: self.at.as_ref().map(|at| (at.axis.as_str(), at.value)),
            quantity: (&self.quantity, &self.unit),
        }
    }
}

impl Key<'_> {
    /// As text: "first instruction, 512 MiB: time".
    pub fn title(&self) -> String {
        let at = self.at.map_or(String::new(), |(axis, value)| {
            if value == 1.0
                && let Some(one) = axis.strip_suffix('s')
            {
                format!(", 1 {one}")
            } else {
                format!(", {value} {axis}")
            }
        });
        format!("{}{at}: {}", self.work, self.quantity.0)
    }
}

impl Results {
    /// Adds a figure to its measure.
    pub fn add(&mut self, key: &Key<'_>, subject: &str, sample: f64) {
        let known = self
            .measures
            .iter_mut()
            .find(|measure| measure.subject == subject && measure.row() == *key);
        if let Some(measure) = known {
            measure.samples.push(sample);
            return;
        }
        self.measures.push(Measure {
            part: key.part,
            work: key.work.to_owned(),
            at: key.at.map(|(axis, value)| Coordinate {
                axis: axis.to_owned(),
                value,
            }),
            quantity: key.quantity.0.to_owned(),
            unit: key.quantity.1.to_owned(),
            subject: subject.to_owned(),
            samples: vec![sample],
        });
    }

    /// The parts that have figures.
    pub fn parts(&self) -> Vec<u8> {
        let mut parts: Vec<u8> = self.measures.iter().map(|measure| measure.part).collect();
        parts.sort_unstable();
        parts.dedup();
        parts
    }

    /// A part's rows, each with one measure per subject, in the order of the first samples.
    pub fn rows(&self, part: u8) -> Vec<Vec<&Measure>> {
        let mut rows: Vec<Vec<&Measure>> = Vec::new();
        for measure in self.measures.iter().filter(|measure| measure.part == part) {
            match rows.iter_mut().find(|row| row[0].row() == measure.row()) {
                Some(row) => row.push(measure),
                None => rows.push(vec![measure]),
            }
        }
        rows
    }

    /// A part's subjects: mini-vmm first, then in the order of their first samples.
    pub fn subjects(&self, part: u8) -> Vec<&str> {
        let mut subjects: Vec<&str> = Vec::new();
        for measure in self.measures.iter().filter(|measure| measure.part == part) {
            if !subjects.contains(&measure.subject.as_str()) {
                subjects.push(&measure.subject);
            }
        }
        subjects.sort_by_key(|subject| *subject != SUBJECT);
        subjects
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).context(format!("read {}", path.display()))?;
        serde_json::from_str(&text).context(format!("understand {}", path.display()))
    }

    /// The file's text.
    pub fn to_json(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self).context("write the results")?;
        Ok(text + "\n")
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Two subjects, one of them with two sizes of RAM.
    pub fn example() -> Results {
        let mut results = Results {
            version: 1,
            date: "2026-01-31 12:00".into(),
            ..Results::default()
        };
        for (mib, subject, sample) in [
            (512.0, "peer", 8.0),
            (512.0, SUBJECT, 2.0),
            (512.0, SUBJECT, 4.0),
            (512.0, "peer", 10.0),
            (1024.0, SUBJECT, 5.0),
        ] {
            let key = Key {
                part: 1,
                work: "start",
                at: Some(("MiB", mib)),
                quantity: ("time", "ms"),
            };
            results.add(&key, subject, sample);
        }
        results.missing.push("no <peer> for part 2".into());
        results.targets.push(Target {
            target: "start < 4 ms".into(),
            reached: Some(true),
            figure: "3 ms".into(),
        });
        results
    }

    #[test]
    fn figures_gather_by_what_they_are() {
        let results = example();
        assert_eq!(results.measures.len(), 3);
        assert_eq!(results.subjects(1), [SUBJECT, "peer"]);
        let rows = results.rows(1);
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].len(), 2);
        assert_eq!(rows[0][1].samples, [2.0, 4.0]);
        assert_eq!(rows[0][0].row().title(), "start, 512 MiB: time");
        assert_eq!(results.parts(), [1]);
    }

    #[test]
    fn a_file_holds_all_that_there_is() {
        let results = example();
        let text = results.to_json().unwrap();
        assert_eq!(serde_json::from_str::<Results>(&text).unwrap(), results);
    }
}
