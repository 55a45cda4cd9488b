//! Memory that other processes of this user have locked through iommufd.
//!
//! iommufd counts locked memory for each user (drivers/iommu/iommufd/pages.c,
//! incr_user_locked_vm), and a container for each process. The kernel does not show the count of a
//! user. It is the sum of the pinned memory of the user's processes that have /dev/iommu open and
//! are not free of the limit.

use std::fs;
use std::path::Path;

use crate::hostinfo::holders::{Holder, Holders};
use crate::sys;

/// The node of iommufd.
const NODE: &str = "/dev/iommu";

/// Locked memory of other processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockedByOthers {
    /// Each process with its bytes.
    pub processes: Vec<(Holder, u64)>,
}

impl LockedByOthers {
    /// Asks /proc for the other processes of this user.
    pub fn read() -> Self {
        let holders = Holders::of(&[Path::new(NODE)]);
        Self::among(Path::new("/proc"), holders.processes)
    }

    fn among(proc: &Path, holders: Vec<Holder>) -> Self {
        let status =
            |name: &str| fs::read_to_string(proc.join(name).join("status")).unwrap_or_default();
        let user = |status: &str| field(status, "Uid:").map(str::to_owned);
        let own = user(&status("self"));
        let counted = |holder: Holder| {
            let status = status(&holder.0.to_string());
            let ours = own.is_some() && user(&status) == own && !sys::may_lock(&status);
            let kib: u64 = field(&status, "VmPin:")?.parse().ok()?;
            (ours && kib > 0).then_some((holder, kib << 10))
        };
        Self {
            processes: holders.into_iter().filter_map(counted).collect(),
        }
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

/// The first word of a field of a process's status.
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = status.lines();
    let rest = lines.find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()
}

#[cfg(test)]
mod tests {
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
        let found = LockedByOthers::among(proc.as_path(), holders.to_vec());
        assert_eq!(found.processes, [((5, "p5".into()), 256 << 10)]);
        assert_eq!(found.bytes(), 256 << 10);
        assert_eq!(found.in_words(), "process 5 (p5)");
    }
}
