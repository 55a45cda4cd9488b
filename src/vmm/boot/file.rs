//! The user's kernel and initrd as files.

use std::fs::{self, File};
use std::io::{self, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use pci::addr::Range;
use vm_memory::{Bytes, GuestAddress};

use crate::boot::error::{BootError, Role};
use crate::memory::ram::GuestMemory;

/// A regular file that the user named: the kernel or the initrd.
#[derive(Debug)]
pub(super) struct BootFile {
    role: Role,
    /// As the user gave it.
    pub path: PathBuf,
    pub file: File,
}

impl BootFile {
    /// Opens the file.
    ///
    /// # Errors
    /// The file is missing, not readable, or not a regular file.
    pub fn open(role: Role, path: &Path) -> Result<Self, BootError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => BootError::Missing {
                role,
                path: path.into(),
            },
            _ => BootError::Unreadable {
                role,
                path: path.into(),
                source,
            },
        };
        // The kind is checked before the file is opened: opening a pipe waits for its writer.
        let kind = fs::metadata(path).map_err(failed)?.file_type();
        if kind.is_dir() {
            return Err(BootError::Directory {
                role,
                path: path.into(),
            });
        }
        if !kind.is_file() {
            return Err(BootError::NotAFile {
                role,
                path: path.into(),
            });
        }
        Ok(Self {
            role,
            path: path.into(),
            file: File::open(path).map_err(failed)?,
        })
    }

    /// The current size of the file in bytes.
    pub fn size(&self) -> Result<u64, BootError> {
        Ok(self.file.metadata().map_err(|e| self.unreadable(e))?.len())
    }

    /// Whether the file has the bytes of `magic` at `offset`.
    pub fn has(&self, magic: [u8; 4], offset: u64) -> Result<bool, BootError> {
        let mut bytes = [0; 4];
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes == magic),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(self.unreadable(e)),
        }
    }

    /// Copies the file, an initrd of `to.size` bytes, to guest memory.
    ///
    /// # Errors
    /// The file cannot be read, or has another size by now: a part of an initrd is no initrd.
    pub fn copy(&self, memory: &GuestMemory, to: Range) -> Result<(), BootError> {
        (&self.file).rewind().map_err(|e| self.unreadable(e))?;
        memory
            .read_exact_volatile_from(GuestAddress(to.start), &mut &self.file, to.size as usize)
            .map_err(|source| BootError::Memory {
                what: "initrd",
                source,
            })?;
        match self.size()? {
            size if size == to.size => Ok(()),
            size => Err(BootError::Changed {
                role: self.role,
                path: self.path.clone(),
                from: to.size,
                to: size,
            }),
        }
    }

    /// Makes the error of a failed read of the file.
    pub fn unreadable(&self, source: io::Error) -> BootError {
        BootError::Unreadable {
            role: self.role,
            path: self.path.clone(),
            source,
        }
    }

    /// Makes the error of a kernel whose headers refer to `needed` bytes.
    pub fn truncated(&self, size: u64, needed: u64) -> BootError {
        BootError::Truncated {
            path: self.path.clone(),
            size,
            needed,
        }
    }
}
