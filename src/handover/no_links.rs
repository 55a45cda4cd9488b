//! Opens files without following a symbolic link anywhere in the path.

use std::fs::File;
use std::path::Path;

use rustix::fs::{CWD, Dir, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// The mode of a file that is made, but for what the umask takes.
const MODE: u32 = 0o666;

/// Opens a path (openat2(2), RESOLVE_NO_SYMLINKS).
///
/// # Errors
/// ELOOP: a part of the path is a symbolic link; ENOSYS: before Linux 5.6; and those of open(2).
pub fn open(path: &Path, flags: OFlags) -> Result<File, Errno> {
    // A mode without a file to make is an error of this call.
    let mode = match flags.contains(OFlags::CREATE) {
        true => Mode::from_raw_mode(MODE),
        false => Mode::empty(),
    };
    let flags = flags | OFlags::CLOEXEC;
    openat2(CWD, path, flags, mode, ResolveFlags::NO_SYMLINKS).map(File::from)
}

/// Whether an open folder has no entries.
///
/// # Errors
/// The errno of a read.
pub fn is_empty(folder: &File) -> Result<bool, Errno> {
    for entry in Dir::read_from(folder)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}
