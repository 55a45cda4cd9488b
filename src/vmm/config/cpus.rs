//! vCPUs: how many and how arranged, where they run, and how they idle.

use crate::config::topology::{Topology, TopologyError, Wish};

/// vCPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuConfig {
    /// How many, and of which sockets and cores they are threads.
    pub topology: Topology,
    /// The host CPU that each runs on; empty when the host's scheduler decides.
    pub pin: Vec<usize>,
    /// What a vCPU without work does.
    pub idle: Idle,
}

impl CpuConfig {
    /// So many vCPUs, all else as it is by default.
    ///
    /// # Errors
    /// Not 1 to [`super::MAX_CPUS`] of them.
    pub fn new(count: u32) -> Result<Self, TopologyError> {
        Ok(Self {
            topology: Topology::new(count, Wish::default())?,
            pin: Vec::new(),
            idle: Idle::default(),
        })
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.topology.cpus()
    }

    /// Whether each vCPU has a host CPU to itself as far as we can tell: pinned there, and never
    /// giving it up.
    pub fn dedicated(&self) -> bool {
        self.idle == Idle::Native && !self.pin.is_empty()
    }
}

/// What happens when the guest has nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idle {
    /// HLT and PAUSE leave the guest, and the host CPU is free for others.
    #[default]
    Exit,
    /// HLT, MWAIT and PAUSE run in the guest, which keeps its host CPU.
    Native,
}

/// More than any kernel has (CONFIG_NR_CPUS is 8192 at most).
const MAX_HOST_CPU: usize = 8191;

/// Reads a list of host CPUs as taskset(1) has it: `0,2,4-7`, or every second with `0-6:2`. The
/// order counts: the first is vCPU 0's. `None` when it is none, or names a CPU twice.
pub fn parse_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (range, step) = part.split_once(':').unwrap_or((part, "1"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last, step) = (number(first)?, number(last)?, number(step)?);
        if first > last || step == 0 || (part.contains(':') && !range.contains('-')) {
            return None;
        }
        for cpu in (first..=last).step_by(step) {
            if cpus.contains(&cpu) {
                return None;
            }
            cpus.push(cpu);
        }
    }
    Some(cpus)
}

/// Digits alone: no sign, no space.
fn number(text: &str) -> Option<usize> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten()?;
    (number <= MAX_HOST_CPU).then_some(number)
}

/// A list of CPUs in its shortest form, as the kernel prints it: `0-3,8`.
pub fn format_list(cpus: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let text: Vec<_> = ranges
        .iter()
        .map(|(first, last)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        })
        .collect();
    text.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_as_taskset_has_them() {
        for (text, cpus, back) in [
            ("0", &[0][..], "0"),
            ("3,1", &[3, 1], "3,1"),
            ("0,2,4-7", &[0, 2, 4, 5, 6, 7], "0,2,4-7"),
            ("0-6:2", &[0, 2, 4, 6], "0,2,4,6"),
            ("8191", &[8191], "8191"),
        ] {
            assert_eq!(parse_list(text).as_deref(), Some(cpus), "{text}");
            assert_eq!(format_list(cpus), back);
        }
        for text in [
            "",
            ",",
            "0,",
            "x",
            "-1",
            "1-",
            "-",
            "3-1",
            "0-3:0",
            "2:2",
            "0:",
            "+1",
            " 1",
            "0,0",
            "0-3,2",
            "8192",
            "99999999999999999999",
            "0-1-2",
        ] {
            assert_eq!(parse_list(text), None, "{text}");
        }
    }
}
