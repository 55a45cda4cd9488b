//! The cpio archives that L1 and L2 boot from, uncompressed and in the kernel's format "newc"
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Context, Result};
use crate::host::{self, Host};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const SYMLINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An unfinished archive. A file's directories are added with the file.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    made: BTreeSet<PathBuf>,
    entries: u32,
}

impl Archive {
    /// An archive with the static busybox, `/bin/sh`, `/dev/console`, and the script `init` as
    /// `/init`.
    pub fn with_busybox(host: &Host, init: &str) -> Result<Self> {
        let mut archive = Self::default();
        for dir in ["bin", "sbin", "dev", "proc", "sys", "run", "tmp", "etc"] {
            archive.directory(Path::new(dir));
        }
        archive.host_file("bin/busybox", &host.busybox, true)?;
        archive.link("bin/sh", "busybox");
        archive.entry("dev/console", CHARACTER_DEVICE, b"", (5, 1));
        archive.program("init", init.as_bytes());
        Ok(archive)
    }

    /// An archive with `/dev/console` and a static program as `/init`.
    pub fn with_program(init: &Path) -> Result<Self> {
        let mut archive = Self::default();
        for dir in ["dev", "proc", "sys"] {
            archive.directory(Path::new(dir));
        }
        archive.entry("dev/console", CHARACTER_DEVICE, b"", (5, 1));
        archive.host_file("init", init, true)?;
        Ok(archive)
    }

    /// Adds a file that is not executable.
    pub fn file(&mut self, name: &str, data: &[u8]) {
        self.entry(name, FILE, data, (0, 0));
    }

    /// Adds an executable file.
    pub fn program(&mut self, name: &str, data: &[u8]) {
        self.entry(name, PROGRAM, data, (0, 0));
    }

    /// Adds a copy of a file of L0.
    pub fn host_file(&mut self, name: &str, from: &Path, executable: bool) -> Result<()> {
        let data = fs::read(from).context(format!("read {}", from.display()))?;
        self.entry(name, if executable { PROGRAM } else { FILE }, &data, (0, 0));
        Ok(())
    }

    /// Adds a dynamically linked program of L0 as `/bin/NAME`, with the libraries that ldd names.
    pub fn host_program(&mut self, program: &Path) -> Result<()> {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        self.host_program_as(&format!("bin/{name}"), program)
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, name: &str, target: &str) {
        self.entry(name, SYMLINK, target.as_bytes(), (0, 0));
    }

    /// Adds a dynamically linked program of L0 under a name, with the libraries that ldd names.
    pub fn host_program_as(&mut self, name: &str, program: &Path) -> Result<()> {
        self.host_file(name, program, true)?;
        let listing = host::output(Command::new("ldd").arg(program))?;
        let libraries = listing
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
            .map(Path::new);
        for file in libraries {
            if let Ok(name) = file.strip_prefix("/")
                && !self.made.contains(name)
            {
                self.host_file(&name.to_string_lossy(), file, true)?;
            }
        }
        Ok(())
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.raw("TRAILER!!!", 0, b"", (0, 0));
        self.bytes
    }

    fn directory(&mut self, path: &Path) {
        if path.as_os_str().is_empty() || !self.made.insert(path.to_path_buf()) {
            return;
        }
        if let Some(parent) = path.parent() {
            self.directory(parent);
        }
        self.raw(&path.to_string_lossy(), DIRECTORY, b"", (0, 0));
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8], device: (u32, u32)) {
        let path = Path::new(name);
        if let Some(parent) = path.parent() {
            self.directory(parent);
        }
        self.made.insert(path.to_path_buf());
        self.raw(name, mode, data, device);
    }

    fn raw(&mut self, name: &str, mode: u32, data: &[u8], device: (u32, u32)) {
        self.entries += 1;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        let size = u32::try_from(data.len()).expect("a file of the lab is under 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("a path is short");
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor,
        // namesize, check
        let fields = [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            device.0,
            device.1,
            name_size,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        let whole = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(whole, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_the_layout_of_newc() {
        let mut archive = Archive::default();
        archive.file("a/b", b"hello");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("07070100000001000041ed"));
        // 110 bytes of header and "a\0", padded to 4: the next header follows at 112.
        assert_eq!(&bytes[112..118], b"070701");
        // Header and "a/b\0" end at 112 + 114 = 226, padded to 228.
        assert_eq!(&bytes[228..236], b"hello\0\0\0");
        assert!(text.contains("TRAILER!!!"));
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn a_directory_is_made_once() {
        let mut archive = Archive::default();
        archive.file("d/x", b"");
        archive.file("d/y", b"");
        let text = String::from_utf8_lossy(&archive.finish()).into_owned();
        assert_eq!(text.matches("000041ed").count(), 1);
    }
}
