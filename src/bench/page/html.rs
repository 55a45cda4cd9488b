//! The page.

use crate::context::fact::Verdict;
use crate::page::escape::escape;
use crate::page::rows::{self, Row};
use crate::page::tails;
use crate::report::add::add;
use crate::report::anchors::{SOURCE, STARTS};
use crate::report::comparison::Comparison;
use crate::report::measured;
use crate::report::results::Results;
use crate::report::tables::{self, Table};
use crate::report::words;
use crate::stats::summary::Summary;
use crate::subjects::list::Kind;
use crate::work::quantity;
use crate::work::task::Work;

const STYLE: &str = include_str!("style.css");

/// What the plots of values show.
const VALUES: &str = "The dot is the median of the rounds, the thick bar goes from quartile to \
    quartile, and the thin line from the least to the most. The axis is logarithmic and does not \
    begin at zero.";

/// What the plot of single operations shows.
const TAILS: &str = "The share of single operations that took longer than a time. A line ends \
    where fewer than 30 are left.";

/// What the plot of starts shows (`ready_ms`).
const STARTS_ARE: &str = "From the moment at which the VMM was started until the guest's driver \
    showed the disk, or its port had a carrier: the device's change of drivers, the VMM's start \
    and the guest's boot are in \
    it. mini-vmm changes the drivers itself. For another VMM that gets the device, mini-vmm host \
    bind does that just before, and the time begins with that command.";

/// A run as a page.
pub fn text(results: &Results) -> String {
    let title = escape(&words::title(results));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title}</title>\n<style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
    );
    for line in words::method(results) {
        add(&mut page, format_args!("<p>{}</p>\n", escape(&line)));
    }
    doubts(&mut page, results);
    page.push_str("<ul>\n");
    for note in words::notes(results) {
        add(&mut page, format_args!("<li>{}</li>\n", escape(&note)));
    }
    page.push_str("</ul>\n");
    for work in &results.works {
        one_work(&mut page, results, work);
    }
    moments(&mut page, results);
    mechanisms(&mut page, results);
    ratios(&mut page, results);
    if !results.counts.is_empty() {
        head(&mut page, "What an operation costs", words::COSTS);
        table(&mut page, &tables::costs(results));
        head(&mut page, "Exits and interrupts by kind", words::KINDS);
        table(&mut page, &tables::kinds(results));
    }
    if !results.interrupts.is_empty() {
        head(&mut page, words::INTERRUPTS_HEAD, words::INTERRUPTS);
        table(&mut page, &tables::interrupts(results));
    }
    starts(&mut page, results);
    head(&mut page, "The machine", "");
    table(&mut page, &tables::context(results));
    page.push_str("</body></html>\n");
    page
}

/// Facts by which the figures say nothing about the device come first.
fn doubts(page: &mut String, results: &Results) {
    let facts = results.context.iter();
    for fact in facts.filter(|fact| fact.verdict == Verdict::Invalid) {
        add(
            page,
            format_args!(
                "<p class=\"invalid\">INVALID, {}: {}</p>\n",
                escape(&fact.name),
                escape(&fact.text)
            ),
        );
    }
}

fn one_work(page: &mut String, results: &Results, work: &Work) {
    head(page, &work.in_words(), VALUES);
    let subjects = results.subjects.iter().enumerate();
    let rows: Vec<Row> = subjects
        .map(|(index, subject)| {
            let values = results.values(index, &work.name);
            let in_words = |value| quantity::in_words(work, value);
            let mut row = measured(&subject.name, &values, &in_words);
            // What could not be made equal stands beside the figure.
            if let Kind::Peer { differs, .. } = &subject.kind {
                row.note = format!("not equal: {differs}");
            }
            row
        })
        .collect();
    let unit = if quantity::is_time(work) { ", µs" } else { "" };
    let title = format!("{}{unit}", quantity::name(work));
    page.push_str(&rows::plot(&title, &rows, None));
    table(page, &tables::values(results, work));
    let subjects = results.subjects.iter().enumerate();
    let times: Vec<_> = subjects
        .map(|(index, subject)| (subject.name.as_str(), results.latencies(index, &work.name)))
        .collect();
    let tails = tails::plot(&times);
    if !tails.is_empty() {
        add(page, format_args!("<p>{TAILS}</p>\n{tails}"));
    }
}

/// A row of values that were measured in rounds.
fn measured(name: &str, values: &[f64], in_words: &dyn Fn(f64) -> String) -> Row {
    let summary = Summary::of(values);
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    Row {
        name: name.into(),
        figure: summary.map_or_else(|| "-".into(), |s| in_words(s.median)),
        value: summary.map(|s| s.median),
        range: summary.map(|s| (s.first, s.third)),
        whole: summary.map(|_| (least, most)),
        ..Row::default()
    }
}

/// A plot of each moment, and their table.
fn moments(page: &mut String, results: &Results) {
    let mut all = measured::moments(results).peekable();
    if all.peek().is_none() {
        return;
    }
    head(page, words::MOMENTS_HEAD, words::MOMENTS);
    for moment in all {
        let subjects = results.subjects.iter().enumerate();
        let rows: Vec<Row> = subjects
            .map(|(index, subject)| (subject, results.values(index, moment.name())))
            .filter(|(_, values)| !values.is_empty())
            .map(|(subject, values)| {
                let values: Vec<f64> = values.iter().map(|us| us / 1000.0).collect();
                let in_words = |ms: f64| measured::milliseconds(ms * 1000.0);
                measured(&subject.name, &values, &in_words)
            })
            .collect();
        page.push_str(&rows::plot(
            &format!("{}, ms", moment.in_words()),
            &rows,
            None,
        ));
    }
    table(page, &tables::moments(results));
}

/// The waterfall: mini-vmm as it is, and what changes when one mechanism is changed.
fn mechanisms(page: &mut String, results: &Results) {
    let changed = |index: &usize| {
        let subject = results.subjects.get(*index);
        subject.is_some_and(|subject| {
            let is_change = matches!(
                subject.kind,
                Kind::MiniVmm {
                    change: Some(_),
                    ..
                }
            );
            is_change && subject.repeats.is_none()
        })
    };
    let indices: Vec<usize> = (0..results.subjects.len()).filter(changed).collect();
    if indices.is_empty() {
        return;
    }
    head(
        page,
        "What each mechanism buys",
        "Each bar begins at mini-vmm as it is (1), and ends at the ratio to which one changed \
         mechanism brings it. The thin line is the interval of the ratio. A time of more than 1 \
         and a rate of less than 1 is what the mechanism saves.",
    );
    for work in &results.works {
        let rows: Vec<Row> = indices
            .iter()
            .filter_map(|index| results.comparison(1, *index, &work.name))
            .map(|row| ratio(results.subjects[row.other].name.clone(), row))
            .collect();
        let title = format!("{}, {}", work.in_words(), quantity::name(work));
        page.push_str(&rows::plot(&title, &rows, Some(1.0)));
    }
}

fn ratios(page: &mut String, results: &Results) {
    head(page, "Comparisons", words::COMPARISONS);
    for work in measured::all(results) {
        let of_work = results
            .comparisons
            .iter()
            .filter(|row| row.work == work.name());
        let rows: Vec<Row> = of_work
            .map(|row| ratio(tables::compared(results, row), row))
            .collect();
        let title = format!("{}: ratio of the {}", work.in_words(), work.quantity());
        page.push_str(&rows::plot(&title, &rows, Some(1.0)));
    }
    table(page, &tables::comparisons(results));
}

fn ratio(name: String, row: &Comparison) -> Row {
    let figure = row
        .ratio
        .map(|ratio| format!("{ratio:.4} ({})", tables::interval(row)));
    Row {
        name,
        note: row.verdict.clone(),
        figure: figure.unwrap_or_else(|| "-".into()),
        value: row.ratio,
        whole: row.interval,
        ..Row::default()
    }
}

/// The time from the start of each VMM until the guest had its disk, and published figures.
fn starts(page: &mut String, results: &Results) {
    let mut rows = Vec::new();
    for (index, subject) in results.subjects.iter().enumerate() {
        let turns = results.rounds.iter().filter_map(|turns| turns.get(index));
        let seconds: Vec<f64> = turns
            .filter_map(|trial| Some(trial.ready_ms? as f64 / 1000.0))
            .collect();
        if !seconds.is_empty() {
            let mut row = measured(&subject.name, &seconds, &in_seconds);
            row.note = format!("this run: {} of memory", results.method.memory);
            rows.push(row);
        }
    }
    if rows.is_empty() {
        return;
    }
    for anchor in &STARTS {
        rows.push(Row {
            name: format!("published: QEMU, {} GiB in pages of 4 KiB", anchor.gib),
            figure: in_seconds(anchor.seconds),
            value: Some(anchor.seconds),
            faint: true,
            ..Row::default()
        });
    }
    head(page, "Starts", STARTS_ARE);
    page.push_str(&rows::plot("seconds", &rows, None));
    add(
        page,
        format_args!(
            "<p><small>Published figures (hollow): {}. They are of another machine and without a \
             guest's boot, and show how a start grows with memory, not who is \
             faster.</small></p>\n",
            escape(SOURCE)
        ),
    );
    add(page, format_args!("<h3>{}</h3>\n", words::ANCHORS_HEAD));
    table(page, &tables::anchors(results));
}

fn in_seconds(seconds: f64) -> String {
    format!("{} s", quantity::digits(seconds))
}

fn head(page: &mut String, title: &str, about: &str) {
    add(page, format_args!("<h2>{}</h2>\n", escape(title)));
    if !about.is_empty() {
        add(page, format_args!("<p>{}</p>\n", escape(about)));
    }
}

fn table(page: &mut String, table: &Table) {
    page.push_str("<div class=\"wide\"><table class=\"data\"><thead><tr>");
    for head in &table.heads {
        add(page, format_args!("<th>{}</th>", escape(head)));
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for row in &table.rows {
        page.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let cell = escape(cell);
            match table.commands == Some(column) && !cell.is_empty() {
                true => add(page, format_args!("<td><code>{cell}</code></td>")),
                false => add(page, format_args!("<td>{cell}</td>")),
            }
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody></table></div>\n");
}
