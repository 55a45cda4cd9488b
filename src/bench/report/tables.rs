//! The tables of a run. The Markdown and the page show the same ones.

use std::cmp::Reverse;

use crate::context::fact::{Fact, Verdict};
use crate::report::anchors::{OTHERS, STARTS, STARTS_AT};
use crate::report::comparison::Comparison;
use crate::report::measured;
use crate::report::results::Results;
use crate::stats::latency::PERCENTILES;
use crate::stats::summary::Summary;
use crate::subjects::counts::Costs;
use crate::work::moment::Moment;
use crate::work::quantity;
use crate::work::task::{IDLE, Work};

/// How many threads of a VMM are named.
const NAMED: usize = 3;

/// A table of texts, none of which is escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The head of each column.
    pub heads: Vec<String>,
    /// The cells of each row.
    pub rows: Vec<Vec<String>>,
    /// The column whose cells are commands.
    pub commands: Option<usize>,
}

impl Table {
    fn new(heads: &[&str]) -> Self {
        Self {
            heads: heads.iter().map(|&head| head.to_owned()).collect(),
            rows: Vec::new(),
            commands: None,
        }
    }
}

/// The values of all subjects: the median of the rounds with their quartiles, and percentiles of
/// the single reads.
pub fn values(results: &Results, work: &Work) -> Table {
    let mut table = Table::new(&["subject", quantity::name(work)]);
    let heads = PERCENTILES
        .iter()
        .map(|percentile| format!("p{percentile}"));
    table.heads.extend(heads);
    for (index, subject) in results.subjects.iter().enumerate() {
        let value = Summary::of(&results.values(index, &work.name));
        let value = value.map_or_else(
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
        let times = results.latencies(index, &work.name);
        let each = PERCENTILES.iter().map(|percentile| {
            let time = times.percentile(*percentile);
            time.map_or_else(|| "-".into(), |time| microseconds(time as f64))
        });
        let row = [subject.name.clone(), value].into_iter().chain(each);
        table.rows.push(row.collect());
    }
    table
}

/// Starts, resets and reboots: the median of the rounds with their quartiles.
pub fn moments(results: &Results) -> Table {
    let mut table = Table::new(&["subject"]);
    let measured: Vec<Moment> = measured::moments(results).collect();
    let heads = measured.iter().map(|moment| moment.in_words().to_owned());
    table.heads.extend(heads);
    for (index, subject) in results.subjects.iter().enumerate() {
        let each = measured.iter().map(|moment| {
            let summary = Summary::of(&results.values(index, moment.name()));
            summary.map_or_else(
                || "-".into(),
                |s| {
                    format!(
                        "{} ({}–{})",
                        measured::milliseconds(s.median),
                        quantity::digits(s.first / 1000.0),
                        quantity::digits(s.third / 1000.0)
                    )
                },
            )
        });
        let row = std::iter::once(subject.name.clone()).chain(each);
        table.rows.push(row.collect());
    }
    table
}

/// The way of the device's interrupts through the host's kernel.
pub fn interrupts(results: &Results) -> Table {
    let mut table = Table::new(&[
        "subject",
        "runs of the handler",
        "followed",
        "to KVM's message",
        "to the injection",
    ]);
    let heads = PERCENTILES
        .iter()
        .map(|percentile| format!("p{percentile}"));
    table.heads.extend(heads);
    let us = |us: Option<f64>| us.map_or_else(|| "-".into(), |us| microseconds(us * 1000.0));
    for of in &results.interrupts {
        let times = of.times();
        let mut row = vec![
            name(results, of.subject),
            of.handled.to_string(),
            times.len().to_string(),
            us(of.message_us),
            us(of.injected_us),
        ];
        row.extend(PERCENTILES.iter().map(|percentile| {
            let time = times.percentile(*percentile);
            time.map_or_else(|| "-".into(), |time| microseconds(time as f64))
        }));
        table.rows.push(row);
    }
    table
}

/// Published figures, beside this run's start of its first guest.
pub fn anchors(results: &Results) -> Table {
    let mut table = Table::new(&["what", "figure", "machine", "source"]);
    let own = Summary::of(&results.values(1, Moment::Ready.name()));
    if let (Some(own), Some(subject)) = (own, results.subjects.get(1)) {
        table.rows.push(vec![
            format!(
                "THIS RUN: start of {} to the driver's being ready, {} of memory",
                subject.name, results.method.memory
            ),
            format!("{} s", quantity::digits(own.median / 1e6)),
            results.machine.processor.clone(),
            "this run".into(),
        ]);
    }
    for start in &STARTS {
        table.rows.push(vec![
            format!(
                "QEMU's start until {} GiB in pages of 4 KiB are pinned, without a guest's boot",
                start.gib
            ),
            format!("{} s", start.seconds),
            "two Broadwell processors, bound to one".into(),
            STARTS_AT.into(),
        ]);
    }
    for anchor in &OTHERS {
        let cells = [anchor.what, anchor.figure, anchor.machine, anchor.source];
        table.rows.push(cells.map(str::to_owned).into());
    }
    table
}

/// Exits, wake-ups and CPU time for each read, less those of the window without reads.
pub fn costs(results: &Results) -> Table {
    let mut table = Table::new(&[
        "work",
        "subject",
        "operations",
        "exits to mini-vmm",
        "exits to KVM",
        "wake-ups",
        "vCPU",
        "the VMM's other threads",
        "cycles in the guest",
        "cycles in the host",
    ]);
    let idle = |subject: usize| {
        let mut counts = results.counts.iter();
        let idle = counts.find(|c| c.subject == subject && c.work == IDLE);
        idle.map_or_else(Costs::default, |count| count.costs.clone())
    };
    for work in &results.works {
        let counts = results.counts.iter();
        for count in counts.filter(|c| c.work == work.name && c.reads > 0) {
            let (costs, idle) = (&count.costs, idle(count.subject));
            let of_one = |all: u64, idle: u64| {
                let value = (all as f64 - idle as f64) / count.reads as f64;
                value.max(0.0)
            };
            let each = |all: Option<u64>, idle: Option<u64>| match all.zip(idle) {
                Some((all, idle)) => format!("{:.3}", of_one(all, idle)),
                None => "-".into(),
            };
            let cycles = |all: Option<u64>, idle: Option<u64>| match all {
                Some(all) => format!("{:.0}", of_one(all, idle.unwrap_or(0))),
                None => "-".into(),
            };
            let time = |all: u64, idle: u64| microseconds(of_one(all, idle));
            let threads = costs.threads.iter().map(|(name, all)| {
                let idle = idle.threads.get(name).copied().unwrap_or(0);
                (name.as_str(), of_one(*all, idle))
            });
            table.rows.push(vec![
                work.in_words(),
                name(results, count.subject),
                count.reads.to_string(),
                each(costs.vmm_exits, idle.vmm_exits),
                each(costs.kvm_exits, idle.kvm_exits),
                each(costs.wakeups, idle.wakeups),
                time(costs.vcpu_ns, idle.vcpu_ns),
                time(costs.vmm_ns, idle.vmm_ns) + &largest(threads.collect()),
                cycles(costs.guest_cycles, idle.guest_cycles),
                cycles(costs.host_cycles, idle.host_cycles),
            ]);
        }
    }
    table
}

/// The threads with the most CPU time, such as ` (vhost 5.20 µs)`; nothing where none has any.
fn largest(mut threads: Vec<(&str, f64)>) -> String {
    threads.retain(|(_, time)| *time > 0.0);
    threads.sort_by(|a, b| b.1.total_cmp(&a.1));
    let words = threads.iter().take(NAMED);
    let words = words.map(|(name, time)| format!("{name} {}", microseconds(*time)));
    match words.collect::<Vec<_>>().as_slice() {
        [] => String::new(),
        words => format!(" ({})", words.join(", ")),
    }
}

/// KVM's counters that count exits or interrupts, in the order of the columns.
const KINDS: [(&str, &str); 8] = [
    ("io_exits", "ports"),
    ("mmio_exits", "MMIO"),
    ("halt_exits", "HLT"),
    ("irq_exits", "host interrupts"),
    ("irq_window_exits", "interrupt windows"),
    ("insn_emulation", "instructions emulated"),
    ("irq_injections", "interrupts"),
    ("halt_wakeup", "wake-ups from HLT"),
];

/// What KVM counted by kind for each operation, less the window without reads.
pub fn kinds(results: &Results) -> Table {
    let mut table = Table::new(&["work", "subject", "all exits"]);
    table.heads.extend(KINDS.map(|(_, head)| head.to_owned()));
    for work in &results.works {
        let counts = results.counts.iter();
        for count in counts.filter(|c| c.work == work.name && c.reads > 0) {
            let mut idle = results.counts.iter();
            let idle = idle.find(|c| c.subject == count.subject && c.work == IDLE);
            let each = |name: &str| {
                let Some(all) = count.costs.kvm.get(name) else {
                    return "-".into();
                };
                let idle = idle.and_then(|idle| idle.costs.kvm.get(name)).copied();
                let value = *all as f64 - idle.unwrap_or(0) as f64;
                format!("{:.3}", (value / count.reads as f64).max(0.0))
            };
            let mut row = vec![work.in_words(), name(results, count.subject), each("exits")];
            row.extend(KINDS.map(|(name, _)| each(name)));
            table.rows.push(row);
        }
    }
    table
}

/// The ratios of the subjects.
pub fn comparisons(results: &Results) -> Table {
    let mut table = Table::new(&[
        "work", "compared", "quantity", "ratio", "interval", "outliers", "",
    ]);
    for row in &results.comparisons {
        table.rows.push(vec![
            work_in_words(results, row),
            compared(results, row),
            row.quantity.clone(),
            row.ratio.map_or_else(|| "-".into(), |r| format!("{r:.4}")),
            interval(row),
            row.outliers.to_string(),
            row.verdict.clone(),
        ]);
    }
    table
}

/// The machine's state, the worst first.
pub fn context(results: &Results) -> Table {
    let mut facts: Vec<&Fact> = results.context.iter().collect();
    facts.sort_by_key(|fact| Reverse(fact.verdict));
    let mut table = Table::new(&["fact", "verdict", "", "remedy"]);
    table.commands = Some(3);
    for fact in facts {
        let verdict = match fact.verdict {
            Verdict::Good => "good",
            Verdict::Poor => "poor",
            Verdict::Invalid => "INVALID",
        };
        table.rows.push(vec![
            fact.name.clone(),
            verdict.into(),
            fact.text.clone(),
            fact.remedy.clone().unwrap_or_default(),
        ]);
    }
    table
}

/// The two subjects of a comparison.
pub fn compared(results: &Results, row: &Comparison) -> String {
    format!(
        "{} to {}",
        name(results, row.other),
        name(results, row.base)
    )
}

/// The work of a comparison.
pub fn work_in_words(results: &Results, row: &Comparison) -> String {
    let mut all = measured::all(results);
    let measured = all.find(|measured| measured.name() == row.work);
    measured.map_or_else(|| row.work.clone(), |measured| measured.in_words())
}

/// The interval of a comparison.
pub fn interval(row: &Comparison) -> String {
    match row.interval {
        Some((low, high)) => format!("{low:.4}–{high:.4}"),
        None => "-".into(),
    }
}

fn name(results: &Results, subject: usize) -> String {
    let subject = results.subjects.get(subject);
    subject.map_or_else(|| "?".into(), |subject| subject.name.clone())
}

fn microseconds(nanoseconds: f64) -> String {
    format!("{} µs", quantity::digits(nanoseconds / 1000.0))
}
