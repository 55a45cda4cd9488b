//! The counts at the end, as text.

use crate::kernel::order::Losses;
use crate::output::duration::duration;
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
    kernel(&mut text, summary);
    text
}

fn kernel(text: &mut String, summary: &Summary) {
    let Some(losses) = summary.losses else {
        return;
    };
    *text += &format!("\n{:>9}  event of the kernel\n", "events");
    for (name, count) in summary.kernel() {
        *text += &format!("{count:>9}  {name}\n");
    }
    let Losses { lost, late } = losses;
    if lost > 0 {
        *text += &format!("{lost:>9}  were lost: a buffer was full\n");
    }
    if late > 0 {
        *text += &format!("{late:>9}  stand behind later ones: their calls took over 50 ms\n");
    }
}

fn calls(text: &mut String, summary: &Summary) {
    let calls = summary.calls();
    *text += &format!("\n{:>9} {:>8} {:>10}  call\n", "calls", "errors", "time");
    for (name, calls) in calls.iter().take(ROWS) {
        let errors = match calls.errors {
            0 => String::new(),
            errors => errors.to_string(),
        };
        let time = duration(calls.ns);
        *text += &format!("{:>9} {errors:>8} {time:>10}  {name}\n", calls.count);
    }
    more(text, calls.len());
}

fn more(text: &mut String, rows: usize) {
    if rows > ROWS {
        *text += &format!("{:>9} more\n", rows - ROWS);
    }
}

fn exits(text: &mut String, summary: &Summary) {
    *text += &format!("\n{:>9}  reason\n", "exits");
    for (reason, count) in summary.reasons() {
        *text += &format!("{count:>9}  {reason}\n");
    }
    *text += &format!("{:>9}  in all\n", summary.total());
    if summary.immediate > 0 {
        let of = "returns with immediate_exit, in which no guest ran";
        *text += &format!("{:>9}  {of}\n", summary.immediate);
    }
}

fn registers(text: &mut String, summary: &Summary) {
    let names = summary.names();
    *text += &format!("\n{:>9} {:>9}  register\n", "exits", "coalesced");
    for ((name, write), accesses) in names.iter().take(ROWS) {
        let (exits, coalesced) = (accesses.exits, accesses.coalesced);
        let verb = if *write { "write" } else { "read" };
        *text += &format!("{exits:>9} {coalesced:>9}  {verb:<5} {name}\n");
    }
    more(text, names.len());
}
