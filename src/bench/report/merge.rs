//! The results of many machines. Samples of two machines are never put together: each machine has
//! a line of its own, and counts once in what they have in common.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::report::add::{add, add_line};
use crate::report::escape::escape;
use crate::report::results::Results;
use crate::stats::ratio::{MISSED, Ratio, corrected};
use crate::subjects::list::Subject;
use crate::work::quantity;

/// The results of some machines as Markdown.
///
/// # Errors
/// There are fewer than two results, a device is there twice, or the results differ in their work
/// or their program.
pub fn text(all: &[(PathBuf, Results)]) -> Result<String> {
    check(all)?;
    let first = &all[0].1;
    let mut text = format!("# {} machines\n", all.len());
    for program in first.programs() {
        add(
            &mut text,
            format_args!("\n- {}", escape(&program.in_words())),
        );
    }
    text.push('\n');
    let missed = corrected(MISSED, first.works.len());
    for work in &first.works {
        add(
            &mut text,
            format_args!(
                "\n## {}\n\n\
             | machine | device | rounds | host | mini-vmm | ratio | interval | noise | |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
                work.in_words()
            ),
        );
        let mut ratios = Vec::new();
        for (_, results) in all {
            let row = results.comparison(0, 1, &work.name);
            let repeats = |s: &Subject| s.repeats == Some(1);
            let again = results.subjects.iter().position(repeats);
            let again = again.and_then(|index| results.comparison(1, index, &work.name));
            ratios.extend(row.and_then(|row| row.ratio));
            let value = |subject: usize| {
                let values = results.values(subject, &work.name);
                quantity::in_words(work, crate::stats::summary::median(&values))
            };
            let number =
                |value: Option<f64>| value.map_or_else(|| "-".into(), |v| format!("{v:.4}"));
            let interval = row.and_then(|row| row.interval);
            let model = results.device.model.as_deref();
            add_line(
                &mut text,
                format_args!(
                    "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                    escape(&results.machine.name),
                    escape(model.unwrap_or(&results.device.address)),
                    results.rounds.len(),
                    value(0),
                    value(1),
                    number(row.and_then(|row| row.ratio)),
                    interval.map_or_else(|| "-".into(), |(a, b)| format!("{a:.4}–{b:.4}")),
                    number(again.and_then(|row| row.ratio)),
                    row.map_or("-", |row| row.verdict.as_str())
                ),
            );
        }
        add(&mut text, format_args!("\n{}", common(&ratios, missed)));
    }
    text.push_str(
        "\nA ratio is mini-vmm's value by the host's on that machine. Noise is the ratio of \
         mini-vmm to itself.\n",
    );
    Ok(text)
}

/// What the machines have in common.
fn common(ratios: &[f64], missed: f64) -> String {
    match Ratio::over_machines(ratios, missed) {
        Some(ratio) => format!(
            "Over {} machines, each counted once: {:.4} ({:.4}–{:.4}).\n",
            ratio.rounds, ratio.ratio, ratio.low, ratio.high
        ),
        None => format!(
            "{} machines are too few for an interval over machines.\n",
            ratios.len()
        ),
    }
}

fn check(all: &[(PathBuf, Results)]) -> Result<()> {
    let [(path, first), others @ ..] = all else {
        return Err(Error::new("there is nothing to merge"));
    };
    if others.is_empty() {
        return Err(Error::new("one result alone cannot be merged")
            .with_hint("mini-vmm-bench merge FILE FILE…"));
    }
    let key = |results: &Results| {
        let programs = results.programs().map(|program| program.sha256.clone());
        programs.collect::<Vec<_>>()
    };
    for (index, (other, results)) in others.iter().enumerate() {
        let differs = match results {
            r if r.works != first.works || r.method.engine != first.method.engine => "other work",
            r if r.method.measure_ms != first.method.measure_ms => "another time of measurement",
            r if key(r) != key(first) => "another program",
            _ => {
                let device = |r: &Results| (r.machine.name.clone(), r.device.address.clone());
                let before = &all[..=index];
                let twice = before.iter().find(|(_, r)| device(r) == device(results));
                if let Some((path, _)) = twice {
                    return Err(Error::new(format!(
                        "{} and {} are of the same device, and each device counts once",
                        path.display(),
                        other.display()
                    )));
                }
                continue;
            }
        };
        return Err(Error::new(format!(
            "{} has {differs} than {}, so they cannot stand in one table",
            other.display(),
            path.display()
        )));
    }
    Ok(())
}
