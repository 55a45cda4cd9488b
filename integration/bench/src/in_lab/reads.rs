//! Part 3: measures reads of an NVMe disk in the guest, and in L1 without a VMM. L1's own reads are
//! the upper limit for any VMM. For each kind of read, counts the exits to KVM and to the VMM, and
//! the CPU time of each thread.

use std::collections::BTreeMap;

use lab::disk::Disk;

use super::facts::{Fact, Facts, value};
use super::l1;
use super::session::Session;
use super::setup::Setup;
use crate::error::Result;
use crate::names::{
    EXITS_TO_KVM, EXITS_TO_VMM, HOST_INTERRUPTS, IN_ORDER, INJECTED, NATIVE, ONE_AT_A_TIME,
    OTHER_EXITS, SIDE_BY_SIDE, WINDOWS,
};
use crate::results::{Key, Results};
use crate::subjects::{Guest, Kind, Subject, Subjects};

/// The name of the reads without a VMM.
const CEILING: &str = "L1 itself";
/// MiB of the disk's buffered part. The disk's size is a little more than twice this.
pub(super) const HALF: u64 = 24;
/// Each kind of read: its name in the guest's lines, and its name in the results.
const KINDS: [(&str, &str); 3] = [
    ("qd1", ONE_AT_A_TIME),
    ("qd32", SIDE_BY_SIDE),
    ("seq", IN_ORDER),
];
/// The name of the window without reads.
const IDLE: &str = "idle";

/// Measures part 3, and adds the figures to the results.
pub fn run(setup: &Setup<'_>, results: &mut Results) -> Result<()> {
    let mut disk = Disk::new("bench", 5);
    disk.buffered = HALF;
    let bdf = disk.bdf();
    let devices = [bdf.as_str()];
    let runs = runs(setup.subjects);
    let abilities = setup.subjects.abilities();
    let reads = setup.plan.reads;
    let cmdline = format!("console=ttyS0 quiet panic=-1 bench.disk=1 bench.reads={reads}");
    let mut round = format!("bind_vfio {bdf}\n");
    for (id, run) in runs.iter().enumerate() {
        let guest = Guest {
            initrd: Some(l1::initrd()),
            cmdline: &cmdline,
            devices: &devices,
            cpu_options: run.cpu_options,
            ..Guest::new(l1::kernel())
        };
        let counter = run.subject.kind.counter(abilities).word();
        let command = l1::counting(run.subject, &guest, abilities);
        round.push_str(&format!(
            "probe watch {id} {counter} done -- {command} || :\n"
        ));
    }
    let ceiling = runs.len();
    round.push_str(&format!(
        "give_back {bdf}\n\
         probe read $(disk_of {bdf}) {reads} | sed 's/^L2: /LAB: watched {ceiling} /'\n"
    ));
    let session = Session {
        name: "bench-reads",
        machine: l1::machine(&[disk]),
        before: String::new(),
        round,
    };
    let facts = session.run(setup, "part 3, reads of an NVMe disk")?;
    let mut names: Vec<&str> = runs.iter().map(|run| run.name).collect();
    names.push(CEILING);
    take(&facts, &names, results);
    Ok(())
}

/// One guest under one VMM.
struct Run<'a> {
    name: &'a str,
    subject: &'a Subject,
    cpu_options: &'static str,
}

/// All VMMs with their default options, and mini-vmm once more with `idle=native`.
fn runs(subjects: &Subjects) -> Vec<Run<'_>> {
    let native = subjects.abilities().idle;
    subjects
        .with_vfio()
        .flat_map(|subject| {
            let plain = Run {
                name: &subject.name,
                subject,
                cpu_options: "",
            };
            let native = (subject.kind == Kind::MiniVmm && native).then_some(Run {
                name: NATIVE,
                subject,
                cpu_options: ",idle=native",
            });
            std::iter::once(plain).chain(native)
        })
        .collect()
}

fn take(facts: &Facts, names: &[&str], results: &mut Results) {
    let mut windows = BTreeMap::new();
    for fact in facts.iter() {
        let Some(name) = names.get(fact.run) else {
            continue;
        };
        if fact.kind == "window" {
            let kind = fact.rest.split(' ').next().unwrap_or_default();
            windows.insert((fact.run, kind), fact);
        } else if fact.kind == "watched"
            && let Some((kind, work)) = KINDS
                .iter()
                .find(|(kind, _)| fact.rest.split(' ').any(|word| word == *kind))
        {
            // The window of this run and kind, and the idle window of this run.
            let window = windows.get(&(fact.run, *kind)).map(|fact| fact.rest);
            let idle = windows.get(&(fact.run, IDLE)).map(|fact| fact.rest);
            let mut found = speed(kind, fact);
            if let (Some(window), Some(count)) = (window, value(fact.rest, "count")) {
                found.extend(each(window, idle.unwrap_or_default(), count));
            }
            for (quantity, sample) in found {
                let key = Key {
                    part: 3,
                    work,
                    at: None,
                    quantity,
                };
                results.add(&key, name, sample);
            }
        }
    }
    results.missing.extend(facts.failed_runs(3));
}

/// The latencies and the rate: reads per second for small reads, MiB per second for large reads.
fn speed(kind: &str, fact: Fact<'_>) -> Vec<(Quantity, f64)> {
    let speed = if kind == "seq" {
        ("mibs", ("throughput", "MiB/s"))
    } else {
        ("iops", ("reads a second", ""))
    };
    [
        ("p50", ("latency, median", "µs")),
        ("p99", ("latency, 99th of 100", "µs")),
        speed,
    ]
    .into_iter()
    .filter_map(|(word, quantity)| Some((quantity, value(fact.rest, word)?)))
    .collect()
}

type Quantity = (&'static str, &'static str);

/// The counters of a window divided by its number of reads. The guest's own lines on the console
/// also cause exits to the VMM. The idle window has only these exits, so they are subtracted.
fn each(window: &str, idle: &str, count: f64) -> Vec<(Quantity, f64)> {
    let mut found = Vec::new();
    for (name, quantity) in [
        ("vcpus", ("CPU of the vCPU's thread for each read", "µs")),
        (
            "others",
            ("CPU of the VMM's other threads for each read", "µs"),
        ),
    ] {
        if let Some(micros) = value(window, name) {
            found.push((quantity, micros / count));
        }
    }
    let sum = |text: &str, names: &[&str]| -> Option<f64> {
        let known: Vec<f64> = names.iter().filter_map(|name| value(text, name)).collect();
        (!known.is_empty()).then(|| known.iter().sum())
    };
    // mini-vmm's statistics also include KVM's counters, which count the same exits a second time.
    let (own, kvm) = (["pio", "mmio", "other"], ["io_exits", "mmio_exits"]);
    let to_vmm = |text: &str| sum(text, &own).or_else(|| sum(text, &kvm));
    if let Some(all) = to_vmm(window) {
        let beside = to_vmm(idle).unwrap_or(0.0);
        found.push(((EXITS_TO_VMM, ""), (all - beside).max(0.0)));
    }
    for (name, quantity) in [
        ("exits", (EXITS_TO_KVM, "")),
        ("irq_exits", (HOST_INTERRUPTS, "")),
        ("irq_window_exits", (WINDOWS, "")),
        ("halt_exits", ("of them halts", "")),
        ("io_exits", ("of them ports", "")),
        ("mmio_exits", ("of them MMIO", "")),
        ("irq_injections", (INJECTED, "")),
    ] {
        if let Some(all) = value(window, name) {
            found.push((quantity, all / count));
        }
    }
    if let (Some(all), Some(host), Some(windows)) = (
        value(window, "exits"),
        value(window, "irq_exits"),
        value(window, "irq_window_exits"),
    ) {
        found.push(((OTHER_EXITS, ""), (all - host - windows) / count));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_console_costs_is_not_the_reads() {
        let window = "qd1 wall=9 vcpus=2000 others=100 pio=16 mmio=2 exits=30";
        let found = each(window, "idle wall=9 pio=16", 10.0);
        let of = |name: &str| found.iter().find(|(q, _)| q.0 == name).map(|(_, x)| *x);
        assert_eq!(of("exits to the VMM for all reads"), Some(2.0));
        assert_eq!(of("exits to KVM for each read"), Some(3.0));
        assert_eq!(of("CPU of the vCPU's thread for each read"), Some(200.0));
        assert_eq!(of("of them halts"), None);
        assert_eq!(of(OTHER_EXITS), None);
        let found = each("qd1 exits=30 irq_exits=20 irq_window_exits=4", "", 10.0);
        let rest = found.iter().find(|(q, _)| q.0 == OTHER_EXITS);
        assert_eq!(rest.map(|(_, x)| *x), Some(0.6));
    }

    #[test]
    fn an_exit_that_kvm_counts_too_is_one() {
        let of = |window, idle| {
            let found = each(window, idle, 10.0);
            let all = found.iter().find(|(q, _)| q.0.contains("to the VMM"));
            all.map(|(_, count)| *count)
        };
        let ours = "qd1 pio=3 mmio=2 other=1 io_exits=4 mmio_exits=2";
        assert_eq!(of(ours, "idle pio=0 mmio=0 other=1"), Some(5.0));
        let none = "qd1 pio=0 mmio=0 other=0 io_exits=4 mmio_exits=2";
        assert_eq!(of(none, ""), Some(0.0));
        // Without an own counter of the VMM: QEMU has KVM's counters only.
        let theirs = "qd1 io_exits=4 mmio_exits=2";
        assert_eq!(of(theirs, "idle io_exits=1 mmio_exits=0"), Some(5.0));
        assert_eq!(of("qd1 exits=4", ""), None);
    }
}
