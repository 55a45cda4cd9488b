//! Pins vCPUs to host CPUs.

use std::mem::size_of_val;
use std::{io, thread};

use crate::config::cpus::{MAX_HOST_CPU, format_list};
use crate::vcpu::error::VcpuError;

/// A set of host CPUs, one bit for each. `cpu_set_t` ends at 1,024 CPUs, and the kernel refuses to
/// fill a set that is smaller than its own (sched_getaffinity(2), "Handling systems with large CPU
/// affinity masks").
#[derive(Clone, Copy, PartialEq, Eq)]
struct CpuSet([u64; WORDS]);

const WORDS: usize = (MAX_HOST_CPU + 1) / 64;

impl CpuSet {
    /// The set of this CPU; empty if no kernel has the CPU.
    fn one(cpu: usize) -> Self {
        let mut set = Self([0; WORDS]);
        if let Some(word) = set.0.get_mut(cpu / 64) {
            *word = 1 << (cpu % 64);
        }
        set
    }

    /// The CPUs on which the calling thread may run.
    fn of_this_thread() -> io::Result<Self> {
        let mut set = Self([0; WORDS]);
        let size = size_of_val(&set.0);
        // SAFETY: the kernel writes at most `size` bytes, all of them inside the set.
        let ret = unsafe { libc::sched_getaffinity(0, size, (&raw mut set.0).cast()) };
        match ret {
            0 => Ok(set),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Makes the calling thread run on these CPUs only.
    fn apply(&self) -> io::Result<()> {
        let size = size_of_val(&self.0);
        // SAFETY: the kernel reads `size` bytes, all of them inside the set.
        let ret = unsafe { libc::sched_setaffinity(0, size, (&raw const self.0).cast()) };
        match ret {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The CPUs in order.
    fn list(&self) -> Vec<usize> {
        let has = |cpu: &usize| {
            self.0
                .get(cpu / 64)
                .is_some_and(|w| w >> (cpu % 64) & 1 == 1)
        };
        (0..=MAX_HOST_CPU).filter(has).collect()
    }
}

/// Pins the calling thread to one host CPU.
///
/// # Errors
/// EINVAL if the CPU does not exist, is offline, or may not be used by this process.
pub fn pin(cpu: usize) -> io::Result<()> {
    CpuSet::one(cpu).apply()
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
    CpuSet::of_this_thread().map_or_else(|_| Vec::new(), |set| set.list())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stays_where_it_is_put() {
        let set = usable();
        let mine = set[0];
        check(&[mine]).unwrap();
        // Only a thread of its own was moved.
        assert_eq!(usable(), set);
        thread::spawn(move || {
            pin(mine).unwrap();
            assert_eq!(usable(), [mine]);
        })
        .join()
        .unwrap();
    }

    /// As many as a kernel may have.
    #[test]
    fn sets_of_large_hosts() {
        for cpu in [0, 63, 64, 1023, 1024, 8191] {
            assert_eq!(CpuSet::one(cpu).list(), [cpu]);
        }
        for cpu in [8192, usize::MAX] {
            assert_eq!(CpuSet::one(cpu).list(), [0; 0]);
        }
    }

    #[test]
    fn cpus_that_are_not_there() {
        for cpu in [8191, 8192, usize::MAX] {
            let e = check(&[cpu]).unwrap_err();
            assert!(
                matches!(e, VcpuError::Pin { cpu: named, .. } if named == cpu),
                "{e:?}"
            );
            assert!(e.hint().unwrap().contains(&format_list(&usable())));
        }
    }
}
