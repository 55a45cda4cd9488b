//! What reads cost a guest: exits, interrupts, wake-ups and CPU time, in a pass of its own. The
//! figures are mini-vmm's and KVM's own (docs/stats.md), read before and after each kind of work,
//! while the guest sleeps. A window without reads shows what the guest's clock and console cost.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::subjects::{affinity, workers};

/// What a kind of work cost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Costs {
    /// Exits to mini-vmm, without accesses to ports: those are the console's. Null for other VMMs,
    /// which do not count them.
    pub vmm_exits: Option<u64>,
    /// Exits to KVM; null if this kernel does not count them.
    pub kvm_exits: Option<u64>,
    /// How often a thread of mini-vmm woke for an interrupt of the device. Null for other VMMs.
    pub wakeups: Option<u64>,
    /// CPU time of the virtual CPUs in nanoseconds, with the guest's own.
    pub vcpu_ns: u64,
    /// CPU time of the VMM's other threads in nanoseconds, with the kernel's that work for it. Of a
    /// thread that ends while the work runs, the time since the work's start is not known.
    pub vmm_ns: u64,
    /// The same by the threads' names, without the numbers at their ends.
    #[serde(default)]
    pub threads: BTreeMap<String, u64>,
    /// The processor's cycles of all threads of the VMM in the guest; null without a counter.
    #[serde(default)]
    pub guest_cycles: Option<u64>,
    /// The same in the host.
    #[serde(default)]
    pub host_cycles: Option<u64>,
    /// KVM's counters of the virtual CPUs, by KVM's names (Documentation/virt/kvm/api.rst,
    /// KVM_GET_STATS_FD): kinds of exits, and interrupts.
    #[serde(default)]
    pub kvm: BTreeMap<String, u64>,
    /// The time of each thread until now, which no file has.
    #[serde(skip)]
    pub(super) times: Times,
}

/// The costs of one kind of work by one subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Count {
    /// The subject's index.
    pub subject: usize,
    /// The name of the work, or `idle`.
    pub work: String,
    /// The number of reads.
    pub reads: u64,
    /// What they cost.
    pub costs: Costs,
    /// Why the processor's cycles were not counted.
    #[serde(default)]
    pub no_cycles: Option<String>,
}

impl Costs {
    /// What was added since an earlier moment.
    pub(super) fn since(&self, before: &Self) -> Self {
        let less = |now: Option<u64>, before: Option<u64>| {
            now.zip(before)
                .map(|(now, before)| now.saturating_sub(before))
        };
        let each = |now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>| {
            let since = now.iter().map(|(name, now)| {
                let before = before.get(name).copied().unwrap_or(0);
                (name.clone(), now.saturating_sub(before))
            });
            since.collect()
        };
        let (vcpu_ns, threads) = sums(&self.times, &before.times);
        Self {
            vmm_exits: less(self.vmm_exits, before.vmm_exits),
            kvm_exits: less(self.kvm_exits, before.kvm_exits),
            wakeups: less(self.wakeups, before.wakeups),
            vcpu_ns,
            vmm_ns: threads.values().sum(),
            threads,
            guest_cycles: less(self.guest_cycles, before.guest_cycles),
            host_cycles: less(self.host_cycles, before.host_cycles),
            kvm: each(&self.kvm, &before.kvm),
            times: Times::default(),
        }
    }

    /// The costs until now, by the report of `--stats` and the threads of a process.
    pub(super) fn of(report: &Value, process: &Path) -> Self {
        let number = |path: &str| report.pointer(path).and_then(Value::as_u64);
        let ports = ["pio_in", "pio_out"]
            .iter()
            .filter_map(|reason| number(&format!("/exits/by_reason/{reason}")));
        let total = number("/exits/total").unwrap_or(0);
        let devices = report["devices"].as_array().into_iter().flatten();
        let woken = devices.filter_map(|device| device["wakeups"]["delivered"].as_u64());
        let mut kvm = BTreeMap::new();
        let vcpus = report["kvm"]["vcpus"].as_array().into_iter().flatten();
        for (name, value) in vcpus.filter_map(Value::as_object).flatten() {
            // A histogram is an array.
            if let Some(value) = value.as_u64() {
                *kvm.entry(name.clone()).or_default() += value;
            }
        }
        Self {
            vmm_exits: Some(total.saturating_sub(ports.sum())),
            wakeups: Some(woken.sum()),
            ..Self::of_kvm(kvm, process)
        }
    }

    /// The costs until now, by KVM's counters and the threads of a process.
    pub(super) fn of_kvm(kvm: BTreeMap<String, u64>, process: &Path) -> Self {
        let times = cpu_times(process);
        let (vcpu_ns, threads) = sums(&times, &Times::default());
        Self {
            vmm_exits: None,
            kvm_exits: kvm.get("exits").copied(),
            wakeups: None,
            vcpu_ns,
            vmm_ns: threads.values().sum(),
            threads,
            guest_cycles: None,
            host_cycles: None,
            kvm,
            times,
        }
    }
}

/// The CPU time of each thread in nanoseconds by its directory in /proc, with its kind; that of a
/// virtual CPU has none.
type Times = BTreeMap<PathBuf, (Option<String>, u64)>;

/// What the threads of virtual CPUs, and the others by kind, have run since an earlier moment. A
/// thread is compared with itself alone: the past of one that has ended is nobody's.
fn sums(now: &Times, before: &Times) -> (u64, BTreeMap<String, u64>) {
    let (mut vcpus, mut others) = (0, BTreeMap::new());
    for (thread, (kind, time)) in now {
        let past = before.get(thread).map_or(0, |(_, past)| *past);
        // The number of a thread that has ended may be another's now.
        let time = time.checked_sub(past).unwrap_or(*time);
        match kind {
            None => vcpus += time,
            Some(kind) => *others.entry(kind.clone()).or_default() += time,
        }
    }
    (vcpus, others)
}

/// CPU times of all threads that work for a process (Documentation/scheduler/sched-stats.rst,
/// /proc/PID/schedstat).
fn cpu_times(process: &Path) -> Times {
    let times = workers::all(process).into_iter().filter_map(|task| {
        let text = |name: &str| fs::read_to_string(task.join(name)).ok();
        let (name, time) = (text("comm")?, text("schedstat")?);
        let time = time.split(' ').next()?.parse().ok()?;
        let kind = match affinity::number(name.trim()) {
            Some(_) => None,
            None => Some(workers::kind(name.trim()).to_owned()),
        };
        Some((task, (kind, time)))
    });
    times.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn costs_are_those_of_the_report() {
        let proc = std::env::temp_dir().join(format!("bench-counts-{}", std::process::id()));
        let dir = proc.join("1");
        for (task, comm, time) in [
            ("1/task/1", "mini-vmm", 5),
            ("1/task/2", "vcpu 0", 70),
            ("1/task/3", "vcpu 1", 8),
            ("1/task/4", "iou-wrk-1", 11),
            ("1/task/5", "iou-wrk-3", 100),
            ("1/task/6", "vhost-1", 1000),
            // A thread of the kernel, as vhost's were before Linux 6.4.
            ("7", "vhost-1", 20_000),
        ] {
            let task = proc.join(task);
            fs::create_dir_all(&task).unwrap();
            fs::write(task.join("comm"), format!("{comm}\n")).unwrap();
            fs::write(task.join("schedstat"), format!("{time} 1 2\n")).unwrap();
        }
        fs::write(proc.join("7/stat"), "7 (vhost-1) S 2 0 0").unwrap();
        let report = json!({
            "exits": {
                "total": 100,
                "by_reason": { "pio_in": 20, "pio_out": 30, "mmio_read": 50 },
            },
            "kvm": { "vcpus": [
                { "exits": 400, "halt_exits": 9, "halt_wait_hist": [1] },
                { "exits": 11, "halt_exits": 2 },
            ] },
            "devices": [{ "wakeups": { "delivered": 7, "unmasked": 1 } }, {}],
        });
        let costs = Costs::of(&report, &dir);
        let kvm = BTreeMap::from([("exits".to_owned(), 411), ("halt_exits".to_owned(), 11)]);
        assert_eq!(
            costs,
            Costs {
                vmm_exits: Some(50),
                kvm_exits: Some(411),
                wakeups: Some(7),
                vcpu_ns: 78,
                vmm_ns: 21_116,
                threads: BTreeMap::from([
                    ("iou-wrk".to_owned(), 111),
                    ("mini-vmm".to_owned(), 5),
                    ("vhost".to_owned(), 21_000),
                ]),
                guest_cycles: None,
                host_cycles: None,
                kvm: kvm.clone(),
                times: costs.times.clone(),
            }
        );
        fs::write(dir.join("task/6/schedstat"), "1234 1 2\n").unwrap();
        // A thread ends with its past, and another of its kind begins.
        fs::remove_dir_all(dir.join("task/5")).unwrap();
        fs::create_dir_all(dir.join("task/8")).unwrap();
        fs::write(dir.join("task/8/comm"), "iou-wrk-1\n").unwrap();
        fs::write(dir.join("task/8/schedstat"), "40 1 2\n").unwrap();
        let later = Costs::of(&json!({ "exits": { "total": 60 } }), &dir).since(&costs);
        assert_eq!(
            (later.vmm_exits, later.kvm_exits, later.vcpu_ns),
            (Some(10), None, 0)
        );
        assert_eq!((later.vmm_ns, later.threads["vhost"]), (274, 234));
        assert_eq!(
            (later.threads["iou-wrk"], later.threads["mini-vmm"]),
            (40, 0)
        );
        let other = Costs::of_kvm(kvm, &dir);
        assert_eq!((other.vmm_exits, other.kvm_exits), (None, Some(411)));
        assert_eq!(other.since(&costs).kvm["halt_exits"], 0);
        fs::remove_dir_all(&proc).unwrap();
    }
}
