//! The host's memory (proc_meminfo(5)), and the part of it that this process may use: the memory
//! controller of its control group
//! (Documentation/admin-guide/cgroup-v2.rst, "Memory"; cgroup-v1/memory.rst).

use std::fs;
use std::path::Path;

/// The memory that this process may use, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMemory {
    /// All RAM of the host.
    pub total: u64,
    /// RAM that is available without swapping: free, or given back by the kernel when it is needed.
    pub available: u64,
    /// The part that the limits of this process's control groups leave; `None` without a limit.
    pub group: Option<u64>,
}

/// What a guest's memory exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// All RAM of the host, in bytes.
    Total(u64),
    /// The bytes that are available now.
    Available(u64),
    /// The bytes that a control group leaves.
    Group(u64),
}

impl Shortage {
    /// Whether a control group sets the limit.
    pub fn is_of_group(self) -> bool {
        matches!(self, Self::Group(_))
    }

    /// The bytes that are left.
    pub fn left(self) -> u64 {
        match self {
            Self::Total(left) | Self::Available(left) | Self::Group(left) => left,
        }
    }
}

impl HostMemory {
    /// Reads the memory of this host; `None` if /proc/meminfo cannot be read.
    pub fn read() -> Option<Self> {
        Self::read_at(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
    }

    /// Reads the memory of a host from directories in place of /proc and /sys/fs/cgroup.
    pub fn read_at(proc: &Path, groups: &Path) -> Option<Self> {
        let read = |name: &str| {
            let text = fs::read(proc.join(name)).ok()?;
            Some(String::from_utf8_lossy(&text).into_owned())
        };
        let meminfo = read("meminfo")?;
        let field = |name: &str| {
            let mut lines = meminfo.lines();
            let line = lines.find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
            let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            kib.checked_mul(1024)
        };
        let total = field("MemTotal")?;
        let arc = read("spl/kstat/zfs/arcstats").map_or(0, |text| arc_surplus(&text));
        Some(Self {
            total,
            available: field("MemAvailable")?.saturating_add(arc).min(total),
            group: read("self/cgroup").and_then(|text| left_by_groups(&text, groups)),
        })
    }

    /// Judges whether a guest can have `asked` bytes; `None` if it can. If the bytes are not all
    /// `present` from the start, the kernel allocates a page when the guest touches it.
    ///
    /// Swap space does not count: memory of other programs would go to disk.
    pub fn shortage(&self, asked: u64, present: bool) -> Option<Shortage> {
        if asked > self.total {
            return Some(Shortage::Total(self.total));
        }
        let available = Shortage::Available(self.available);
        let group = self.group.map(Shortage::Group);
        let least = group.into_iter().chain([available]);
        let least = least.min_by_key(|s| s.left())?;
        (present && asked > least.left()).then_some(least)
    }
}

/// The bytes that the cache of ZFS (ARC) gives back: all above its least size. MemAvailable does
/// not count them, because ZFS's pages are not in the kernel's page cache (arcstats: `size` and
/// `c_min`, in the form of /proc/spl/kstat: name, type, value).
fn arc_surplus(arcstats: &str) -> u64 {
    let value = |name: &str| -> Option<u64> {
        arcstats.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some(name)).then(|| words.nth(1)?.parse().ok())?
        })
    };
    // Without its least size, nothing is known to be given back.
    value("size")
        .zip(value("c_min"))
        .map_or(0, |(size, least)| size.saturating_sub(least))
}

/// All RAM of the host, in bytes. The call is faster than [`HostMemory::read`].
pub fn total() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(info.mem_unit.into())
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
        // Above `memory.high` the kernel kills nobody, but it makes the process sleep at each
        // allocation, and RAM that is pinned cannot be reclaimed: the guest would never start.
        let (root, limits, used, cached) = match controllers {
            "" => (
                mount.into(),
                &["memory.max", "memory.high"][..],
                "memory.current",
                &["inactive_file ", "active_file ", "slab_reclaimable "][..],
            ),
            _ if controllers.split(',').any(|c| c == "memory") => (
                mount.join("memory"),
                &["memory.limit_in_bytes"][..],
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
            let limit = limits.iter().filter_map(|name| number(name)).min();
            let (Some(limit), Some(used)) = (limit, number(used)) else {
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

    /// A host with this /proc/meminfo and, if any, these statistics of ZFS.
    fn host(meminfo: &str, arcstats: Option<&str>) -> Option<HostMemory> {
        let root = TempDir::new().unwrap();
        let zfs = root.as_path().join("spl/kstat/zfs");
        fs::write(root.as_path().join("meminfo"), meminfo).unwrap();
        if let Some(text) = arcstats {
            fs::create_dir_all(&zfs).unwrap();
            fs::write(zfs.join("arcstats"), text).unwrap();
        }
        HostMemory::read_at(root.as_path(), Path::new("/nowhere"))
    }

    const MEMINFO: &str =
        "MemTotal:       24542228 kB\nMemFree:        100 kB\nMemAvailable:   20000 kB\n";

    #[test]
    fn both_figures_are_found() {
        let memory = host(MEMINFO, None).unwrap();
        assert_eq!(memory.total, 24542228 << 10);
        assert_eq!(memory.available, 20000 << 10);
        assert_eq!(memory.group, None);
        assert_eq!(host("MemTotal: x kB", None), None);
        let host = HostMemory::read().unwrap();
        assert_eq!(host.total, total());
        assert!(host.available <= host.total);
    }

    #[test]
    fn the_cache_of_zfs_is_given_back() {
        let arcstats = |size: u64| {
            format!(
                "9 1 0x01 147 39984 4 5\nname    type data\nhits    4    77\nc       4    999\n\
                 c_min   4    1048576\nc_max   4    8\nsize    4    {size}\nhdr_size 4 7\n"
            )
        };
        for (text, more) in [
            (arcstats(9 << 20), 8 << 20),
            (arcstats(1 << 20), 0),
            (arcstats(7), 0),
            ("size 4 99999\n".into(), 0),
            ("c_min 4 1\nsize 4\n".into(), 0),
            (String::new(), 0),
        ] {
            let memory = host(MEMINFO, Some(&text)).unwrap();
            assert_eq!(memory.available, (20000 << 10) + more, "{text}");
        }
        let memory = host(MEMINFO, Some(&arcstats(u64::MAX))).unwrap();
        assert_eq!(memory.available, memory.total);
    }

    #[test]
    fn what_a_guest_exceeds() {
        let memory = |group| HostMemory {
            total: 100,
            available: 50,
            group,
        };
        for (asked, present, group, short) in [
            (50, true, None, None),
            (51, true, None, Some(Shortage::Available(50))),
            (51, false, None, None),
            (101, false, None, Some(Shortage::Total(100))),
            (101, true, Some(7), Some(Shortage::Total(100))),
            (41, true, Some(40), Some(Shortage::Group(40))),
            (41, false, Some(40), None),
            (51, true, Some(60), Some(Shortage::Available(50))),
        ] {
            assert_eq!(
                memory(group).shortage(asked, present),
                short,
                "{asked} {group:?}"
            );
        }
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
            &[
                ("memory.max", "max\n"),
                ("memory.high", "max\n"),
                ("memory.current", "5\n"),
            ],
        );
        group(
            "slow",
            &[
                ("memory.max", "700\n"),
                ("memory.high", "60\n"),
                ("memory.current", "5\n"),
            ],
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
            ("0::/slow\n", Some(55)),
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
