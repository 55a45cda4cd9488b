//! The disk, opened for reads alone unless the user has named it for writes.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::{Context, Result};

/// Opens a disk for direct reads, and for writes if `writes` is set. A block device that is
/// mounted, or that another program has for itself, is refused by the kernel (open(2), O_EXCL).
/// `writes` comes from the serial number that the user has named (`Disk::open`), and from nothing
/// else.
///
/// # Errors
/// The disk cannot be opened.
pub fn open(path: &Path, writes: bool) -> Result<File> {
    let what = if writes { "writes" } else { "reads" };
    OpenOptions::new()
        .read(true)
        .write(writes)
        .custom_flags(libc::O_DIRECT | libc::O_EXCL | libc::O_CLOEXEC)
        .open(path)
        .context(format!(
            "cannot open {} for exclusive {what}",
            path.display()
        ))
}
