//! The disk, opened for reads alone.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::{Context, Result};

/// Opens a disk for direct reads. A block device that is mounted, or that another program has for
/// itself, is refused by the kernel (open(2), O_EXCL). Nothing that this program does opens a disk
/// for writing.
///
/// # Errors
/// The disk cannot be opened.
pub fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT | libc::O_EXCL | libc::O_CLOEXEC)
        .open(path)
        .context(format!(
            "cannot open {} for exclusive reads",
            path.display()
        ))
}
