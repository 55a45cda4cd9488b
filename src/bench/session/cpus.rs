//! The CPUs that all subjects have: the host's own work and each VMM with its guest are confined to
//! the same ones.

use std::fs;
use std::path::Path;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::error::{Context, Error, Result};

/// The most CPUs that are used without the user's choice.
pub const MOST: usize = 4;

/// The CPUs that this process may use.
///
/// # Errors
/// The kernel does not say.
pub fn allowed() -> Result<Vec<usize>> {
    let set = sched_getaffinity(None).context("cannot read the CPUs of this process")?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|cpu| set.is_set(*cpu))
        .collect())
}

/// The CPUs of a run: the user's choice, or up to `most` beside the device. `device` is the
/// device's directory in sysfs.
///
/// # Errors
/// The user's choice has a CPU that this process may not use.
pub fn choose(
    chosen: Option<&[usize]>,
    allowed: &[usize],
    device: &Path,
    most: usize,
) -> Result<Vec<usize>> {
    if let Some(chosen) = chosen {
        if let Some(missing) = chosen.iter().find(|cpu| !allowed.contains(cpu)) {
            return Err(Error::new(format!(
                "CPU {missing} is not one that this program may use"
            ))
            .with_hint("taskset -p $$; cat /sys/devices/system/cpu/online"));
        }
        return Ok(chosen.to_vec());
    }
    let local = fs::read_to_string(device.join("local_cpulist")).unwrap_or_default();
    let local = list(local.trim()).unwrap_or_default();
    let beside: Vec<usize> = allowed
        .iter()
        .copied()
        .filter(|c| local.contains(c))
        .collect();
    let from = if beside.is_empty() { allowed } else { &beside };
    Ok(from.iter().copied().take(most).collect())
}

/// Reads a list such as `0-3,8`.
pub fn list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (usize, usize) = (from.parse().ok()?, to.parse().ok()?);
        if from > to || to >= CpuSet::MAX_CPU {
            return None;
        }
        cpus.extend(from..=to);
    }
    Some(cpus)
}

/// Confines this process, and all that it starts, to these CPUs.
///
/// # Errors
/// The kernel refuses.
pub fn confine(cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    sched_setaffinity(None, &set).context(format!("cannot use the CPUs {cpus:?} alone"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_those_of_taskset() {
        assert_eq!(list("0-2,8"), Some(vec![0, 1, 2, 8]));
        assert_eq!(list("3"), Some(vec![3]));
        for bad in ["", "a", "3-1", "1-", "0-99999"] {
            assert_eq!(list(bad), None, "{bad}");
        }
    }

    #[test]
    fn cpus_beside_the_device_come_first() {
        let dir = std::env::temp_dir().join(format!("bench-cpus-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let allowed: Vec<usize> = (0..8).collect();
        assert_eq!(choose(None, &allowed, &dir, 4).unwrap(), [0, 1, 2, 3]);
        fs::write(dir.join("local_cpulist"), "6-9\n").unwrap();
        assert_eq!(choose(None, &allowed, &dir, 4).unwrap(), [6, 7]);
        assert_eq!(choose(Some(&[1]), &allowed, &dir, 4).unwrap(), [1]);
        assert!(choose(Some(&[9]), &allowed, &dir, 4).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
