//! The measured figures, as data. All tables, plots and comparisons are made from the JSON file.
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
    /// The version of the file format, 1.
    pub version: u32,
    /// The date and time in UTC: 2026-01-31 12:00.
    pub date: String,
    /// Facts about the machine and the programs: name and value.
    pub about: BTreeMap<String, String>,
    /// The figures.
    pub measures: Vec<Measure>,
    /// The figures that are missing, each with the reason.
    pub missing: Vec<String>,
    /// The targets, and whether the run reached each of them.
    #[serde(default)]
    pub targets: Vec<Target>,
}

/// Samples of one quantity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// The part of the bench, 1 to 5.
    pub part: u8,
    /// The work, such as "first instruction".
    pub work: String,
    /// The point on an axis, if the work varies along an axis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Coordinate>,
    /// The measured quantity, such as "time".
    pub quantity: String,
    /// The unit of the quantity, such as "ms".
    pub unit: String,
    /// The subject: mini-vmm, another VMM, or the bare calls without a VMM.
    pub subject: String,
    /// The samples, in the order of the measurements.
    pub samples: Vec<f64>,
}

/// A point on an axis, such as 4 on the axis "vCPUs".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Coordinate {
    /// The name of the axis, and its unit if it has one: "vCPUs", "MiB".
    pub axis: String,
    /// The value on the axis.
    pub value: f64,
}

/// A target, and whether the run reached the target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// The target, as a sentence.
    pub target: String,
    /// Whether the run reached the target; `None` if the run did not measure it.
    pub reached: Option<bool>,
    /// The figure that decides, and the figure to compare it with; "-" if the run did not measure
    /// it.
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

/// The identity of a measure, without the subject and the samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Key<'a> {
    /// Part of the bench.
    pub part: u8,
    /// The work.
    pub work: &'a str,
    /// The axis that is varied, and the value on it.
    pub at: Option<(&'a str, f64)>,
    /// The measured quantity and its unit.
    pub quantity: (&'a str, &'a str),
}

impl Measure {
    /// Median, quartiles and extremes.
    pub fn summary(&self) -> Option<Summary> {
        Summary::of(&self.samples)
    }

    /// The key of the measure's table row, which all subjects share.
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
    /// The key as text: "first instruction, 512 MiB: time".
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
    /// Adds a sample to its measure.
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

    /// Reads a results file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).context(format!("read {}", path.display()))?;
        serde_json::from_str(&text).context(format!("understand {}", path.display()))
    }

    /// Returns the text of the results file.
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
