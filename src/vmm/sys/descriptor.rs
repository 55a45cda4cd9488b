//! Open files that another process has handed over by their numbers, as `fd=N` names them.
//!
//! A number becomes a file once: a table owns each file from [`Descriptor::take_over`] until
//! [`Descriptor::take`]. The process must not have opened files of its own before, because nothing
//! tells an inherited number from one that the process has opened itself.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// The first number that is not a standard stream.
const FIRST: i32 = 3;

/// The files by the numbers that were handed over; `None` for a file that somebody has taken.
static FILES: Mutex<BTreeMap<i32, Option<OwnedFd>>> = Mutex::new(BTreeMap::new());

fn files() -> MutexGuard<'static, BTreeMap<i32, Option<OwnedFd>>> {
    FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The reason why a number gives no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DescriptorError {
    /// A standard stream.
    #[error("descriptor {0} is a standard stream of this program")]
    Standard(i32),
    /// No file is open under the number.
    #[error("descriptor {0} is not open")]
    Closed(i32),
    /// The number was handed over before.
    #[error("descriptor {0} is given twice")]
    Twice(i32),
    /// A look at the file needs one more descriptor.
    #[error("descriptor {0} cannot be looked at: this process may open no more files")]
    Limit(i32),
}

/// The number of a file that was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor(i32);

impl Descriptor {
    /// Makes the table the owner of an inherited file. Programs that this process executes from now
    /// on do not inherit the file.
    ///
    /// # Errors
    /// The number is that of a standard stream, was handed over before, or has no file.
    pub fn take_over(number: i32) -> Result<Self, DescriptorError> {
        if number < FIRST {
            return Err(DescriptorError::Standard(number));
        }
        let mut files = files();
        if files.contains_key(&number) {
            return Err(DescriptorError::Twice(number));
        }
        // SAFETY: the borrow ends with this function, which does not close the number. If the
        // number has no file, a call of it answers EBADF.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        fcntl_getfd(borrowed)
            .and_then(|flags| fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC))
            .map_err(|_| DescriptorError::Closed(number))?;
        // SAFETY: the file is open. It was inherited, so nothing in this process owns the number;
        // the table keeps a second call from it.
        let owned = unsafe { OwnedFd::from_raw_fd(number) };
        files.insert(number, Some(owned));
        Ok(Self(number))
    }

    /// Makes the table the owner of a file that came later, by a socket for example.
    pub fn adopt(file: OwnedFd) -> Self {
        let number = file.as_raw_fd();
        // An earlier file of this number was taken, and is closed by now.
        files().insert(number, Some(file));
        Self(number)
    }

    /// Closes the file, if nobody has taken it.
    pub fn close(self) {
        drop(files().remove(&self.0));
    }

    /// The number.
    pub fn number(self) -> i32 {
        self.0
    }

    /// Returns the file, once.
    ///
    /// # Errors
    /// The file was taken before.
    pub fn take(self) -> io::Result<File> {
        let file = files().get_mut(&self.0).and_then(Option::take);
        file.map(File::from).ok_or_else(|| self.used_up())
    }

    /// Returns the file for a look at it. The file stays open as long as the result.
    ///
    /// # Errors
    /// The file was taken before, or the host has no descriptors left.
    pub fn look(self) -> io::Result<File> {
        match files().get(&self.0) {
            Some(Some(file)) => Ok(file.try_clone()?.into()),
            _ => Err(self.used_up()),
        }
    }

    fn used_up(self) -> io::Error {
        io::Error::other(format!("descriptor {} is used up", self.0))
    }
}

/// The major and the minor number of a character device; `None` for any other file.
pub fn char_device(file: &File) -> Option<(u32, u32)> {
    let data = file.metadata().ok()?;
    let is_device = data.file_type().is_char_device();
    is_device.then(|| (libc::major(data.rdev()), libc::minor(data.rdev())))
}

/// Whether a file can be read and written (fcntl(2), F_GETFL).
pub fn is_writable(file: &File) -> bool {
    let flags = fcntl_getfl(file);
    flags.is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::RDWR && !flags.contains(OFlags::PATH))
}

/// What the kernel calls the file of a number: a path, or its kind if it has no path
/// (proc_pid_fd(5)). A terminal would take control characters for commands.
pub fn name_of(number: i32) -> String {
    let link = Path::new("/proc/self/fd").join(number.to_string());
    let name = fs::read_link(link).map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_else(|_| "a file without a name".into());
    name.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, IntoRawFd};

    use super::*;

    /// The number of a file that this process does not own any more, as after a start.
    fn inherited(path: &str) -> i32 {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let number = file.into_raw_fd();
        // SAFETY: the number is open.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        fcntl_setfd(borrowed, FdFlags::empty()).unwrap();
        number
    }

    #[test]
    fn a_number_becomes_a_file_once() {
        let number = inherited("/dev/null");
        let given = Descriptor::take_over(number).unwrap();
        assert_eq!(given.number(), number);
        assert_eq!(
            Descriptor::take_over(number),
            Err(DescriptorError::Twice(number))
        );
        assert_eq!(char_device(&given.look().unwrap()), Some((1, 3)));
        assert_eq!(name_of(number), "/dev/null");
        let file = given.take().unwrap();
        assert_eq!(file.as_raw_fd(), number);
        let flags = fcntl_getfd(&file).unwrap();
        assert!(flags.contains(FdFlags::CLOEXEC));
        let again = given.take().unwrap_err().to_string();
        assert_eq!(again, format!("descriptor {number} is used up"));
        assert!(given.look().is_err());
    }

    #[test]
    fn numbers_without_an_inherited_file() {
        for number in [i32::MIN, -1, 0, 1, 2] {
            let error = Descriptor::take_over(number);
            assert_eq!(error, Err(DescriptorError::Standard(number)));
        }
        // No limit of this process is so high.
        let error = Descriptor::take_over(i32::MAX);
        assert_eq!(error, Err(DescriptorError::Closed(i32::MAX)));
    }

    #[test]
    fn how_a_file_was_opened() {
        let open = |flags: libc::c_int, path: &str| {
            use std::os::unix::fs::OpenOptionsExt;
            let mut options = File::options();
            options.read(true).write(flags & libc::O_RDWR != 0);
            options.custom_flags(flags & libc::O_PATH);
            options.open(path).unwrap()
        };
        assert!(is_writable(&open(libc::O_RDWR, "/dev/null")));
        assert!(!is_writable(&open(0, "/dev/null")));
        assert!(!is_writable(&open(
            libc::O_RDWR | libc::O_PATH,
            "/dev/null"
        )));
        assert_eq!(char_device(&open(0, "/proc/version")), None);
    }
}
