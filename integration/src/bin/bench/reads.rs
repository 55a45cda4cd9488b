//! Part 3: reads of an NVMe disk in the guest, and in L1 itself, which is the most that any VMM can
//! reach. Around each kind of reading, what left for KVM and the VMM, and whose CPU time it took.

use std::collections::BTreeMap;

use lab::Result;
use lab::disk::Disk;

use crate::peers::{Guest, Kind, Peer};
use crate::plan::Plan;
use crate::results::{Key, Results};
use crate::session::{Fact, Facts, Session, at, counter, counting, machine, subjects, value};

/// What there is without a VMM.
const CEILING: &str = "L1 itself";
/// mini-vmm whose vCPU halts without leaving its guest (KVM_CAP_X86_DISABLE_EXITS).
pub const NATIVE: &str = "mini-vmm, idle=native";
/// Exits of each read that are neither a host interrupt's nor to deliver the guest's.
pub const REST: &str = "of them for no interrupt";
/// The disk's size in MiB is twice this and some.
const HALF: u64 = 24;
/// Each kind of reading, and what it is called.
const KINDS: [(&str, &str); 3] = [
    ("qd1", "random 4 KiB reads, one at a time"),
    ("qd32", "random 4 KiB reads, 32 at a time"),
    ("seq", "128 KiB reads in order"),
];
/// The window in which nothing was read.
const IDLE: &str = "idle";

/// Measures, and adds to the results.
pub fn run(plan: &Plan, results: &mut Results) -> Result<()> {
    let mut disk = Disk::new("bench", 5);
    disk.buffered = HALF;
    let bdf = disk.bdf();
    let runs = runs(plan);
    let cmdline = format!(
        "console=ttyS0 quiet panic=-1 bench.disk=1 bench.reads={}",
        plan.reads
    );
    let mut round = format!("bind_vfio {bdf}\n");
    for (id, run) in runs.iter().enumerate() {
        let guest = Guest {
            kernel: at::kernel(),
            initrd: Some(at::initrd()),
            cmdline: &cmdline,
            cpus: 1,
            mib: 512,
            devices: &[&bdf],
            cpu_options: run.cpu_options,
            memory_options: "",
        };
        round.push_str(&format!(
            "probe watch {id} {} done -- {} || :\n",
            counter(plan, run.peer.kind),
            counting(plan, run.peer, &guest)
        ));
    }
    let ceiling = runs.len();
    round.push_str(&format!(
        "give_back {bdf}\n\
         probe read $(disk_of {bdf}) {} | sed 's/^L2: /LAB: watched {ceiling} /'\n",
        plan.reads
    ));
    let session = Session {
        name: "bench-reads",
        machine: machine(&[disk]),
        before: String::new(),
        round,
    };
    let facts = session.run(plan, "part 3, reads of an NVMe disk")?;
    let mut names: Vec<&str> = runs.iter().map(|run| run.name).collect();
    names.push(CEILING);
    take(&facts, &names, results);
    Ok(())
}

/// One guest under one VMM.
struct Run<'a> {
    name: &'a str,
    peer: &'a Peer,
    cpu_options: &'static str,
}

/// Everybody as they are, and mini-vmm with halts in the guest as well.
fn runs(plan: &Plan) -> Vec<Run<'_>> {
    subjects(plan)
        .flat_map(|peer| {
            let plain = Run {
                name: &peer.name,
                peer,
                cpu_options: "",
            };
            let native = (peer.kind == Kind::MiniVmm && plan.idle).then_some(Run {
                name: NATIVE,
                peer,
                cpu_options: ",idle=native",
            });
            std::iter::once(plain).chain(native)
        })
        .collect()
}

fn take(facts: &Facts, names: &[&str], results: &mut Results) {
    // What a window costs in which nothing is read, by run; and each kind's window, for its reads.
    let mut idle: BTreeMap<usize, Fact<'_>> = BTreeMap::new();
    let mut open: BTreeMap<(usize, &str), Fact<'_>> = BTreeMap::new();
    for fact in facts.iter() {
        let Some(name) = names.get(fact.run) else {
            continue;
        };
        if fact.kind == "window" {
            let kind = fact.rest.split(' ').next().unwrap_or_default();
            if kind == IDLE {
                idle.insert(fact.run, fact);
            } else {
                open.insert((fact.run, kind), fact);
            }
        } else if fact.kind == "watched"
            && let Some((kind, work)) = KINDS
                .iter()
                .find(|(kind, _)| fact.rest.split(' ').any(|word| word == *kind))
        {
            let mut add = |quantity, sample| {
                let key = Key {
                    part: 3,
                    work,
                    at: None,
                    quantity,
                };
                results.add(&key, name, sample);
            };
            for (word, quantity) in [
                ("p50", ("latency, median", "µs")),
                ("p99", ("latency, 99th of 100", "µs")),
                ("iops", ("reads a second", "")),
                ("mibs", ("throughput", "MiB/s")),
            ] {
                // Small reads are counted, large ones weighed.
                let other = if *kind == "seq" { "iops" } else { "mibs" };
                if let Some(sample) = value(fact.rest, word).filter(|_| word != other) {
                    add(quantity, sample);
                }
            }
            let (Some(window), Some(count)) =
                (open.get(&(fact.run, *kind)), value(fact.rest, "count"))
            else {
                continue;
            };
            let quiet = idle.get(&fact.run).map_or("", |fact| fact.rest);
            for (quantity, sample) in each(window.rest, quiet, count) {
                add(quantity, sample);
            }
        }
    }
    for why in &facts.failures {
        results.missing.push(format!("part 3, a run: {why}"));
    }
}

type Quantity = (&'static str, &'static str);

/// What a window took for each of its reads. Exits to the VMM that an idle window has too are those
/// of its guest's own words on the console, and do not count.
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
    // mini-vmm's statistics have KVM's counters as well, and these hold the same exits again.
    let (own, kvm) = (["pio", "mmio", "other"], ["io_exits", "mmio_exits"]);
    let to_vmm = |text: &str| sum(text, &own).or_else(|| sum(text, &kvm));
    if let Some(all) = to_vmm(window) {
        let beside = to_vmm(idle).unwrap_or(0.0);
        found.push((
            ("exits to the VMM for all reads", ""),
            (all - beside).max(0.0),
        ));
    }
    for (name, quantity) in [
        ("exits", ("exits to KVM for each read", "")),
        ("irq_exits", ("of them host interrupts", "")),
        (
            "irq_window_exits",
            ("of them to wait for a moment to interrupt the guest", ""),
        ),
        ("halt_exits", ("of them halts", "")),
        ("io_exits", ("of them ports", "")),
        ("mmio_exits", ("of them MMIO", "")),
        (
            "irq_injections",
            ("interrupts of the guest for each read", ""),
        ),
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
        found.push(((REST, ""), (all - host - windows) / count));
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
        assert_eq!(of(REST), None);
        let found = each("qd1 exits=30 irq_exits=20 irq_window_exits=4", "", 10.0);
        let rest = found.iter().find(|(q, _)| q.0 == REST);
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
        // QEMU counts nothing by itself.
        let theirs = "qd1 io_exits=4 mmio_exits=2";
        assert_eq!(of(theirs, "idle io_exits=1 mmio_exits=0"), Some(5.0));
        assert_eq!(of("qd1 exits=4", ""), None);
    }
}
