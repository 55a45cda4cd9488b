//! Pins vCPUs to host CPUs.

use std::{io, thread};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::config::cpus::format_list;
use crate::vcpu::error::VcpuError;

/// Pins the calling thread to one host CPU.
///
/// # Errors
/// EINVAL if the CPU does not exist, is offline, or may not be used by this process.
pub fn pin(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// Checks that a thread can be pinned to each of `cpus`. A separate thread tries, so that the
/// calling thread stays where it runs.
///
/// # Errors
/// [`VcpuError::Pin`] for the first host CPU that cannot be used.
pub fn check(cpus: &[usize]) -> Result<(), VcpuError> {
    if cpus.is_empty() {
        return Ok(());
    }
    let usable = format_list(&usable());
    let outcome = thread::scope(|scope| {
        let attempt = || {
            cpus.iter()
                .try_for_each(|&cpu| pin(cpu).map_err(|e| (cpu, e)))
        };
        let thread = thread::Builder::new().spawn_scoped(scope, attempt);
        thread.map(|t| t.join().map_err(|_| VcpuError::Died))
    });
    let outcome = outcome.map_err(|e| VcpuError::Thread(0, e))??;
    outcome.map_err(|(cpu, source)| VcpuError::Pin {
        cpu,
        usable,
        source,
    })
}

/// The host CPUs that this process may use.
pub fn usable() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else {
        return Vec::new();
    };
    (0..CpuSet::MAX_CPU).filter(|&c| set.is_set(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stays_where_it_is_put() {
        let set = sched_getaffinity(None).unwrap();
        let mine = (0..CpuSet::MAX_CPU).find(|&c| set.is_set(c)).unwrap();
        check(&[mine]).unwrap();
        // Only a thread of its own was moved.
        assert_eq!(sched_getaffinity(None).unwrap(), set);
        thread::spawn(move || {
            pin(mine).unwrap();
            assert_eq!(usable(), [mine]);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn cpus_that_are_not_there() {
        for cpu in [CpuSet::MAX_CPU - 1, CpuSet::MAX_CPU, usize::MAX] {
            let e = check(&[cpu]).unwrap_err();
            assert!(
                matches!(e, VcpuError::Pin { cpu: named, .. } if named == cpu),
                "{e:?}"
            );
            assert!(e.hint().unwrap().contains(&format_list(&usable())));
        }
    }
}
