//! Landlock (Documentation/userspace-api/landlock.rst): which files the process may open, whatever
//! its user may.
//!
//! Each right is asked for only if the running kernel knows it, by the number of Landlock's ABI.
//! What an older kernel does not know stays as it is without Landlock, and is told.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Rights on files and folders (linux/landlock.h, LANDLOCK_ACCESS_FS_*).
mod right {
    pub const WRITE_FILE: u64 = 1 << 1;
    pub const READ_FILE: u64 = 1 << 2;
    pub const READ_DIR: u64 = 1 << 3;
    pub const REMOVE_FILE: u64 = 1 << 5;
    pub const MAKE_SOCK: u64 = 1 << 9;
    /// The rights of ABI 1: EXECUTE to MAKE_SYM.
    pub const FIRST: u64 = (1 << 13) - 1;
    pub const REFER: u64 = 1 << 13;
    pub const TRUNCATE: u64 = 1 << 14;
    pub const IOCTL_DEV: u64 = 1 << 15;
}

/// What the process may do with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Read the file, or all files below the folder.
    Read,
    /// Open the device node, or all below the folder.
    Device,
    /// Make and remove a socket in the folder.
    Socket,
}

impl Use {
    fn rights(self) -> u64 {
        use right::{IOCTL_DEV, MAKE_SOCK, READ_DIR, READ_FILE, REMOVE_FILE, WRITE_FILE};
        match self {
            Self::Read => READ_FILE | READ_DIR,
            Self::Device => READ_FILE | WRITE_FILE | READ_DIR | IOCTL_DEV,
            Self::Socket => READ_DIR | MAKE_SOCK | REMOVE_FILE,
        }
    }
}

/// The rights that each ABI has added, with what lacks without them.
const ADDED: [(i32, u64, &str); 3] = [
    (2, right::REFER, "moving files between folders"),
    (3, right::TRUNCATE, "emptying files"),
    (5, right::IOCTL_DEV, "ioctls of device nodes"),
];

/// The number of Landlock's ABI; `None` if the kernel has no Landlock, or it is off.
pub fn abi() -> Option<i32> {
    /// LANDLOCK_CREATE_RULESET_VERSION (linux/landlock.h).
    const VERSION: u32 = 1;
    // SAFETY: the kernel reads nothing: the attribute is null.
    let abi = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0,
            VERSION,
        )
    };
    i32::try_from(abi).ok().filter(|abi| *abi >= 1)
}

/// What this kernel's Landlock cannot confine: all of it, or the rights that later kernels have.
pub fn missing(abi: Option<i32>) -> Vec<&'static str> {
    match abi {
        None => vec!["which files may be opened"],
        Some(abi) => {
            let later = ADDED.iter().filter(|(from, ..)| *from > abi);
            later.map(|(.., what)| *what).collect()
        }
    }
}

/// The rights that a kernel with this ABI knows.
fn known(abi: i32) -> u64 {
    let later = ADDED.iter().filter(|(from, ..)| *from <= abi);
    later.fold(right::FIRST, |rights, (_, right, _)| rights | right)
}

/// Confines this thread, and those that it starts, to these paths. A path that does not exist is
/// left out.
///
/// # Errors
/// The errno of a call of Landlock's.
pub fn confine(abi: i32, paths: &[(PathBuf, Use)]) -> io::Result<()> {
    let handled = known(abi);
    // SAFETY: the kernel reads eight bytes, which live for the call.
    let ruleset = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const handled,
            size_of::<u64>(),
            0,
        )
    };
    let ruleset = i32::try_from(ruleset).ok().filter(|fd| *fd >= 0);
    let ruleset = ruleset.ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the descriptor is new, and nobody else has it.
    let ruleset = unsafe { OwnedFd::from_raw_fd(ruleset) };
    for (path, how) in paths {
        add(&ruleset, path, how.rights() & handled)?;
    }
    // SAFETY: both calls pass numbers.
    let outcome = unsafe {
        match libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) {
            0 => libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0),
            failed => failed.into(),
        }
    };
    match outcome {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn add(ruleset: &OwnedFd, path: &Path, rights: u64) -> io::Result<()> {
    /// `struct landlock_path_beneath_attr`, which is packed.
    #[repr(C, packed)]
    struct PathBeneath {
        rights: u64,
        parent: i32,
    }
    /// LANDLOCK_RULE_PATH_BENEATH (linux/landlock.h).
    const PATH_BENEATH: i32 = 1;
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_PATH);
    let Ok(file) = options.open(path) else {
        return Ok(());
    };
    // A file takes no right of a folder (landlock_add_rule(2), EINVAL).
    let of_folders = !(right::READ_FILE | right::WRITE_FILE | right::TRUNCATE | right::IOCTL_DEV);
    let rights = match file.metadata()?.is_dir() {
        true => rights,
        false => rights & !of_folders,
    };
    let rule = PathBeneath {
        rights,
        parent: file.as_raw_fd(),
    };
    // SAFETY: the kernel reads the rule, which lives for the call.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            PATH_BENEATH,
            &raw const rule,
            0,
        )
    };
    match outcome {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // A file of no mounted file system, such as a memfd, needs no rule: opening it again is
            // never refused (security/landlock/fs.c, `is_nouser_or_private`).
            e if e.raw_os_error() == Some(libc::EBADFD) => Ok(()),
            e => Err(e),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_asked_for_where_they_are_known() {
        assert_eq!(known(1), 0x1fff);
        assert_eq!(known(2), 0x3fff);
        assert_eq!(known(3), 0x7fff);
        assert_eq!(known(4), 0x7fff);
        assert_eq!(known(5), 0xffff);
        assert_eq!(known(99), 0xffff);
        assert_eq!(missing(Some(7)), [""; 0]);
        assert_eq!(missing(Some(4)), ["ioctls of device nodes"]);
        assert_eq!(missing(Some(1)).len(), 3);
        assert_eq!(missing(None), ["which files may be opened"]);
    }
}
