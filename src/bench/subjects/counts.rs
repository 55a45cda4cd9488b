//! What reads cost a guest: exits, interrupts, wake-ups and CPU time, in a pass of its own. The
//! figures are mini-vmm's and KVM's own (docs/stats.md), read before and after each kind of work,
//! while the guest sleeps. A window without reads shows what the guest's clock and console cost.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a kind of work cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Costs {
    /// Exits to mini-vmm, without accesses to ports: those are the console's.
    pub vmm_exits: u64,
    /// Exits to KVM; null if this kernel does not count them.
    pub kvm_exits: Option<u64>,
    /// How often a thread of mini-vmm woke for an interrupt of the device.
    pub wakeups: u64,
    /// CPU time of the virtual CPUs in nanoseconds, with the guest's own.
    pub vcpu_ns: u64,
    /// CPU time of mini-vmm's other threads in nanoseconds.
    pub vmm_ns: u64,
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
}

impl Costs {
    /// What was added since an earlier moment.
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            vmm_exits: self.vmm_exits.saturating_sub(before.vmm_exits),
            kvm_exits: self
                .kvm_exits
                .zip(before.kvm_exits)
                .map(|(now, before)| now.saturating_sub(before)),
            wakeups: self.wakeups.saturating_sub(before.wakeups),
            vcpu_ns: self.vcpu_ns.saturating_sub(before.vcpu_ns),
            vmm_ns: self.vmm_ns.saturating_sub(before.vmm_ns),
        }
    }

    /// The costs until now, by the report of `--stats` and the threads of a process.
    pub(super) fn of(report: &Value, process: &Path) -> Self {
        let (vcpu_ns, vmm_ns) = cpu_times(process);
        let number = |path: &str| report.pointer(path).and_then(Value::as_u64);
        let ports = ["pio_in", "pio_out"]
            .iter()
            .filter_map(|reason| number(&format!("/exits/by_reason/{reason}")));
        let total = number("/exits/total").unwrap_or(0);
        let vcpus = report["kvm"]["vcpus"].as_array();
        let each = vcpus.map(|all| all.iter().map(|vcpu| vcpu["exits"].as_u64()));
        let devices = report["devices"].as_array().into_iter().flatten();
        let woken = devices.filter_map(|device| device["wakeups"]["delivered"].as_u64());
        Self {
            vmm_exits: total.saturating_sub(ports.sum()),
            kvm_exits: each.and_then(Iterator::sum),
            wakeups: woken.sum(),
            vcpu_ns,
            vmm_ns,
        }
    }
}

/// CPU time of the threads named `vcpu N`, and of the others
/// (Documentation/scheduler/sched-stats.rst, /proc/PID/schedstat).
fn cpu_times(process: &Path) -> (u64, u64) {
    let (mut vcpus, mut others) = (0, 0);
    let tasks = fs::read_dir(process.join("task"));
    for task in tasks.into_iter().flatten().flatten() {
        let text = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let time = text("schedstat");
        let time = time
            .split(' ')
            .next()
            .and_then(|time| time.parse::<u64>().ok());
        match text("comm").starts_with("vcpu ") {
            true => vcpus += time.unwrap_or(0),
            false => others += time.unwrap_or(0),
        }
    }
    (vcpus, others)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn costs_are_those_of_the_report() {
        let dir = std::env::temp_dir().join(format!("bench-counts-{}", std::process::id()));
        for (task, comm, time) in [
            ("1", "mini-vmm", 5),
            ("2", "vcpu 0", 70),
            ("3", "vcpu 1", 8),
        ] {
            let task = dir.join("task").join(task);
            fs::create_dir_all(&task).unwrap();
            fs::write(task.join("comm"), comm).unwrap();
            fs::write(task.join("schedstat"), format!("{time} 1 2\n")).unwrap();
        }
        let report = json!({
            "exits": {
                "total": 100,
                "by_reason": { "pio_in": 20, "pio_out": 30, "mmio_read": 50 },
            },
            "kvm": { "vcpus": [{ "exits": 400 }, { "exits": 11 }] },
            "devices": [{ "wakeups": { "delivered": 7, "unmasked": 1 } }, {}],
        });
        let costs = Costs::of(&report, &dir);
        assert_eq!(
            costs,
            Costs {
                vmm_exits: 50,
                kvm_exits: Some(411),
                wakeups: 7,
                vcpu_ns: 78,
                vmm_ns: 5,
            }
        );
        let later = Costs::of(&json!({ "exits": { "total": 60 } }), &dir).since(&costs);
        assert_eq!(
            (later.vmm_exits, later.kvm_exits, later.vcpu_ns),
            (10, None, 0)
        );
        fs::remove_dir_all(&dir).unwrap();
    }
}
