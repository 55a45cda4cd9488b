//! A run as Markdown.

use crate::report::add::{add, add_line};
use crate::report::escape::{code, escape};
use crate::report::measured;
use crate::report::results::Results;
use crate::report::tables::{self, Table};
use crate::report::words;

/// A run as Markdown.
pub fn text(results: &Results) -> String {
    let mut text = format!("# {}\n\n", escape(&words::title(results)));
    for line in words::method(results) {
        add_line(&mut text, format_args!("{}", escape(&line)));
    }
    text.push('\n');
    for note in words::notes(results) {
        add_line(&mut text, format_args!("- {}", escape(&note)));
    }
    for work in &results.works {
        section(
            &mut text,
            &work.in_words(),
            "",
            &tables::values(results, work),
        );
    }
    if measured::moments(results).next().is_some() {
        let table = tables::moments(results);
        section(&mut text, words::MOMENTS_HEAD, words::MOMENTS, &table);
    }
    if !results.counts.is_empty() {
        let table = tables::costs(results);
        section(&mut text, "What an operation costs", words::COSTS, &table);
        let table = tables::kinds(results);
        section(
            &mut text,
            "Exits and interrupts by kind",
            words::KINDS,
            &table,
        );
    }
    if !results.interrupts.is_empty() {
        let table = tables::interrupts(results);
        section(&mut text, words::INTERRUPTS_HEAD, words::INTERRUPTS, &table);
    }
    let table = tables::anchors(results);
    section(&mut text, words::ANCHORS_HEAD, words::ANCHORS, &table);
    section(&mut text, "The machine", "", &tables::context(results));
    let table = tables::comparisons(results);
    section(&mut text, "Comparisons", words::COMPARISONS, &table);
    text
}

fn section(text: &mut String, title: &str, about: &str, table: &Table) {
    add(text, format_args!("\n## {title}\n\n"));
    if !about.is_empty() {
        add(text, format_args!("{about}\n\n"));
    }
    row(text, table.heads.iter().map(|head| escape(head)));
    row(text, table.heads.iter().map(|_| "---".into()));
    for cells in &table.rows {
        let cells = cells.iter().enumerate().map(|(column, cell)| {
            match table.commands == Some(column) && !cell.is_empty() {
                true => code(cell),
                false => escape(cell),
            }
        });
        row(text, cells);
    }
}

fn row(text: &mut String, cells: impl Iterator<Item = String>) {
    text.push('|');
    for cell in cells {
        add(text, format_args!(" {cell} |"));
    }
    text.push('\n');
}
