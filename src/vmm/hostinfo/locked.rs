//! Memory that other processes of this user have locked through iommufd.
//!
//! iommufd counts locked memory for each user (drivers/iommu/iommufd/pages.c,
//! incr_user_locked_vm), and a container for each process. The kernel does not show the count of a
//! user. It is the sum of the pinned memory of the user's processes that have /dev/iommu open and
//! are not free of the limit. Where a process hides its files, such as a VMM in its sandbox, its
//! pinned memory counts too: nothing else tells of it.

use std::path::Path;

use crate::hostinfo::holders::{Holder, Holders};
use crate::hostinfo::looker::{self, Look};
use crate::hostinfo::status::{field, status, status_of_asker, user};
use crate::sys;

/// The node of iommufd.
pub(super) const NODE: &str = "/dev/iommu";

/// Locked memory of other processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockedByOthers {
    /// Each process with its bytes.
    pub processes: Vec<(Holder, u64)>,
}

impl LockedByOthers {
    /// Asks /proc for the other processes of this user. A confined process lets another one look;
    /// without an answer, no process is known.
    pub fn read() -> Self {
        match looker::ask(|| Look::Locked) {
            None => Self::look(&[std::process::id()]),
            Some(answer) => answer
                .ok()
                .and_then(|lines| Self::from_lines(&lines))
                .unwrap_or_default(),
        }
    }

    /// As [`LockedByOthers::read`], by this process itself, for the user of the first of the
    /// processes `without`, which are not counted.
    pub fn look(without: &[u32]) -> Self {
        let holders = Holders::look(&[Path::new(NODE)], without);
        let all = [holders.processes, holders.own_hidden].concat();
        Self::among(Path::new("/proc"), without, all)
    }

    fn among(proc: &Path, without: &[u32], holders: Vec<Holder>) -> Self {
        let asker = status_of_asker(proc, without);
        let own = user(&asker);
        let counted = |holder: Holder| {
            let status = status(proc, &holder.0.to_string());
            let ours = own.is_some() && user(&status) == own && !sys::may_lock(&status);
            let kib: u64 = field(&status, "VmPin:")?.parse().ok()?;
            (ours && kib > 0).then_some((holder, kib << 10))
        };
        Self {
            processes: holders.into_iter().filter_map(counted).collect(),
        }
    }

    /// The value as lines of text, for the process that has asked.
    pub fn to_lines(&self) -> String {
        let processes = self.processes.iter();
        let line = |((pid, name), bytes): &(Holder, u64)| format!("{pid} {bytes} {name}\n");
        processes.map(line).collect()
    }

    /// The value from its lines; `None` if they are none of [`LockedByOthers::to_lines`].
    pub fn from_lines(lines: &str) -> Option<Self> {
        let process = |line: &str| {
            let (pid, rest) = line.split_once(' ')?;
            let (bytes, name) = rest.split_once(' ')?;
            Some(((pid.parse().ok()?, name.to_owned()), bytes.parse().ok()?))
        };
        let processes = lines.lines().map(process).collect::<Option<_>>()?;
        Some(Self { processes })
    }

    /// Their bytes together.
    pub fn bytes(&self) -> u64 {
        self.processes.iter().map(|(_, bytes)| bytes).sum()
    }

    /// The processes, as words: `process 12 (mini-vmm)`.
    pub fn in_words(&self) -> String {
        let names = self.processes.iter();
        let names: Vec<_> = names
            .map(|((pid, name), _)| format!("{pid} ({name})"))
            .collect();
        let plural = if names.len() == 1 { "" } else { "es" };
        format!("process{plural} {}", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    #[test]
    fn only_what_iommufd_counts() {
        let proc = TempDir::new().unwrap();
        let write = |pid: &str, uid: u32, caps: u64, kib: u64| {
            let dir = proc.as_path().join(pid);
            fs::create_dir_all(&dir).unwrap();
            let status = format!(
                "Name:\tx\nUid:\t{uid}\t0\t0\t0\nVmPin:\t  {kib} kB\nCapEff:\t{caps:016x}\n"
            );
            fs::write(dir.join("status"), status).unwrap();
        };
        write("self", 1000, 0, 0);
        write("5", 1000, 0, 256);
        // Another user's, one that may lock any amount, and one that has locked nothing.
        write("6", 1001, 0, 512);
        write("7", 1000, 1 << 14, 1024);
        write("8", 1000, 0, 0);
        let holders = [5, 6, 7, 8, 9].map(|pid| (pid, format!("p{pid}")));
        // The process that looks may be another user's than the one that asks, or alone be seen.
        write("4", 1001, 0, 0);
        let of_the_other = LockedByOthers::among(proc.as_path(), &[4, 2], holders.to_vec());
        assert_eq!(of_the_other.processes, [((6, "p6".into()), 512 << 10)]);
        let found = LockedByOthers::among(proc.as_path(), &[3, 2], holders.to_vec());
        assert_eq!(found.processes, [((5, "p5".into()), 256 << 10)]);
        assert_eq!(found.bytes(), 256 << 10);
        assert_eq!(found.in_words(), "process 5 (p5)");
        assert_eq!(
            LockedByOthers::from_lines(&found.to_lines()),
            Some(found.clone())
        );
        for nonsense in ["x", "5 6", "5 x name"] {
            assert_eq!(LockedByOthers::from_lines(nonsense), None, "{nonsense}");
        }
    }
}
