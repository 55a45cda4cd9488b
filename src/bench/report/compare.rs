//! Two runs on one machine, such as before and after a change: what became faster or slower.

use crate::error::{Error, Result};
use crate::report::add::add_line;
use crate::report::comparisons::in_words;
use crate::report::escape::escape;
use crate::report::measured::{self, Measured};
use crate::report::results::Results;
use crate::stats::ratio::{MISSED, Ratio, corrected};

/// The comparison as Markdown: the second run's values by the first one's.
///
/// # Errors
/// The runs did other work, or measured other devices.
pub fn text(a: &Results, b: &Results) -> Result<String> {
    check(a, b)?;
    let mut text = format!(
        "# {} of {}: {} to {}\n\n{}",
        escape(&a.device.address),
        escape(&a.machine.name),
        escape(&b.date),
        escape(&a.date),
        differences(a, b)
    );
    text.push_str(
        "| work | subject | quantity | before | after | ratio | interval | |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let common: Vec<&str> = names(a)
        .filter(|name| names(b).any(|n| n == *name))
        .collect();
    let measured: Vec<Measured<'_>> = measured::all(a).collect();
    let missed = corrected(MISSED, common.len() * measured.len());
    for work in measured {
        for name in &common {
            let values = |results: &Results| {
                let index = names(results).position(|n| n == *name);
                index.map_or_else(Vec::new, |index| results.values(index, work.name()))
            };
            let (before, after) = (values(a), values(b));
            // A guest whose VMM is not restarted has no reboot, and an older run no moment.
            if before.is_empty() || after.is_empty() {
                continue;
            }
            let ratio = Ratio::of_two_runs(&before, &after, missed);
            let middle = |values: &[f64]| work.value(crate::stats::summary::median(values));
            add_line(
                &mut text,
                format_args!(
                    "| {} | {} | {} | {} | {} | {} | {} | {} |",
                    work.in_words(),
                    escape(name),
                    work.quantity(),
                    middle(&before),
                    middle(&after),
                    ratio.map_or_else(|| "-".into(), |r| format!("{:.4}", r.ratio)),
                    ratio.map_or_else(|| "-".into(), |r| format!("{:.4}–{:.4}", r.low, r.high)),
                    in_words(ratio.as_ref())
                ),
            );
        }
    }
    text.push_str(
        "\nA ratio is the value after by the value before. The interval holds the true ratio in \
         95 % of all pairs of runs, for all rows together (Bonferroni). What the machine did \
         differently between the two runs is part of the ratio: subjects of one run are compared \
         in its own report.\n",
    );
    Ok(text)
}

fn names(results: &Results) -> impl Iterator<Item = &str> {
    results.subjects.iter().map(|subject| subject.name.as_str())
}

fn check(a: &Results, b: &Results) -> Result<()> {
    if a.works != b.works || a.method.engine != b.method.engine {
        return Err(Error::new(
            "the two runs did other work, so nothing can be compared",
        ));
    }
    let device = |results: &Results| match &results.device.serial {
        Some(serial) => serial.clone(),
        // A disk without a number, and what is neither disk nor port.
        None => results.device.address.clone(),
    };
    if a.machine.name != b.machine.name || device(a) != device(b) {
        return Err(
            Error::new("the two runs measured other devices, so nothing can be compared")
                .with_hint("mini-vmm-bench merge FILE… shows several machines, a line each"),
        );
    }
    Ok(())
}

/// What else differs between the two runs.
fn differences(a: &Results, b: &Results) -> String {
    let mut text = String::new();
    let mut line = |what: &str, before: &str, after: &str| {
        if before != after {
            add_line(
                &mut text,
                format_args!(
                    "- {}: {}, then {}",
                    escape(what),
                    escape(before),
                    escape(after)
                ),
            );
        }
    };
    line("kernel", &a.machine.kernel, &b.machine.kernel);
    line(
        "guest's kernel",
        &a.method.guest_kernel,
        &b.method.guest_kernel,
    );
    line("memory", &a.method.memory, &b.method.memory);
    let end = |results: &Results| results.method.other_end.clone().unwrap_or_default();
    line("other end of the link", &end(a), &end(b));
    line(
        "CPUs",
        &format!("{:?}", a.method.cpus),
        &format!("{:?}", b.method.cpus),
    );
    line(
        "time of a measurement",
        &format!("{} ms", a.method.measure_ms),
        &format!("{} ms", b.method.measure_ms),
    );
    for (before, after) in a.programs().zip(b.programs()) {
        line("program", &before.in_words(), &after.in_words());
    }
    for fact in &b.context {
        let before = a.context.iter().find(|f| f.name == fact.name);
        line(
            &fact.name,
            before.map_or("unknown", |f| &f.text),
            &fact.text,
        );
    }
    if !text.is_empty() {
        text.insert_str(0, "What else differs:\n\n");
        text.push('\n');
    }
    text
}
