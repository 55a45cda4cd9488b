//! Reads directories and files that may be missing.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// Tells whether a path is below a device: its real path in sysfs begins with the device's path.
pub(super) struct Below(PathBuf);

impl Below {
    pub(super) fn new(device: &Path) -> io::Result<Self> {
        fs::canonicalize(device).map(Self)
    }

    pub(super) fn has(&self, path: &Path) -> bool {
        fs::canonicalize(path).is_ok_and(|real| real.starts_with(&self.0))
    }
}

/// The names in a directory, sorted; empty if the directory is missing.
pub(super) fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// A file's text; empty if the file is missing.
pub(super) fn text(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}
