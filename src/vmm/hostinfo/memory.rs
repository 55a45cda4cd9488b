//! The host's memory (proc_meminfo(5)), and the part of it that this process may use: the memory
//! controller of its control group
//! (Documentation/admin-guide/cgroup-v2.rst, "Memory"; cgroup-v1/memory.rst).

use std::fs;
use std::path::Path;

/// The host's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMemory {
    /// All RAM.
    pub total: u64,
    /// RAM that is available without swapping.
    pub available: u64,
}

impl HostMemory {
    /// Reads /proc/meminfo; `None` if the file cannot be read.
    pub fn read() -> Option<Self> {
        Self::parse(&String::from_utf8_lossy(&fs::read("/proc/meminfo").ok()?))
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

/// All RAM of the host, in bytes. The call is faster than [`HostMemory::read`].
pub fn total() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(info.mem_unit.into())
}

/// Bytes that this process may still use by the limits of its control groups; `None` without a
/// limit.
pub fn group_left() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    left_by_groups(&groups, Path::new("/sys/fs/cgroup"))
}

/// The least number of bytes that the groups in the text of /proc/self/cgroup, and their ancestors,
/// leave.
fn left_by_groups(groups: &str, mount: &Path) -> Option<u64> {
    let mut least = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else {
            continue;
        };
        // `cached` is the part of `used` that the kernel reclaims before it kills a process.
        let (root, limit, used, cached) = match controllers {
            "" => (
                mount.into(),
                "memory.max",
                "memory.current",
                &["inactive_file ", "active_file ", "slab_reclaimable "][..],
            ),
            _ if controllers.split(',').any(|c| c == "memory") => (
                mount.join("memory"),
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                &["total_inactive_file ", "total_active_file "][..],
            ),
            _ => continue,
        };
        let leaf = root.join(group.trim_start_matches('/'));
        for dir in leaf.ancestors().take_while(|dir| dir.starts_with(&root)) {
            let read = |name: &str| fs::read_to_string(dir.join(name)).ok();
            let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
            // "max" means no limit.
            let (Some(limit), Some(used)) = (number(limit), number(used)) else {
                continue;
            };
            let stat = read("memory.stat").unwrap_or_default();
            let figures = stat.lines().filter_map(|line| {
                let figure = cached.iter().find_map(|name| line.strip_prefix(name));
                figure?.trim().parse::<u64>().ok()
            });
            let cached = figures.fold(0, u64::saturating_add);
            let left = limit.saturating_sub(used.saturating_sub(cached));
            least = Some(least.map_or(left, |least: u64| least.min(left)));
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    #[test]
    fn both_figures_are_found() {
        let text =
            "MemTotal:       24542228 kB\nMemFree:        100 kB\nMemAvailable:   20000 kB\n";
        let memory = HostMemory::parse(text).unwrap();
        assert_eq!(memory.total, 24542228 << 10);
        assert_eq!(memory.available, 20000 << 10);
        assert_eq!(HostMemory::parse("MemTotal: x kB"), None);
        let host = HostMemory::read().unwrap();
        assert_eq!(host.total, total());
        assert!(host.available <= host.total);
    }

    #[test]
    fn the_tightest_group_counts() {
        let root = TempDir::new().unwrap();
        let group = |path: &str, files: &[(&str, &str)]| {
            let dir = root.as_path().join(path);
            fs::create_dir_all(&dir).unwrap();
            for (name, text) in files {
                fs::write(dir.join(name), text).unwrap();
            }
        };
        group(
            "slice",
            &[("memory.max", "1000\n"), ("memory.current", "400\n")],
        );
        group(
            "slice/unit",
            &[
                ("memory.max", "900\n"),
                ("memory.current", "500\n"),
                (
                    "memory.stat",
                    "anon 300\ninactive_file 100\nactive_file 30\nslab_reclaimable 20\nslab 99\n",
                ),
            ],
        );
        group(
            "free",
            &[("memory.max", "max\n"), ("memory.current", "5\n")],
        );
        group(
            "memory/old",
            &[
                ("memory.limit_in_bytes", "700\n"),
                ("memory.usage_in_bytes", "650\n"),
                (
                    "memory.stat",
                    "inactive_file 1\ntotal_inactive_file 15\ntotal_active_file 5\n",
                ),
            ],
        );
        for (text, left) in [
            ("0::/slice/unit\n", Some(550)),
            ("0::/slice\n", Some(600)),
            ("0::/free\n", None),
            ("0::/\n", None),
            ("3:cpu,memory:/old\n0::/\n", Some(70)),
            ("4:cpu:/old\n", None),
            ("0::/gone/unit\n", None),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(left_by_groups(text, root.as_path()), left, "{text}");
        }
    }
}
