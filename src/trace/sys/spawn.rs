//! Starts the command, stopped until it is traced.

use std::ffi::{CString, OsString};
use std::io::{self, PipeReader, PipeWriter, Read, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::ptr;

use libc::pid_t;

/// A new process that waits to execute its command.
#[derive(Debug)]
pub struct Waiting {
    /// The process.
    pub pid: pid_t,
    /// Closed to let the process go on.
    begin: PipeWriter,
    errno: PipeReader,
}

/// A process whose command is executed.
#[derive(Debug)]
pub struct Started(PipeReader);

impl Waiting {
    /// Forks. The child waits before it executes `command`.
    ///
    /// # Errors
    /// The errno of pipe(2) or fork(2), or EINVAL if an argument has a NUL byte.
    pub fn new(command: Vec<OsString>) -> io::Result<Self> {
        let words: Result<Vec<CString>, _> = command
            .into_iter()
            .map(|word| CString::new(word.into_vec()))
            .collect();
        let words = words.map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let mut argv: Vec<_> = words.iter().map(|word| word.as_ptr()).collect();
        argv.push(ptr::null());
        let (wait, begin) = pipe()?;
        let (errno, tell) = pipe()?;
        // SAFETY: this process has one thread, so the child may do what it likes; it makes only
        // plain system calls.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => execute(&argv, wait.as_raw_fd(), begin.as_raw_fd(), tell.as_raw_fd()),
            pid => Ok(Self { pid, begin, errno }),
        }
    }

    /// Lets the process execute its command.
    pub fn go(self) -> Started {
        drop(self.begin);
        Started(self.errno)
    }
}

impl Started {
    /// Why the command could not be executed. To be asked when the process has ended.
    pub fn failure(&mut self) -> Option<io::Error> {
        let mut errno = [0; 4];
        self.0.read_exact(&mut errno).ok()?;
        Some(io::Error::from_raw_os_error(i32::from_ne_bytes(errno)))
    }
}

/// The child's part.
fn execute(argv: &[*const libc::c_char], wait: i32, begin: i32, tell: i32) -> ! {
    let mut byte = 0u8;
    // SAFETY: plain system calls with valid pointers: `argv` ends with a null pointer, and its
    // strings live in the parent's copy. Rust ignores SIGPIPE; a program expects the default.
    unsafe {
        libc::close(begin);
        while libc::read(wait, (&raw mut byte).cast(), 1) == -1 {}
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::execvp(argv[0], argv.as_ptr());
    }
    let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
    // SAFETY: the integer is valid for its size.
    unsafe {
        libc::write(tell, (&raw const errno).cast(), 4);
        libc::_exit(127)
    }
}
