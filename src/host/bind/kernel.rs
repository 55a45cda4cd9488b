//! The kernel that makes the changes: the running kernel, or a made-up kernel for a test.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::{fs, io};

/// The changes that commands make on the host.
pub trait Kernel: Send + Sync {
    /// Writes an attribute of sysfs with a single write(2), which returns the kernel's error.
    ///
    /// # Errors
    /// The errno.
    fn write(&self, path: &Path, text: &str) -> io::Result<()>;

    /// Changes the owner of a node and, if given, its group.
    ///
    /// # Errors
    /// The errno.
    fn chown(&self, path: &Path, uid: u32, gid: Option<u32>) -> io::Result<()>;

    /// The user and the group that own a node.
    ///
    /// # Errors
    /// The errno.
    fn owner(&self, path: &Path) -> io::Result<(u32, u32)>;

    /// Loads a module and the modules that it needs.
    ///
    /// # Errors
    /// The last line that modprobe printed.
    fn load(&self, module: &str) -> io::Result<()>;
}

/// The running kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Running;

impl Kernel for Running {
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        use std::io::Write;
        let count = fs::OpenOptions::new()
            .write(true)
            .open(path)?
            .write(text.as_bytes())?;
        if count == text.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    fn chown(&self, path: &Path, uid: u32, gid: Option<u32>) -> io::Result<()> {
        chown(path, Some(uid), gid)
    }

    fn owner(&self, path: &Path) -> io::Result<(u32, u32)> {
        let metadata = fs::metadata(path)?;
        Ok((metadata.uid(), metadata.gid()))
    }

    fn load(&self, module: &str) -> io::Result<()> {
        let mut modprobe = Command::new("modprobe");
        modprobe.arg("--").arg(module).stdin(Stdio::null());
        let output = modprobe.output().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => io::Error::other("there is no program modprobe"),
            _ => e,
        })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or("modprobe failed");
        Err(io::Error::other(last.to_owned()))
    }
}
