//! How much memory the host has (proc_meminfo(5)).

use std::fs;

/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMemory {
    /// RAM in all.
    pub total: u64,
    /// What can be had without swapping.
    pub available: u64,
}

impl HostMemory {
    /// Asks the kernel; `None` when /proc is not there.
    pub fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/meminfo").ok()?)
    }

    /// Reads the text of /proc/meminfo.
    pub fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = text
                .lines()
                .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
            let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            kib.checked_mul(1024)
        };
        Some(Self {
            total: field("MemTotal")?,
            available: field("MemAvailable")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_figures_are_found() {
        let text =
            "MemTotal:       24542228 kB\nMemFree:        100 kB\nMemAvailable:   20000 kB\n";
        let memory = HostMemory::parse(text).unwrap();
        assert_eq!(memory.total, 24542228 << 10);
        assert_eq!(memory.available, 20000 << 10);
        assert_eq!(HostMemory::parse("MemTotal: x kB"), None);
    }
}
