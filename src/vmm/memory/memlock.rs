//! The limit on locked memory (RLIMIT_MEMLOCK), against the memory that devices need locked.

use std::io;
use std::path::Path;

use crate::hostinfo::locked::LockedByOthers;
use crate::memory::error::DmaError;
use crate::{sandbox, sys};

/// A limit that is too low.
pub struct TooLittle {
    need: u64,
    limit: u64,
    others: LockedByOthers,
}

/// Whether this process may not lock `need` bytes more. A container counts the process's own
/// memory; iommufd counts what other processes of the user have locked by iommufd, too. `None` if
/// the limit suffices, and on a confined thread, which cannot read it.
pub fn too_little(need: u64, by_iommufd: bool) -> Option<TooLittle> {
    if !sandbox::may_read_files() {
        return None;
    }
    let proc = Path::new("/proc");
    let limit = sys::memlock_limit();
    if limit == u64::MAX || sys::may_lock_any(proc) {
        return None;
    }
    let others = match by_iommufd {
        true => LockedByOthers::read(),
        false => LockedByOthers::default(),
    };
    (need.saturating_add(others.bytes()) > limit).then_some(TooLittle {
        need,
        limit,
        others,
    })
}

impl TooLittle {
    /// Makes the error; `source` is the kernel's errno, if it has refused.
    pub fn error(self, source: Option<io::Error>) -> DmaError {
        DmaError::MemLock {
            need: self.need,
            limit: self.limit,
            others: self.others,
            namespace: sys::is_in_user_namespace(Path::new("/proc")),
            source,
        }
    }
}
