//! The CPUs of a VMM's threads, set from outside: each virtual CPU's thread has one of its own, and
//! the kernel's threads that work for the VMM have those of the VMM.

use std::fs;
use std::path::Path;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::error::{Context, Error, Result};
use crate::subjects::workers;

/// Puts the thread of virtual CPU `n` on the `n`th of `cpus`, and the kernel's threads for the VMM,
/// which have no CPUs from it, on all of them.
///
/// # Errors
/// A thread is missing, or the kernel refuses.
pub(super) fn pin(pid: u32, cpus: &[usize]) -> Result<()> {
    let process = format!("/proc/{pid}");
    let threads = vcpu_threads(Path::new(&process));
    for (number, cpu) in cpus.iter().enumerate() {
        let thread = threads.iter().find(|(of, _)| *of == number);
        let thread = thread.and_then(|(_, id)| Pid::from_raw(*id));
        let thread = thread
            .ok_or_else(|| Error::new(format!("the VMM has no thread for virtual CPU {number}")))?;
        let mut set = CpuSet::new();
        set.set(*cpu);
        sched_setaffinity(Some(thread), &set)
            .context(format!("cannot put virtual CPU {number} on CPU {cpu}"))?;
    }
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    for (thread, _) in workers::of_kernel(Path::new(&process)) {
        sched_setaffinity(Pid::from_raw(thread), &set).context(format!(
            "cannot put vhost's thread {thread} on the VMM's CPUs"
        ))?;
    }
    Ok(())
}

/// The threads of the virtual CPUs.
pub(super) fn threads(pid: u32) -> Vec<i32> {
    let threads = vcpu_threads(Path::new(&format!("/proc/{pid}")));
    threads.into_iter().map(|(_, thread)| thread).collect()
}

/// The numbers of the virtual CPUs, each with its thread.
fn vcpu_threads(process: &Path) -> Vec<(usize, i32)> {
    let tasks = fs::read_dir(process.join("task"));
    let each = tasks.into_iter().flatten().flatten();
    each.filter_map(|task| {
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        let number = number(name.trim())?;
        let thread = task.file_name().to_string_lossy().parse().ok()?;
        Some((number, thread))
    })
    .collect()
}

/// The number of a virtual CPU by the name of its thread: QEMU's, crosvm's, Firecracker's,
/// alioth's, mini-vmm's, Cloud Hypervisor's, OpenVMM's.
pub(super) fn number(name: &str) -> Option<usize> {
    let name = name.strip_suffix("/KVM").unwrap_or(name);
    const STARTS: [&str; 7] = [
        "CPU ",
        "crosvm_vcpu",
        "fc_vcpu ",
        "vcpu_",
        "vcpu ",
        "vcpu",
        "vp-",
    ];
    STARTS
        .into_iter()
        .find_map(|start| name.strip_prefix(start)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_cpus_are_known_by_the_names_of_their_threads() {
        let dir = std::env::temp_dir().join(format!("bench-affinity-{}", std::process::id()));
        for (task, comm) in [
            ("7", "qemu-system-x86"),
            ("8", "CPU 0/KVM"),
            ("9", "IO disk"),
        ] {
            let task = dir.join("task").join(task);
            fs::create_dir_all(&task).unwrap();
            fs::write(task.join("comm"), format!("{comm}\n")).unwrap();
        }
        let found = vcpu_threads(&dir);
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(found, [(0, 8)]);
        for (name, wanted) in [
            ("CPU 12/KVM", Some(12)),
            ("vcpu3", Some(3)),
            ("vcpu 2", Some(2)),
            ("crosvm_vcpu1", Some(1)),
            ("fc_vcpu 0", Some(0)),
            ("vcpu_4", Some(4)),
            ("vp-1", Some(1)),
            ("vcpu", None),
            ("vmm", None),
        ] {
            assert_eq!(number(name), wanted, "{name}");
        }
        assert!(pin(std::process::id(), &[0]).is_err());
    }
}
