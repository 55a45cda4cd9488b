//! The form of the results, and what is made of several.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::results::Results;
use super::{compare, file, markdown, merge};
use crate::report::comparisons;

/// A run of six rounds whose guest needs `factor` times as long as its host.
fn run(machine: &str, factor: f64) -> Results {
    let text = include_str!("form.json");
    let mut results: Results = serde_json::from_str(text).unwrap();
    results.machine.name = machine.into();
    let template = results.rounds[0].clone();
    results.rounds = (0..6)
        .map(|round| {
            let mut turns = template.clone();
            for (subject, trial) in turns.iter_mut().enumerate() {
                let noise = 1.0 + 0.002 * ((round * 7 + subject * 3) % 5) as f64;
                let factor = if subject == 0 { 1.0 } else { factor };
                for sample in &mut trial.samples {
                    sample.median_us *= factor * noise;
                    sample.per_second /= factor * noise;
                }
            }
            turns
        })
        .collect();
    results.comparisons = comparisons::of(&results);
    results
}

/// The types of a value's parts, by their path. Elements of an array have one path.
fn shape(value: &Value, path: &str, found: &mut Vec<String>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(all) => {
            let path = format!("{path}[]");
            all.iter().for_each(|value| shape(value, &path, found));
            "array"
        }
        Value::Object(all) => {
            let each = all.iter();
            each.for_each(|(key, value)| shape(value, &format!("{path}.{key}"), found));
            "object"
        }
    };
    let line = format!("{path}: {kind}");
    if !found.contains(&line) {
        found.push(line);
    }
}

/// The file form.json is the form of version 1. A field that is missing, new or of another type
/// needs a new version.
#[test]
fn results_keep_their_form() {
    let text = include_str!("form.json");
    let known: Value = serde_json::from_str(text).unwrap();
    let results: Results = serde_json::from_str(text).unwrap();
    let written = serde_json::to_value(&results).unwrap();
    let (mut old, mut new) = (Vec::new(), Vec::new());
    shape(&known, "", &mut old);
    shape(&written, "", &mut new);
    old.sort();
    new.sort();
    assert_eq!(old, new);
    assert_eq!(results.schema, super::results::SCHEMA);
}

#[test]
fn files_of_another_form_are_refused() {
    let dir = std::env::temp_dir().join(format!("bench-report-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let results = run("a", 1.0);
    let paths = file::write(&dir.join("r"), &results, "text").unwrap();
    let read = file::read(&paths[0]).unwrap();
    assert_eq!(
        (read.subjects, read.context),
        (results.subjects, results.context)
    );
    assert_eq!(read.rounds.len(), 6);
    for (text, words) in [
        ("{\"schema\": 99}", "the form 99"),
        ("{\"schema\": 1}", "no results"),
        ("[]", "no results"),
    ] {
        std::fs::write(&paths[0], text).unwrap();
        let error = file::read(&paths[0]).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    assert!(file::read(Path::new("/nowhere")).is_err());
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_report_has_all_tables() {
    let text = markdown::text(&run("a", 1.2));
    for part in [
        "## 4 KiB reads, random, one at a time",
        "| mini-vmm to host | median time of a read | 1.20",
        "| mini-vmm again to mini-vmm |",
        "## The machine",
        "INVALID",
        "one at a time | mini-vmm | 1000 | 1.000 | 2.000 | 1.000 | 1.00 µs | 0.200 µs |",
        "sha256 abc",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn two_runs_of_one_device_are_compared() {
    let (before, after) = (run("a", 1.0), run("a", 1.2));
    let text = compare::text(&before, &after).unwrap();
    let row = |subject: &str| {
        let start = format!("| 4 KiB reads, random, one at a time | {subject} |");
        text.lines().find(|line| line.starts_with(&start)).unwrap()
    };
    assert!(row("host").ends_with("no difference |"), "{text}");
    assert!(row("mini-vmm").ends_with("more |"), "{text}");
    assert!(compare::text(&before, &run("b", 1.0)).is_err());
    let mut other = run("a", 1.0);
    other.works[0].depth = 2;
    assert!(compare::text(&before, &other).is_err());
}

#[test]
fn machines_are_never_put_together() {
    let named = |name: &str, factor: f64| (PathBuf::from(name), run(name, factor));
    let mut all: Vec<_> = [1.10, 1.11, 1.09, 1.12, 1.10, 1.08]
        .iter()
        .enumerate()
        .map(|(index, factor)| named(&format!("m{index}"), *factor))
        .collect();
    let text = merge::text(&all).unwrap();
    for (name, _) in &all {
        assert!(text.contains(&format!("| {} |", name.display())), "{text}");
    }
    let common = "Over 6 machines, each counted once: 1.1";
    assert!(text.contains(common), "{text}");
    let few = merge::text(&all[..2]).unwrap();
    assert!(few.contains("2 machines are too few"), "{few}");
    assert!(merge::text(&all[..1]).is_err());
    let refused = |all: &[(PathBuf, Results)]| merge::text(all).unwrap_err().to_string();
    all[1].1.machine.name = "m0".into();
    assert!(refused(&all).contains("same device"));
    all[1].1.works.pop();
    assert!(refused(&all).contains("other work"));
}
