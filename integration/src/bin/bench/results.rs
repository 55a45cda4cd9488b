//! What was measured, as data: the JSON file that the tables, the plots and the comparison are made
//! from. A measure is one quantity of one piece of work under one subject, with all its samples.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use lab::Result;
use lab::error::Context;
use serde::{Deserialize, Serialize};

use crate::stats::Summary;
use crate::targets::Target;

/// The subject that all others are compared with.
pub const SUBJECT: &str = "mini-vmm";
/// The subject that is the kernel alone (src/bin/floor).
pub const FLOOR: &str = "bare calls";
/// The same without CPUID, which is less than any kernel can do with.
pub const LEAST: &str = "bare calls without CPUID";
/// The same where there are two interfaces for it: their names in src/bin/floor, and what they are
/// called.
pub const FLOORS: [(&str, &str); 2] = [
    ("iommufd", "bare calls, iommufd"),
    ("type1", "bare calls, type 1"),
];

/// All of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The form of this file, 1.
    pub version: u32,
    /// When, in UTC: 2026-01-31 12:00.
    pub date: String,
    /// What was measured on, and what: name and value.
    pub about: BTreeMap<String, String>,
    /// The figures.
    pub measures: Vec<Measure>,
    /// What could not be measured, and why.
    pub missing: Vec<String>,
    /// What was to be reached, and whether it is.
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
    /// With how much of what, where that is varied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Place>,
    /// What was measured, such as "time".
    pub quantity: String,
    /// Its unit, such as "ms".
    pub unit: String,
    /// Who did it: mini-vmm, a peer, or what there is without a VMM.
    pub subject: String,
    /// The figures, in the order in which they came.
    pub samples: Vec<f64>,
}

/// A place on an axis along which work grows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// What grows, with its unit if it has one: "vCPUs", "MiB".
    pub axis: String,
    /// How much of it there is.
    pub value: f64,
}

/// What a measure is, without its figures.
#[derive(Clone, Debug, PartialEq)]
pub struct Key<'a> {
    /// Part of the bench.
    pub part: u8,
    /// What was done.
    pub work: &'a str,
    /// Along which axis, and where.
    pub at: Option<(&'a str, f64)>,
    /// What was measured, and in which unit.
    pub quantity: (&'a str, &'a str),
}

impl Measure {
    /// The median and so on.
    pub fn summary(&self) -> Option<Summary> {
        Summary::of(&self.samples)
    }

    /// What stands in one row of a table, whoever did it.
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
            at: key.at.map(|(axis, value)| Place {
                axis: axis.to_owned(),
                value,
            }),
            quantity: key.quantity.0.to_owned(),
            unit: key.quantity.1.to_owned(),
            subject: subject.to_owned(),
            samples: vec![sample],
        });
    }

    /// The parts that there are figures of.
    pub fn parts(&self) -> Vec<u8> {
        let mut parts: Vec<u8> = self.measures.iter().map(|measure| measure.part).collect();
        parts.sort_unstable();
        parts.dedup();
        parts
    }

    /// A part's rows, each with who did it, in the order in which they were first measured.
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

    /// A part's subjects: mini-vmm first, then as they came.
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

    /// Two subjects, one of them at two places.
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
