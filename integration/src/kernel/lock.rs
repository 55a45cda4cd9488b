//! A lock on a file, for one process at a time. The lock ends with its guard or with the process.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::error::{Context, Error, Result};

/// The lock, until dropped.
#[derive(Debug)]
pub struct Guard {
    _file: File,
}

/// Waits for the lock and takes it.
pub fn take(path: &Path) -> Result<Guard> {
    let file = File::create(path).context(format!("make {}", path.display()))?;
    let lock = |how| {
        // SAFETY: `file` keeps the descriptor open, and flock accesses no memory.
        unsafe { libc::flock(file.as_raw_fd(), how) == 0 }
    };
    if !lock(libc::LOCK_EX | libc::LOCK_NB) {
        eprintln!("  waiting for another process that fills the lab's cache");
        while !lock(libc::LOCK_EX) {
            let error = std::io::Error::last_os_error();
            if error.kind() != std::io::ErrorKind::Interrupted {
                return Err(Error::failed(format!(
                    "cannot lock {}: {error}",
                    path.display()
                )));
            }
        }
    }
    Ok(Guard { _file: file })
}
