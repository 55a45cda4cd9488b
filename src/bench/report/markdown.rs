//! A run as tables.

use crate::context::fact::{Fact, Verdict};
use crate::report::add::{add, add_line};
use crate::report::comparison::Comparison;
use crate::report::results::Results;
use crate::stats::latency::PERCENTILES;
use crate::stats::summary::Summary;
use crate::subjects::counts::Costs;
use crate::subjects::list::Kind;
use crate::work::quantity;
use crate::work::task::{IDLE, Work};
use std::cmp::Reverse;

/// A run as Markdown.
pub fn text(results: &Results) -> String {
    let mut text = head(results);
    for work in &results.works {
        add(
            &mut text,
            format_args!("\n## {}\n\n{}", work.in_words(), table(results, work)),
        );
    }
    if !results.counts.is_empty() {
        add(
            &mut text,
            format_args!("\n## What a read costs\n\n{}", costs(results)),
        );
    }
    add(
        &mut text,
        format_args!("\n## The machine\n\n{}", context(results)),
    );
    add(
        &mut text,
        format_args!("\n## Comparisons\n\n{}", comparisons(results)),
    );
    text
}

fn head(results: &Results) -> String {
    let Results {
        machine,
        device,
        method,
        ..
    } = results;
    let mut text = format!(
        "# {} of {}, {}\n\n\
         {} (serial number {}), driver {}; {}, Linux {}; guest: Linux {}, {} of memory.\n\
         {} rounds of {} subjects, by {}, on the CPUs {:?}; the run ended by {}.\n\n",
        device.address,
        machine.name,
        results.date,
        device.model.as_deref().unwrap_or("disk"),
        device.serial.as_deref().unwrap_or("unknown"),
        device.driver,
        machine.processor,
        machine.kernel,
        method.guest_kernel,
        method.memory,
        results.rounds.len(),
        results.subjects.len(),
        method.engine.in_words(),
        method.cpus,
        results.ended
    );
    for subject in &results.subjects {
        if let (Kind::MiniVmm { program, .. }, None) = (&subject.kind, subject.repeats) {
            add_line(
                &mut text,
                format_args!(
                    "- {}: {}, {}, sha256 {}",
                    subject.name,
                    program.path.display(),
                    program.version,
                    program.sha256
                ),
            );
        }
    }
    if let Some(trial) = results.rounds.first().and_then(|turns| turns.first())
        && trial.zeros > 0
    {
        add_line(
            &mut text,
            format_args!(
                "- {} of {} blocks that were looked at hold zeros. A disk may answer such reads \
             without its flash memory, so all subjects may look faster than with data.",
                trial.zeros, trial.blocks
            ),
        );
    }
    text
}

/// The values of all subjects: the median of the rounds with their quartiles, and percentiles of
/// the single reads.
fn table(results: &Results, work: &Work) -> String {
    let mut text = format!("| subject | {} |", quantity::name(work));
    for percentile in PERCENTILES {
        add(&mut text, format_args!(" p{percentile} |"));
    }
    text.push_str("\n| --- | --- |");
    text.push_str(&" --- |".repeat(PERCENTILES.len()));
    text.push('\n');
    for (index, subject) in results.subjects.iter().enumerate() {
        let values = results.values(index, &work.name);
        let value = Summary::of(&values).map_or_else(
            || "-".into(),
            |s| {
                format!(
                    "{} ({}–{})",
                    quantity::in_words(work, s.median),
                    quantity::digits(s.first),
                    quantity::digits(s.third)
                )
            },
        );
        add(&mut text, format_args!("| {} | {value} |", subject.name));
        let times = results.latencies(index, &work.name);
        for percentile in PERCENTILES {
            let time = times.percentile(percentile);
            let time = time.map_or_else(
                || "-".into(),
                |time| format!("{} µs", quantity::digits(time as f64 / 1000.0)),
            );
            add(&mut text, format_args!(" {time} |"));
        }
        text.push('\n');
    }
    text
}

/// Exits, wake-ups and CPU time for each read, less those of the window without reads.
fn costs(results: &Results) -> String {
    let mut text = String::from(
        "Counted in a pass of its own, less what a window without reads costs. Exits to mini-vmm \
         are without accesses to ports, which are the console's. A virtual CPU's time includes the \
         guest's own.\n\n\
         | work | subject | reads | exits to mini-vmm | exits to KVM | wake-ups | vCPU \
         | mini-vmm's other threads |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let idle = |subject: usize| {
        let idle = results
            .counts
            .iter()
            .find(|c| c.subject == subject && c.work == IDLE);
        idle.map_or_else(Costs::default, |count| count.costs)
    };
    for work in &results.works {
        let counts = results
            .counts
            .iter()
            .filter(|count| count.work == work.name);
        for count in counts.filter(|count| count.reads > 0) {
            let (costs, idle) = (count.costs, idle(count.subject));
            let each = |all: u64, idle: u64| {
                let value = (all as f64 - idle as f64) / count.reads as f64;
                format!("{:.3}", value.max(0.0))
            };
            let time = |all: u64, idle: u64| {
                let value = (all as f64 - idle as f64) / count.reads as f64 / 1000.0;
                format!("{} µs", quantity::digits(value.max(0.0)))
            };
            let kvm = costs.kvm_exits.zip(idle.kvm_exits);
            let name = results.subjects.get(count.subject);
            add_line(
                &mut text,
                format_args!(
                    "| {} | {} | {} | {} | {} | {} | {} | {} |",
                    work.in_words(),
                    name.map_or("?", |subject| subject.name.as_str()),
                    count.reads,
                    each(costs.vmm_exits, idle.vmm_exits),
                    kvm.map_or_else(|| "-".into(), |(all, idle)| each(all, idle)),
                    each(costs.wakeups, idle.wakeups),
                    time(costs.vcpu_ns, idle.vcpu_ns),
                    time(costs.vmm_ns, idle.vmm_ns)
                ),
            );
        }
    }
    text
}

fn comparisons(results: &Results) -> String {
    let mut text = String::from(
        "The ratio is that of the same round, so 1 means equal. The interval holds the true ratio \
         in 95 % of all runs, for all rows together (Bonferroni). \"No difference\" means that it \
         holds 1.\n\n\
         | work | compared | quantity | ratio | interval | outliers | |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in &results.comparisons {
        let work = results.works.iter().find(|work| work.name == row.work);
        let name = |index: usize| results.subjects.get(index).map_or("?", |s| s.name.as_str());
        add_line(
            &mut text,
            format_args!(
                "| {} | {} to {} | {} | {} | {} | {} | {} |",
                work.map_or_else(|| row.work.clone(), Work::in_words),
                name(row.other),
                name(row.base),
                row.quantity,
                row.ratio.map_or_else(|| "-".into(), |r| format!("{r:.4}")),
                interval(row),
                row.outliers,
                row.verdict
            ),
        );
    }
    text
}

/// The machine's state, the worst first.
fn context(results: &Results) -> String {
    let mut facts: Vec<&Fact> = results.context.iter().collect();
    facts.sort_by_key(|fact| Reverse(fact.verdict));
    let mut text = String::from("| fact | verdict | | remedy |\n| --- | --- | --- | --- |\n");
    for fact in facts {
        let verdict = match fact.verdict {
            Verdict::Good => "good",
            Verdict::Poor => "poor",
            Verdict::Invalid => "INVALID",
        };
        let remedy = fact.remedy.as_ref().map(|remedy| format!("`{remedy}`"));
        let remedy = remedy.unwrap_or_default().replace('|', "\\|");
        add_line(
            &mut text,
            format_args!("| {} | {verdict} | {} | {remedy} |", fact.name, fact.text),
        );
    }
    text
}

fn interval(row: &Comparison) -> String {
    match row.interval {
        Some((low, high)) => format!("{low:.4}–{high:.4}"),
        None => "-".into(),
    }
}
