//! The errors of loading a kernel, an initrd or a command line.
//!
//! Every variant is one sentence for the user; [`BootError::hint`] is the remedy.

use std::path::PathBuf;
use std::{fmt, io};

use crate::boot::acpi::AcpiError;
use crate::layout::LOW_RAM_LIMIT;

const MIB: u64 = 1 << 20;

/// The user's file that an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `--kernel`
    Kernel,
    /// `--initrd`
    Initrd,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Kernel => "kernel",
            Role::Initrd => "initrd",
        })
    }
}

/// The reason why a guest cannot be booted from the given files and command line.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// There is no file at the path.
    #[error("there is no {role} at {}", .path.display())]
    Missing {
        /// Kernel or initrd.
        role: Role,
        /// The path, as the user wrote it.
        path: PathBuf,
    },
    /// The file exists and cannot be read.
    #[error("cannot read the {role} {}", .path.display())]
    Unreadable {
        /// Kernel or initrd.
        role: Role,
        /// The path, as the user wrote it.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// The path is a directory.
    #[error("the {role} {} is a directory", .path.display())]
    Directory {
        /// Kernel or initrd.
        role: Role,
        /// The path, as the user wrote it.
        path: PathBuf,
    },
    /// The file is a pipe, a device or a socket, which a reboot cannot read a second time.
    #[error("the {role} {} is not a regular file", .path.display())]
    NotAFile {
        /// Kernel or initrd.
        role: Role,
        /// The path, as the user wrote it.
        path: PathBuf,
    },
    /// The file has got another size while it was read.
    #[error(
        "the {role} {} has changed from {from} to {to} bytes while it was read",
        .path.display()
    )]
    Changed {
        /// Kernel or initrd.
        role: Role,
        /// The path, as the user wrote it.
        path: PathBuf,
        /// The size before.
        from: u64,
        /// The size afterwards.
        to: u64,
    },
    /// The initrd has no bytes.
    #[error("the initrd {} is empty", .0.display())]
    EmptyInitrd(PathBuf),
    /// The file has the magic bytes of neither format.
    #[error("{} is not a kernel: neither a bzImage nor an ELF image", .0.display())]
    NotAKernel(PathBuf),
    /// The headers refer to bytes beyond the file's end.
    #[error(
        "the kernel {} is truncated: it has {size} bytes, and its headers describe {needed}",
        .path.display()
    )]
    Truncated {
        /// The path, as the user wrote it.
        path: PathBuf,
        /// Bytes in the file.
        size: u64,
        /// Bytes that the headers refer to.
        needed: u64,
    },
    /// The file has a kernel's magic bytes, but is for another machine or damaged.
    #[error("the kernel {} cannot be booted: {reason}", .path.display())]
    Unusable {
        /// The path, as the user wrote it.
        path: PathBuf,
        /// The end of the message.
        reason: String,
    },
    /// The kernel needs addresses where the guest has no RAM.
    #[error(
        "the kernel needs memory from {start:#x} to {end:#x}, and the guest's RAM there ends at \
         {ram} MiB",
        ram = .low_ram / MIB
    )]
    KernelDoesNotFit {
        /// Guest-physical.
        start: u64,
        /// Guest-physical, exclusive.
        end: u64,
        /// Bytes of RAM from address 0.
        low_ram: u64,
    },
    /// The initrd does not fit between the kernel and the last address that the kernel allows.
    #[error(
        "the initrd of {size} bytes does not fit between the kernel's end at {kernel_end:#x} and \
         {limit:#x}"
    )]
    InitrdDoesNotFit {
        /// Bytes of the initrd.
        size: u64,
        /// Guest-physical.
        kernel_end: u64,
        /// Guest-physical, exclusive: the end of low RAM, or of the addresses that the kernel can
        /// reach.
        limit: u64,
        /// Whether `limit` is the end of RAM, so that more memory would help.
        limit_is_ram: bool,
    },
    /// The command line is longer than the kernel or `layout::LOW_CMDLINE_SIZE` allows.
    #[error("the kernel command line has {length} bytes, and this kernel accepts at most {limit}")]
    CmdlineTooLong {
        /// Bytes, without the final NUL.
        length: u64,
        /// Bytes, without the final NUL.
        limit: u64,
    },
    /// A NUL would end the command line early.
    #[error("the kernel command line has a NUL byte at position {0}")]
    CmdlineNul(usize),
    /// Control characters or bytes beyond ASCII.
    #[error(
        "the kernel command line has {character:?} at position {position}, which is not printable \
         ASCII"
    )]
    CmdlineNotAscii {
        /// The first such character.
        character: char,
        /// In bytes.
        position: usize,
    },
    /// linux-loader refused or failed.
    #[error("cannot load the kernel {}", .path.display())]
    Load {
        /// The path, as the user wrote it.
        path: PathBuf,
        /// The reason that linux-loader gives.
        source: linux_loader::loader::Error,
    },
    /// linux-loader could not write the boot parameters.
    #[error("cannot write the boot parameters to guest memory")]
    Configure(#[source] linux_loader::configurator::Error),
    /// linux-loader could not take the command line.
    #[error("cannot write the kernel command line to guest memory")]
    Cmdline(#[source] linux_loader::cmdline::Error),
    /// linux-loader could not write the command line.
    #[error("cannot write the kernel command line to guest memory")]
    CmdlineCopy(#[source] linux_loader::loader::Error),
    /// A file's bytes, or a boot structure, did not reach guest memory.
    #[error("cannot write the {what} to guest memory")]
    Memory {
        /// The data that was being written.
        what: &'static str,
        /// The reason.
        source: vm_memory::GuestMemoryError,
    },
    /// ACPI tables did not reach guest memory.
    #[error(transparent)]
    Acpi(#[from] AcpiError),
}

impl BootError {
    /// The remedy, most often a command to type.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing {
                role: Role::Kernel, ..
            } => {
                Some("give the path of a kernel, such as --kernel /boot/vmlinuz-$(uname -r)".into())
            }
            Self::Missing {
                role: Role::Initrd, ..
            } => Some(
                "give the path of an initrd, such as --initrd /boot/initrd.img-$(uname -r)".into(),
            ),
            Self::Unreadable { path, source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Some(format!("sudo chmod a+r {}", path.display()))
            }
            Self::Directory { role, path } => Some(format!(
                "name a file in it: --{role} {}/...",
                path.display()
            )),
            Self::NotAFile { role, path } => Some(format!(
                "copy it to a file first: cat {} > {role}.img; then --{role} {role}.img",
                path.display()
            )),
            Self::EmptyInitrd(_) => Some("remove --initrd, or build the initrd again".into()),
            Self::NotAKernel(path) => Some(format!(
                "find the type of the file: file {}",
                path.display()
            )),
            Self::Truncated { path, .. } => Some(format!(
                "copy it again, and compare: sha256sum {}",
                path.display()
            )),
            Self::Unusable { path, .. } => Some(format!(
                "give an x86-64 Linux kernel; find the type of this file: file {}",
                path.display()
            )),
            Self::KernelDoesNotFit { end, .. } => more_memory(*end),
            Self::InitrdDoesNotFit {
                size,
                kernel_end,
                limit_is_ram: true,
                ..
            } => {
                // Twice the size, because the unpacked file system needs memory besides its
                // archive.
                more_memory(size.saturating_mul(2).saturating_add(*kernel_end))
            }
            Self::InitrdDoesNotFit { .. } => {
                Some("use a smaller initrd, and put the rest on a disk".into())
            }
            Self::CmdlineTooLong { length, limit } => Some(format!(
                "shorten --cmdline by {} bytes",
                length.saturating_sub(*limit)
            )),
            Self::CmdlineNul(_) | Self::CmdlineNotAscii { .. } => {
                Some("write --cmdline in printable ASCII, in single quotes".into())
            }
            _ => None,
        }
    }
}

/// The flag that gives the guest RAM up to `end`; `None` if low RAM cannot reach that far.
fn more_memory(end: u64) -> Option<String> {
    (end <= LOW_RAM_LIMIT).then(|| {
        let mib = end.div_ceil(MIB).next_multiple_of(64).max(128);
        format!("give the guest more with --memory {mib}M")
    })
}
