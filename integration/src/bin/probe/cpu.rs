//! CPU time of a VMM, its vCPU threads apart from all others.

use std::fs;
use std::time::Duration;

use lab::Result;
use lab::error::Context;

/// CPU time since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// Of the threads that run the guest: what the guest used is in it.
    pub vcpus: Duration,
    /// Of all others.
    pub others: Duration,
}

/// Asks /proc, which counts in hundredths of a second (proc_pid_stat(5)).
pub fn of(pid: u32) -> Result<Cpu> {
    let tasks = format!("/proc/{pid}/task");
    let mut cpu = Cpu::default();
    for task in fs::read_dir(&tasks).context(format!("list {tasks}"))? {
        let path = task.context(format!("list {tasks}"))?.path().join("stat");
        // A thread may end meanwhile.
        let Ok(stat) = fs::read_to_string(path) else {
            continue;
        };
        let Some((name, time)) = parse(&stat) else {
            continue;
        };
        // "vcpu 0" is mini-vmm's name, "CPU 0/KVM" QEMU's, "vcpu0" Cloud Hypervisor's, "crosvm_vcpu0" crosvm's.
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
