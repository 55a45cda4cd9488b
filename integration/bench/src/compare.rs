//! `make bench-check`: lists the measures that differ between two results files. The reader judges
//! whether a higher value is better.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::figures::cell;
use crate::results::{Measure, Results};
use crate::stats::{Summary, apart};

/// The smallest relative change that is listed, even if the samples vary less.
const LEAST: f64 = 0.02;

/// Lists the measures that changed by more than their spread, counts the others, and lists the
/// measures that only one of the files has.
pub fn compare(a: &Results, b: &Results) -> String {
    let mut text = format!("A is of {}, B of {} (UTC).\n", a.date, b.date);
    let names: BTreeSet<&String> = a.about.keys().chain(b.about.keys()).collect();
    for name in names {
        let of = |results: &Results| results.about.get(name).cloned();
        let [of_a, of_b] = [of(a), of(b)].map(|value| value.unwrap_or_else(|| "nothing".into()));
        if of_a != of_b {
            let _ = writeln!(text, "  {name}: {of_a} in A, {of_b} in B");
        }
    }
    let (mut moved, mut same) = (Vec::new(), 0);
    let mut gone = Vec::new();
    for old in &a.measures {
        let Some(new) = find(b, old) else {
            gone.push(title(old));
            continue;
        };
        let (Some(before), Some(after)) = (old.summary(), new.summary()) else {
            continue;
        };
        match change(&before, &after) {
            Some(by) => moved.push((by, old, new)),
            None => same += 1,
        }
    }
    moved.sort_by(|x, y| y.0.abs().total_cmp(&x.0.abs()));
    let _ = writeln!(text, "\n{} moved beyond their spread:", moved.len());
    for (by, old, new) in moved {
        let by = if by.is_finite() {
            format!("{:+.0} %", by * 100.0)
        } else {
            "from nothing".into()
        };
        let _ = writeln!(
            text,
            "  {by:>6}  {}: {} → {}",
            title(old),
            cell(old),
            cell(new)
        );
    }
    let _ = writeln!(text, "{same} did not.");
    let new: Vec<String> = b
        .measures
        .iter()
        .filter(|measure| find(a, measure).is_none())
        .map(title)
        .collect();
    for (which, titles) in [("A", gone), ("B", new)] {
        if !titles.is_empty() {
            let _ = writeln!(text, "{} in {which} alone:", titles.len());
            for title in titles {
                let _ = writeln!(text, "  {title}");
            }
        }
    }
    text
}

fn find<'a>(results: &'a Results, like: &Measure) -> Option<&'a Measure> {
    results
        .measures
        .iter()
        .find(|measure| measure.subject == like.subject && measure.row() == like.row())
}

fn title(measure: &Measure) -> String {
    format!("{} [{}]", measure.row().title(), measure.subject)
}

/// The relative change of the median, if the samples of both files lie apart.
fn change(before: &Summary, after: &Summary) -> Option<f64> {
    let by = (after.median - before.median) / before.median.abs();
    (apart(before, after) && by.abs() >= LEAST).then_some(by)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::example;

    #[test]
    fn what_moved_is_told_and_what_did_not_is_counted() {
        let a = example();
        let mut b = a.clone();
        b.measures[0].samples = vec![80.0, 100.0];
        b.measures[1].samples = vec![2.1, 4.1];
        b.measures[2].subject = "another".into();
        let text = compare(&a, &b);
        assert!(text.contains("1 moved beyond"), "{text}");
        assert!(
            text.contains("+900 %  start, 512 MiB: time [peer]"),
            "{text}"
        );
        assert!(text.contains("1 did not."), "{text}");
        assert!(
            text.contains("1 in A alone:\n  start, 1024 MiB: time [mini-vmm]"),
            "{text}"
        );
        assert!(
            text.contains("1 in B alone:\n  start, 1024 MiB: time [another]"),
            "{text}"
        );
    }

    #[test]
    fn a_file_does_not_differ_from_itself() {
        let text = compare(&example(), &example());
        assert!(
            text.contains("0 moved") && text.contains("3 did not."),
            "{text}"
        );
    }

    #[test]
    fn what_was_measured_on_is_told_where_it_differs() {
        let (mut a, mut b) = (example(), example());
        a.about.insert("machine".into(), "a fast one".into());
        b.about = a.about.clone();
        b.about.insert("bare calls, version".into(), "2".into());
        let told = "(UTC).\n  bare calls, version: nothing in A, 2 in B\n\n";
        assert!(compare(&a, &b).contains(told), "{}", compare(&a, &b));
        let told = "(UTC).\n  bare calls, version: 2 in A, nothing in B\n\n";
        assert!(compare(&b, &a).contains(told), "{}", compare(&b, &a));
    }

    #[test]
    fn what_was_nothing_has_no_share() {
        let zero = Summary::of(&[0.0]).unwrap();
        let one = Summary::of(&[1.0]).unwrap();
        assert_eq!(change(&zero, &one), Some(f64::INFINITY));
        assert_eq!(change(&zero, &zero), None);
    }
}
