//! Tables: the counts, the areas, who answers, and the rows of the story.

use crate::guest::access::Space;
use crate::output::duration::duration;
use crate::output::html::areas::Area;
use crate::output::html::escape::{Escaped, short};
use crate::output::html::figure::size;
use crate::output::html::learn::{COALESCED, Known, Machine};
use crate::output::html::story::{Row, Story};
use crate::summary::Summary;

/// Rows of a table that are shown.
const ROWS: usize = 200;
/// Characters of a cell.
const CELL: usize = 200;

/// Begins a table with these heads. Those that begin with `#` are numbers.
fn begin(page: &mut String, heads: &[&str]) {
    page.push_str("<div class=scroll><table><thead><tr>");
    for head in heads {
        let (class, head) = match head.strip_prefix('#') {
            Some(head) => (" class=n", head),
            None => ("", *head),
        };
        *page += &format!("<th{class}>{}", Escaped(head));
    }
    page.push_str("<tbody>");
}

fn end(page: &mut String, rows: usize) {
    page.push_str("</table></div>");
    if rows > ROWS {
        *page += &format!("<p>{} more rows are left out.</p>", rows - ROWS);
    }
}

/// Calls by name, exits by reason, accesses by register.
pub fn counts(page: &mut String, summary: &Summary) {
    page.push_str("<h3>Calls</h3>");
    let calls = summary.calls();
    begin(page, &["call", "#calls", "#errors", "#time"]);
    for (name, calls) in calls.iter().take(ROWS) {
        *page += &format!(
            "<tr><td><code>{}</code><td class=n>{}<td class=n>{}<td class=n>{}",
            Escaped(&short(name, CELL)),
            calls.count,
            calls.errors,
            duration(calls.ns),
        );
    }
    end(page, calls.len());
    if summary.total() == 0 && summary.coalesced == 0 {
        return;
    }
    page.push_str("<h3>Exits</h3>");
    begin(page, &["reason", "#exits"]);
    for (reason, count) in summary.reasons() {
        *page += &format!("<tr><td>{}<td class=n>{count}", Escaped(reason));
    }
    *page += &format!("<tr><td>in all<td class=n>{}", summary.total());
    end(page, 0);
    page.push_str("<h3>Registers</h3>");
    let names = summary.names();
    begin(page, &["register", "access", "#exits", "#coalesced"]);
    for ((name, write), accesses) in names.iter().take(ROWS) {
        *page += &format!(
            "<tr><td>{}<td>{}<td class=n>{}<td class=n>{}",
            Escaped(&short(name, CELL)),
            if *write { "write" } else { "read" },
            accesses.exits,
            accesses.coalesced,
        );
    }
    end(page, names.len());
}

/// The events of the kernel's own.
pub fn kernel(page: &mut String, summary: &Summary) {
    let Some(losses) = summary.losses else {
        return;
    };
    page.push_str("<h3>Events of the kernel</h3>");
    begin(page, &["event", "#events"]);
    for (name, count) in summary.kernel() {
        *page += &format!("<tr><td>{}<td class=n>{count}", Escaped(name));
    }
    *page += &format!("<tr><td>lost<td class=n>{}", losses.lost);
    end(page, 0);
}

/// Who answers which address of a VM's guest.
pub fn answers(page: &mut String, known: &Known, machine: &Machine) {
    let trapped = known.answers.trapped(machine.file);
    let kernel: Vec<_> = known.answers.kernel(machine.file).collect();
    begin(
        page,
        &[
            "address",
            "what is there",
            "who answers",
            "#exits",
            "#coalesced",
        ],
    );
    for range in kernel.iter().take(ROWS) {
        *page += &format!(
            "<tr><td><code>{}</code><td>{}<td>{}<td class=n><td class=n>",
            address(range.space, range.first, range.last),
            Escaped(&short(&range.what, CELL)),
            match range.what == COALESCED {
                true => "KVM, for writes; the VMM, by exits, for reads",
                false => "KVM, without an exit",
            },
        );
    }
    for (space, trapped) in trapped.iter().take(ROWS) {
        let what = trapped.what.as_deref().unwrap_or("not known");
        let mut who = String::from("the VMM");
        for (i, (file, calls)) in trapped.passed.iter().enumerate() {
            let word = if i == 0 { "; it calls" } else { "," };
            who += &format!("{word} {file} ({calls} times)");
        }
        *page += &format!(
            "<tr><td><code>{}</code><td>{}<td>{}<td class=n>{}<td class=n>{}",
            address(*space, trapped.first, trapped.last),
            Escaped(&short(what, CELL)),
            Escaped(&short(&who, CELL)),
            trapped.exits,
            trapped.coalesced,
        );
    }
    end(page, trapped.len().max(kernel.len()));
}

fn address(space: Space, first: u64, last: u64) -> String {
    let range = match first == last {
        true => format!("{first:x}"),
        false => format!("{first:x}–{last:x}"),
    };
    match space {
        Space::Port => format!("port {range}"),
        Space::Memory => range,
    }
}

/// All areas that ever were mapped. `origin` is the time that is zero.
pub fn areas(page: &mut String, known: &Known, origin: u64) {
    let all = known.areas.all();
    begin(
        page,
        &[
            "address space",
            "address",
            "#size",
            "what",
            "in the VMM",
            "#from",
            "#until",
            "#times",
        ],
    );
    for area in all.iter().take(ROWS) {
        row(page, known, area, origin);
    }
    end(page, all.len());
}

fn row(page: &mut String, known: &Known, area: &Area, origin: u64) {
    let space = known.names.get(&area.space).map_or("", |name| name);
    let seconds = |time: u64| format!("{:.6}", time.saturating_sub(origin) as f64 / 1e9);
    *page += &format!(
        "<tr><td>{}<td><code>{:x}–{:x}</code><td class=n>{}<td>{}<td><code>{}</code><td \
         class=n>{}<td class=n>{}<td class=n>{}",
        Escaped(&short(space, CELL)),
        area.start,
        area.start.saturating_add(area.size - 1),
        size(area.size),
        Escaped(&short(&area.what, CELL)),
        area.host
            .map_or_else(String::new, |host| format!("{host:x}")),
        seconds(area.since),
        area.until.map_or_else(|| "the end".into(), seconds),
        area.times,
    );
}

/// The rows of the story. Those that do not fit into `bytes` are left out and counted.
pub fn story(page: &mut String, story: &Story, origin: u64, bytes: usize) {
    let (first, mut left_out, last) = story.parts();
    begin(
        page,
        &["#seconds", "#thread", "file", "what", "#events", "#time"],
    );
    let first: Vec<String> = first.iter().map(|row| story_row(row, origin)).collect();
    let last: Vec<(&Row, String)> = last.map(|row| (row, story_row(row, origin))).collect();
    let mut used = 0;
    let fits = |used: &mut usize, text: &str| {
        *used += text.len();
        *used <= bytes
    };
    let mut shown = true;
    for (row, text) in story.parts().0.iter().zip(&first) {
        shown = shown && fits(&mut used, text);
        match shown {
            true => page.push_str(text),
            false => left_out += row.times,
        }
    }
    let behind = last
        .iter()
        .rev()
        .take_while(|(_, text)| shown && fits(&mut used, text));
    let behind = behind.count();
    left_out += last[..last.len() - behind]
        .iter()
        .map(|(row, _)| row.times)
        .sum::<u64>();
    if left_out > 0 {
        *page += &format!("<tr><td><td><td><td class=gap>{left_out} events are left out<td><td>");
    }
    for (_, text) in &last[last.len() - behind..] {
        page.push_str(text);
    }
    end(page, 0);
}

fn story_row(row: &Row, origin: u64) -> String {
    let seconds = row.time.saturating_sub(origin) as f64 / 1e9;
    let times = match row.times {
        1 => String::new(),
        times => format!("×{times}"),
    };
    format!(
        "<tr><td class=n>{seconds:.6}<td class=n>{}<td>{}<td><code>{}{}</code><td \
         class=n>{times}<td class=n>{}\n",
        row.tid,
        Escaped(&row.file),
        if row.below { "└ " } else { "" },
        Escaped(&row.text),
        duration(row.took),
    )
}
