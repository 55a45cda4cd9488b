//! The counts at the end, as text.

use std::fmt::Write;

use crate::guest::access::Space;
use crate::output::text::duration;
use crate::summary::Summary;

/// Rows of a table that are shown.
const ROWS: usize = 40;

/// Calls by name, exits by reason, and accesses by register.
pub fn text(summary: &Summary) -> String {
    let mut text = String::new();
    calls(&mut text, summary);
    if summary.total() > 0 || summary.coalesced > 0 {
        exits(&mut text, summary);
        registers(&mut text, summary);
    }
    text
}

fn calls(text: &mut String, summary: &Summary) {
    let calls = summary.calls();
    let _ = writeln!(
        text,
        "\n{:>9} {:>8} {:>10}  call",
        "calls", "errors", "time"
    );
    for (name, calls) in calls.iter().take(ROWS) {
        let errors = match calls.errors {
            0 => String::new(),
            errors => errors.to_string(),
        };
        let time = duration(calls.ns);
        let _ = writeln!(text, "{:>9} {errors:>8} {time:>10}  {name}", calls.count);
    }
    more(text, calls.len());
}

fn more(text: &mut String, rows: usize) {
    if rows > ROWS {
        let _ = writeln!(text, "{:>9} more", rows - ROWS);
    }
}

fn exits(text: &mut String, summary: &Summary) {
    let _ = writeln!(text, "\n{:>9}  reason", "exits");
    for (reason, count) in summary.reasons() {
        let _ = writeln!(text, "{count:>9}  {reason}");
    }
    let _ = writeln!(text, "{:>9}  in all", summary.total());
    if summary.immediate > 0 {
        let of = "returns with immediate_exit, in which no guest ran";
        let _ = writeln!(text, "{:>9}  {of}", summary.immediate);
    }
}

fn registers(text: &mut String, summary: &Summary) {
    let registers = summary.registers();
    let _ = writeln!(text, "\n{:>9} {:>9}  register", "exits", "coalesced");
    for (register, accesses) in registers.iter().take(ROWS) {
        let verb = match (register.space, register.write) {
            (Space::Port, true) => "out",
            (Space::Port, false) => "in",
            (Space::Memory, true) => "store",
            (Space::Memory, false) => "load",
        };
        let (exits, coalesced) = (accesses.exits, accesses.coalesced);
        let _ = write!(
            text,
            "{exits:>9} {coalesced:>9}  {verb} {:x}",
            register.address
        );
        let _ = match &accesses.place {
            Some(place) => writeln!(text, "  {place}"),
            None => writeln!(text),
        };
    }
    more(text, registers.len());
}
