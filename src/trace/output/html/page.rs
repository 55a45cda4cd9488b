//! The page.

use crate::output::html::chart;
use crate::output::html::collect::Collected;
use crate::output::html::escape::{Escaped, short};
use crate::output::html::figure;
use crate::output::html::learn::Machine;
use crate::output::html::tables;
use crate::summary::Summary;

/// The most bytes of a page.
pub const MOST: usize = 5 << 20;
/// What a page needs behind the story.
const TAIL: usize = 1 << 12;
/// The most bytes of the story.
const STORY: usize = 2 << 20;
/// Characters of the command.
const COMMAND: usize = 2000;
/// The VMs that have maps.
const MACHINES: usize = 4;

/// Nothing is fetched, and nothing is executed, whatever a page has (Content Security Policy 3).
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";
const STYLE: &str = include_str!("style.css");

/// Writes the page of a trace.
pub fn page(of: &Collected, summary: &Summary, command: &str, filtered: bool) -> String {
    let mut text = String::new();
    let page = &mut text;
    let command = short(command, COMMAND);
    let origin = [of.before.start, of.running.start]
        .into_iter()
        .flatten()
        .min();
    let origin = origin.unwrap_or(0);
    *page += &format!(
        "<!doctype html>\n<html lang=en><meta charset=utf-8>\n<meta \
         http-equiv=Content-Security-Policy content=\"{POLICY}\">\n<meta name=viewport \
         content=\"width=device-width, initial-scale=1\">\n<meta name=color-scheme \
         content=\"light dark\">\n<link rel=icon href=\"data:,\">\n<title>Trace of {0}</title>\n\
         <style>{STYLE}</style>\n<header><h1>What a VMM and its guest did</h1>\
         <p>Made by <code>mini-vmm trace</code> of <code>{0}</code></p>",
        Escaped(&command),
    );
    head(page, of, summary, filtered);
    page.push_str(
        "<nav><a href=\"#timeline\">Timeline</a> <a href=\"#maps\">Address maps</a> <a \
         href=\"#answers\">Who answers</a> <a href=\"#counts\">Counts</a> <a \
         href=\"#events\">Events</a></nav></header>\n<main>",
    );
    timeline(page, of, origin);
    let machines = machines(of);
    maps(page, of, &machines, origin);
    answers(page, of, &machines);
    page.push_str("<section id=counts><h2>Counts</h2>");
    tables::counts(page, summary);
    tables::kernel(page, summary);
    page.push_str(
        "</section>\n<section id=events><h2>Events in order</h2><p>Events of a thread that are \
         alike and close together are one row, with the first one's values, their number, and \
         their time in all. A call that stands behind └ was made between an exit and the next \
         KVM_RUN. The time of an exit is that in KVM_RUN before it.</p>",
    );
    let bytes = MOST.saturating_sub(page.len() + TAIL).min(STORY);
    tables::story(page, &of.story, origin, bytes);
    page.push_str("</section></main></html>\n");
    text
}

fn head(page: &mut String, of: &Collected, summary: &Summary, filtered: bool) {
    let calls: u64 = summary.calls.values().map(|calls| calls.count).sum();
    *page += &format!(
        "<p>{calls} calls, {} exits, {} writes that KVM kept without an exit. Long runs of alike \
         events are folded on this page; the counts are of all.</p>",
        summary.total(),
        summary.coalesced,
    );
    if filtered {
        page.push_str(
            "<p class=note>Filters were given: timeline, maps and events have only what they \
             show.</p>",
        );
    }
    let left_out = of.known.areas.left_out + of.known.answers.left_out;
    if left_out > 0 {
        *page += &format!(
            "<p class=note>There were too many areas and addresses to keep: {left_out} changes and \
             accesses are not in the maps.</p>"
        );
    }
}

fn timeline(page: &mut String, of: &Collected, origin: u64) {
    page.push_str("<section id=timeline><h2>Timeline</h2>");
    chart::legend(page);
    if !of.before.is_empty() {
        chart::chart(page, "Until a guest runs", &of.before, origin);
    }
    if !of.running.is_empty() {
        page.push_str(
            "<p>A vCPU's track shows the time outside the guest: from the return of KVM_RUN to \
             the next one.</p>",
        );
        chart::chart(page, "While a guest runs", &of.running, origin);
    }
    if of.before.is_empty() && of.running.is_empty() {
        page.push_str("<p>Nothing was shown of calls and exits.</p>");
    }
    page.push_str("</section>\n");
}

/// The VMs that have memory or exits. Programs make others to ask KVM what it can do.
fn machines(of: &Collected) -> Vec<&Machine> {
    let known = &of.known;
    let all = known.machines.values();
    let used = all.filter(|machine| {
        let areas = known.areas.all();
        let has_memory = areas.iter().any(|area| {
            let number = area.space.number >> 32;
            area.pid == machine.pid && area.is_guest() && number == u64::from(machine.file)
        });
        has_memory || !known.answers.trapped(machine.file).is_empty()
    });
    used.collect()
}

fn maps(page: &mut String, of: &Collected, machines: &[&Machine], origin: u64) {
    page.push_str("<section id=maps><h2>Address maps</h2>");
    if machines.is_empty() {
        page.push_str("<p>No VM had memory.</p>");
    } else {
        let moment = figure::moment(&of.known).saturating_sub(origin) as f64 / 1e9;
        *page += &format!(
            "<p>As it was at {moment:.6} s, when a guest ran last. Bands lead from guest memory \
             and from I/O addresses to the memory of the VMM that is behind them. Heights grow \
             with the logarithm of the size.</p>"
        );
        figure::legend(page);
    }
    for machine in machines.iter().take(MACHINES) {
        let left_out = figure::figure(page, &of.known, machine);
        if left_out > 0 {
            *page += &format!("<p>{left_out} more spaces of I/O addresses are in the table.</p>");
        }
    }
    if machines.len() > MACHINES {
        *page += &format!(
            "<p>{} more VMs have no figure.</p>",
            machines.len() - MACHINES
        );
    }
    page.push_str("<h3>All that was ever mapped</h3>");
    tables::areas(page, &of.known, origin);
    page.push_str("</section>\n");
}

fn answers(page: &mut String, of: &Collected, machines: &[&Machine]) {
    page.push_str(
        "<section id=answers><h2>Who answers what</h2><p>An access to memory that is mapped is \
         answered by RAM or by the device itself, without an exit. All others end in KVM or in \
         the VMM.</p>",
    );
    for machine in machines.iter().take(MACHINES) {
        *page += &format!("<h3>{}</h3>", Escaped(&machine.name));
        tables::answers(page, &of.known, machine);
    }
    page.push_str("</section>\n");
}
