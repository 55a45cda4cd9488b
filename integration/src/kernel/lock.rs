//! One at a time: a lock on a file, let go when the guard is dropped or its process ends.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::error::{Context, Error, Result};

/// Holds the lock.
#[derive(Debug)]
pub struct Guard {
    _file: File,
}

/// Waits for the lock and takes it.
pub fn take(path: &Path) -> Result<Guard> {
    let file = File::create(path).context(format!("make {}", path.display()))?;
    let lock = |how| {
        // SAFETY: flock takes a descriptor, which `file` keeps open, and touches no memory.
        unsafe { libc::flock(file.as_raw_fd(), how) == 0 }
    };
    if !lock(libc::LOCK_EX | libc::LOCK_NB) {
        eprintln!("  waiting for another process that builds the lab's kernel");
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
