//! KVM's totals in the timed turns, from outside of the VMM: KVM's files in debugfs
//! (virt/kvm/kvm_main.c, `kvm_create_vm_debugfs`), whose counters KVM keeps whether somebody reads
//! them or not. So reading them costs the guest nothing, and they tell whether the pass that counts
//! did the same as the timed turns.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::subjects::child::Vmm;
use crate::work::task::Message;

/// KVM's directory in debugfs, which has one for each virtual machine.
const KVM: &str = "/sys/kernel/debug/kvm";

/// The exits of one kind of work in a timed turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Total {
    /// The name of the work.
    pub work: String,
    /// All its operations, those of the warm-up among them.
    pub operations: u64,
    /// Exits to KVM, without accesses to ports: those are the console's.
    pub exits: u64,
}

/// Hears when a kind of work begins and ends.
#[derive(Debug, Default)]
pub(super) struct Totals {
    before: Option<u64>,
}

impl Totals {
    /// The total of a kind of work that has ended, if KVM's files can be read.
    pub(super) fn hear(&mut self, vmm: &Vmm, message: &Message) -> Option<Total> {
        let now = || {
            let process = format!("/proc/{}", vmm.pid());
            exits(Path::new(KVM), Path::new(&process))
        };
        match message {
            Message::Start { .. } => {
                self.before = now();
                None
            }
            Message::Stopped { work, reads } => Some(Total {
                work: work.clone(),
                operations: *reads,
                exits: now()?.checked_sub(self.before.take()?)?,
            }),
            _ => None,
        }
    }
}

/// The exits of all virtual machines of a process until now. The name of each directory begins with
/// the thread that made the machine.
fn exits(kvm: &Path, process: &Path) -> Option<u64> {
    let tasks = fs::read_dir(process.join("task")).ok()?;
    let tasks: Vec<_> = tasks.flatten().map(|task| task.file_name()).collect();
    let mut sum = None;
    for machine in fs::read_dir(kvm).ok()?.flatten() {
        let name = machine.file_name();
        let name = name.to_string_lossy();
        let Some((thread, _)) = name.split_once('-') else {
            continue;
        };
        if tasks.iter().any(|task| task == thread) {
            let number = |file: &str| -> Option<u64> {
                let text = fs::read_to_string(machine.path().join(file)).ok()?;
                text.trim().parse().ok()
            };
            let own = number("exits")?.saturating_sub(number("io_exits")?);
            sum = Some(sum.unwrap_or(0) + own);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_machines_of_a_process_count() {
        let dir = std::env::temp_dir().join(format!("bench-totals-{}", std::process::id()));
        let (kvm, process) = (dir.join("kvm"), dir.join("proc"));
        for task in ["70", "71"] {
            fs::create_dir_all(process.join("task").join(task)).unwrap();
        }
        assert_eq!(exits(&kvm, &process), None);
        fs::create_dir_all(&kvm).unwrap();
        fs::write(kvm.join("exits"), "999").unwrap();
        for (name, all, ports) in [("71-12", "500\n", "20\n"), ("7-12", "100\n", "1\n")] {
            fs::create_dir_all(kvm.join(name)).unwrap();
            fs::write(kvm.join(name).join("exits"), all).unwrap();
            fs::write(kvm.join(name).join("io_exits"), ports).unwrap();
        }
        assert_eq!(exits(&kvm, &process), Some(480));
        fs::remove_file(kvm.join("71-12/io_exits")).unwrap();
        assert_eq!(exits(&kvm, &process), None);
        fs::remove_dir_all(&dir).unwrap();
    }
}
