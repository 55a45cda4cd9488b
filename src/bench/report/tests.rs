//! The form of the results, and what is made of several.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::results::Results;
use super::{compare, csv, file, markdown, merge};
use crate::page::html;
use crate::report::comparisons;
use crate::reports;
use crate::subjects::list::{Change, Kind};

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
    let path = file::write(&dir.join("r"), &results).unwrap();
    let read = file::read(&path).unwrap();
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
        std::fs::write(&path, text).unwrap();
        let error = file::read(&path).unwrap_err().to_string();
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
        "| mini-vmm | 1000 | 1.000 | 2.000 | 1.000 | 1.00 µs | 0.200 µs (vhost 0.200 µs) | 3000 | \
         1500 |",
        "sha256 abc",
        "## Published figures",
        "| THIS RUN: start of mini-vmm to the driver",
        "| 4.27 s | two Broadwell processors, bound to one | Linux commit 4d83de6da265",
        "| 8 min 57 s with 1 thread",
        "| mini-vmm | 1000 | 500 | 1.50 µs | 4.50 µs | 4.00 µs | 5.00 µs | \\- |",
        "No time of an interrupt of mini-vmm again: the device has sent no message",
        "## Start, reset and reboot",
        "| host | \\- | \\- | \\- | 101 ms (101–101) | \\- |",
        "| mini-vmm | 3.50 ms (3.50–3.50) | 700 ms",
        "No reset of mini-vmm again: the kernel knows no reset",
        "| start to /init | mini-vmm again to mini-vmm | time | 1.0000 |",
        "fio-3.33 measured 81.50 for 4 KiB reads",
        "iperf3 did not check these figures: there is no iperf3 in PATH.",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

/// The pass that counts had 2.000 exits a read, and its idle window of 7.75 s had 20.
#[test]
fn exits_of_both_passes_are_compared() {
    let notes = |change: &dyn Fn(&mut Results)| {
        let mut results = run("a", 1.0);
        change(&mut results);
        markdown::text(&results)
    };
    let exits = |exits: u64| {
        move |results: &mut Results| {
            for turns in &mut results.rounds {
                turns[1].totals[0].exits = exits;
            }
        }
    };
    // 1,250 reads with 2 exits each, and those of 6.3 idle seconds.
    for (number, wanted) in [
        (2516, true),
        (2566, true),
        (2574, false),
        (2467, true),
        (2458, false),
    ] {
        let text = notes(&exits(number));
        assert_eq!(text.contains("In 1 of 1 kinds"), wanted, "{number}: {text}");
        let differs = "DIFFER by more than 2 %: mini-vmm, 4 KiB reads, random, one at a time: ";
        assert_eq!(text.contains(differs), !wanted, "{number}: {text}");
    }
    let unknown = notes(&|results| {
        let turns = results.rounds.iter_mut().flatten();
        turns.for_each(|trial| trial.totals.clear());
    });
    assert!(unknown.contains("mount -t debugfs"), "{unknown}");
    let no_pmu = notes(&|results| {
        let counts = results.counts.iter_mut();
        counts.for_each(|count| {
            count.costs.guest_cycles = None;
            count.no_cycles = Some("not here (os error 2)".into());
        });
    });
    assert!(
        no_pmu.contains("cycles (not here (os error 2))"),
        "{no_pmu}"
    );
    assert!(!unknown.contains("No counter"), "{unknown}");
    let uncounted = notes(&|results| results.counts.clear());
    assert!(!uncounted.contains("pass that counts"), "{uncounted}");
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

/// A function that is neither disk nor port has no work, and its moments alone are compared.
#[test]
fn a_function_without_work_has_its_moments() {
    let function = |factor: f64| {
        let mut results = run("a", 1.0);
        results.works.clear();
        results.counts.clear();
        (results.device.model, results.device.serial) = (None, None);
        for trial in results.rounds.iter_mut().flatten() {
            trial.samples.clear();
            trial.moments.init_us = trial.moments.init_us.map(|us| us * factor);
        }
        results.comparisons = comparisons::of(&results);
        results
    };
    let text = markdown::text(&function(1.0));
    assert!(text.contains("PCI function, driver nvme"), "{text}");
    // The host has its reset alone, and mini-vmm's second guest none.
    let compared = text.matches(" | time | ").count();
    assert_eq!(compared, 1 + 4, "{text}");
    let text = compare::text(&function(1.0), &function(1.5)).unwrap();
    let start = "| start to /init | mini-vmm | time | 700 ms | 1050 ms |";
    assert!(text.contains(start), "{text}");
    let mut other = function(1.0);
    other.device.address = "0000:02:00.0".into();
    assert!(compare::text(&function(1.0), &other).is_err());
    // One run lacks a moment.
    let mut less = function(1.0);
    for trial in less.rounds.iter_mut().flatten() {
        trial.moments.init_us = None;
    }
    for (before, after) in [(&less, &function(1.0)), (&function(1.0), &less)] {
        let text = compare::text(before, after).unwrap();
        assert!(
            !text.contains("start to /init") && !text.contains("0.000 ms"),
            "{text}"
        );
    }
    assert!(html::text(&function(1.0)).contains("start to /init, ms"));
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

/// A run with a changed mechanism, a slow subject, and a device that says what it likes.
fn hostile() -> Results {
    let mut results = run("<script>alert(1)</script>", 1.2);
    let evil = "\"><img src=x onerror=a()>|`=[x](http://a)\u{1b}[2J\r\n";
    results.device.model = Some(evil.into());
    results.device.serial = Some(evil.into());
    results.context[0].text = evil.into();
    results.context[0].remedy = Some(evil.into());
    results.ended = evil.into();
    let Kind::MiniVmm { program, .. } = results.subjects[1].kind.clone() else {
        unreachable!()
    };
    let mut changed = results.subjects[1].clone();
    changed.name = format!("mini-vmm, mmap=off {evil}");
    changed.kind = Kind::MiniVmm {
        program,
        change: Some(Change::Mmap),
    };
    results.subjects.push(changed);
    for turns in &mut results.rounds {
        let mut slow = turns[1].clone();
        slow.subject = 3;
        for sample in &mut slow.samples {
            (sample.median_us, sample.per_second) =
                (sample.median_us * 500.0, sample.per_second / 500.0);
            sample.histogram = vec![(40_000_000, 1000), (50_000_000, 100)];
        }
        turns.push(slow);
    }
    results.comparisons = comparisons::of(&results);
    results
}

#[test]
fn the_page_is_whole_and_needs_nothing_else() {
    let page = html::text(&hostile());
    let tags = || {
        page.split('<')
            .skip(1)
            .filter_map(|part| part.split_once('>'))
    };
    for (tag, _) in tags() {
        for word in ["script", "img", "link", "src=", "href=", "onerror"] {
            assert!(
                !tag.contains(word) || tag.contains("aria-label"),
                "{word} in <{tag}>"
            );
        }
        // A device's text is within its quotes.
        assert!(tag.matches('"').count().is_multiple_of(2), "<{tag}>");
    }
    for word in ["@import", "url(", "\u{1b}"] {
        assert!(!page.contains(word), "{word} in {page}");
    }
    for tag in [
        "html", "head", "body", "style", "table", "thead", "tbody", "tr", "td", "th", "svg", "p",
        "ul", "li", "div", "small", "text", "h2", "code",
    ] {
        let open =
            page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(open, page.matches(&format!("</{tag}>")).count(), "{tag}");
        assert!(open > 0, "{tag}");
    }
    for part in [
        "INVALID, link",
        "What each mechanism buys",
        "<h2>Starts</h2>",
        "<h2>Start, reset and reboot</h2>",
        "reboot of the guest, ms",
        "published: QEMU, 16 GiB",
        "4d83de6da265",
        "&lt;script&gt;alert(1)&lt;/script&gt;",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
    // A bar for the mechanism and one for each other comparison, for both kinds of work.
    let steps = page.matches("class=\"step\"").count();
    let known = hostile().comparisons;
    let known = known.iter().filter(|row| row.ratio.is_some());
    assert_eq!(steps, 2 + known.count());
    // A run without changes has no waterfall.
    assert!(!html::text(&run("a", 1.2)).contains("What each mechanism buys"));
}

#[test]
fn a_device_writes_no_markdown() {
    let text = markdown::text(&hostile());
    assert!(!text.contains(['\u{1b}', '\r']), "{text}");
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let bars = line.replace("\\|", "").matches('|').count();
        let columns = [5, 7, 8, 10, 11, 12];
        assert!(columns.contains(&bars), "{bars}: {line}");
    }
    // Within code, nothing is HTML.
    let rest = text.replace("\\<", "").replace("`\"><img", "");
    assert!(!rest.contains("<img"), "{text}");
}

#[test]
fn every_sample_is_a_line_of_values() {
    let results = hostile();
    let text = csv::text(&results);
    let lines: Vec<&str> = text.split_terminator("\r\n").collect();
    // Six rounds of four subjects with two kinds of work and their moments, below the heads.
    assert_eq!(lines.len(), 1 + 6 * (4 * 2 + 1 + 5 + 4 + 5));
    assert!(lines[0].ends_with("median_us,p50_us,p90_us,p99_us,p99.9_us,p99.99_us"));
    let columns = lines[0].matches(',').count();
    let plain: Vec<&&str> = lines
        .iter()
        .filter(|line| line.contains(",host,"))
        .collect();
    assert_eq!(plain.len(), 6 * 3);
    assert!(
        plain
            .iter()
            .all(|line| line.matches(',').count() == columns),
        "{plain:?}"
    );
    let first = lines
        .iter()
        .find(|line| line.contains(",1,host,,0.000,,read-4k-d1,50000,5,"));
    assert!(
        first.is_some_and(|line| line.contains(",80.063,90.047,")),
        "{first:?}"
    );
    let again = lines
        .iter()
        .filter(|line| line.contains(",mini-vmm again,mini-vmm,"));
    assert_eq!(again.count(), 6 * (2 + 4));
    let reset = ",mini-vmm,,11.500,900,function-reset,1,0.1020005,,102000.5,,,,,";
    assert_eq!(text.matches(reset).count(), 6, "{text}");
}

#[test]
fn reports_are_written_anew_from_the_json() {
    let dir = std::env::temp_dir().join(format!("bench-anew-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let name = dir.join("a.b");
    let results = hostile();
    let path = file::write(&name, &results).unwrap();
    let paths = reports::write(&name, &file::read(&path).unwrap()).unwrap();
    let page = std::fs::read_to_string(&paths[2]).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(page, html::text(&results));
    let ends: Vec<_> = paths.iter().map(|path| path.file_name().unwrap()).collect();
    assert_eq!(ends, ["a.b.md", "a.b.csv", "a.b.html"]);
}
