//! The CPU time of a VMM: that of its vCPU threads, and that of all other threads.

use std::fs;
use std::time::Duration;

use crate::error::{Context, Result};

/// CPU time since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// The threads that run the guest. Their time includes the guest's own work.
    pub vcpus: Duration,
    /// All other threads.
    pub others: Duration,
}

/// Reads the CPU times of a process from /proc, in hundredths of a second (proc_pid_stat(5)).
pub fn of(pid: u32) -> Result<Cpu> {
    let tasks = format!("/proc/{pid}/task");
    let mut cpu = Cpu::default();
    for task in fs::read_dir(&tasks).context(format!("list {tasks}"))? {
        let path = task.context(format!("list {tasks}"))?.path().join("stat");
        // The thread may have ended since the listing.
        let Ok(stat) = fs::read_to_string(path) else {
            continue;
        };
        let Some((name, time)) = parse(&stat) else {
            continue;
        };
        // The name of a vCPU's thread is "vcpu 0" in mini-vmm, "CPU 0/KVM" in QEMU, "vcpu0" in
        // Cloud Hypervisor and "crosvm_vcpu0" in crosvm.
        if name.to_ascii_lowercase().contains("cpu") {
            cpu.vcpus += time;
        } else {
            cpu.others += time;
        }
    }
    Ok(cpu)
}

/// A thread's name, and its time in user space and in the kernel.
fn parse(stat: &str) -> Option<(&str, Duration)> {
    let (head, rest) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut words = rest.split_whitespace().skip(11);
    let mut ticks = || words.next()?.parse::<u64>().ok();
    let time = ticks()? + ticks()?;
    Some((name, Duration::from_millis(time * 10)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_what_it_likes() {
        let stat = "12 (CPU 0) /KVM) S 1 12 1 0 -1 0 0 0 0 0 7 5 0 0 20 0 3 0 99 0 0";
        assert_eq!(
            parse(stat),
            Some(("CPU 0) /KVM", Duration::from_millis(120)))
        );
        assert_eq!(parse("12 (x"), None);
    }
}
