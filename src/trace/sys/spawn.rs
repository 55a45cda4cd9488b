//! Starts the command, stopped until it is traced.

use std::ffi::{CString, OsString};
use std::io::{self, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::ptr;

use libc::pid_t;

use crate::sys::seccomp::Filter;
use crate::sys::signals::KeptBack;

/// A new process that waits to execute its command. Unless [`Waiting::go`] is called, the process
/// ends with this value and never executes the command.
#[derive(Debug)]
pub struct Waiting {
    /// The process.
    pub pid: pid_t,
    /// One byte lets the process go on; the end of the file ends the process.
    begin: PipeWriter,
    /// `None` once the process goes on.
    told: Option<PipeReader>,
}

/// A process whose command is executed.
#[derive(Debug, Default)]
pub struct Started {
    /// What the process tells: 1 if it has the filter, else 0; and the errno of a failed execve(2).
    told: Option<PipeReader>,
    has_filter: Option<bool>,
}

impl Waiting {
    /// Forks. The child waits before it installs the filter, if there is one, and executes
    /// `command`. The child gets the signals that were kept back.
    ///
    /// # Errors
    /// The errno of pipe(2) or fork(2), or EINVAL if an argument has a NUL byte.
    pub fn new(
        command: Vec<OsString>,
        filter: Option<&Filter>,
        signals: &KeptBack,
    ) -> io::Result<Self> {
        let words: Result<Vec<CString>, _> = command
            .into_iter()
            .map(|word| CString::new(word.into_vec()))
            .collect();
        let words = words.map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let mut argv: Vec<_> = words.iter().map(|word| word.as_ptr()).collect();
        argv.push(ptr::null());
        let (wait, begin) = pipe()?;
        let (told, tell) = pipe()?;
        // SAFETY: this process has one thread, so the child may do what it likes; it makes only
        // plain system calls.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                let fds = [&begin as &dyn AsRawFd, &wait, &tell].map(AsRawFd::as_raw_fd);
                execute(&argv, filter, signals, fds)
            }
            pid => Ok(Self {
                pid,
                begin,
                told: Some(told),
            }),
        }
    }

    /// Lets the process execute its command.
    pub fn go(mut self) -> Started {
        // The process may have been killed meanwhile; then wait(2) tells.
        let _ = self.begin.write_all(&[1]);
        Started {
            told: self.told.take(),
            has_filter: None,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.told.is_some() {
            // SAFETY: kill(2) takes two numbers, and the number is this process's own child, which
            // nobody has waited for.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            end(self.pid);
        }
    }
}

/// Waits for the end of a child. Returns its status as wait(2) has it.
fn end(pid: pid_t) -> Option<i32> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is an int that the call fills.
        let waited = unsafe { libc::waitpid(pid, &mut status, libc::__WALL) };
        if waited == pid && !libc::WIFSTOPPED(status) {
            return Some(status);
        }
        if waited == -1 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return None;
        }
    }
}

impl Started {
    /// Whether the process has the filter. To be asked when the process has executed its command,
    /// or has ended.
    pub fn has_filter(&mut self) -> bool {
        if let Some(known) = self.has_filter {
            return known;
        }
        let has = self.number() == Some(1);
        self.has_filter = Some(has);
        has
    }

    /// Why the command could not be executed. To be asked when the process has ended.
    pub fn failure(&mut self) -> Option<io::Error> {
        self.has_filter();
        self.number().map(io::Error::from_raw_os_error)
    }

    fn number(&mut self) -> Option<i32> {
        let mut number = [0; 4];
        self.told.as_mut()?.read_exact(&mut number).ok()?;
        Some(i32::from_ne_bytes(number))
    }
}

/// The child's part.
fn execute(
    argv: &[*const libc::c_char],
    filter: Option<&Filter>,
    signals: &KeptBack,
    [begin, wait, tell]: [RawFd; 3],
) -> ! {
    let mut byte = 0u8;
    // SAFETY: plain system calls with valid pointers: `argv` ends with a null pointer, and its
    // strings live in the parent's copy. Rust ignores SIGPIPE; a program expects the default.
    unsafe {
        libc::close(begin);
        let mut read = -1;
        while read == -1 {
            read = libc::read(wait, (&raw mut byte).cast(), 1);
            if read == -1 && *libc::__errno_location() != libc::EINTR {
                break;
            }
        }
        // The tracer has ended, or cannot trace: an untraced command is not what the user wants.
        if read != 1 {
            libc::_exit(125);
        }
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
    signals.let_come();
    let has_filter = filter.is_some_and(Filter::install);
    say(tell, has_filter.into());
    // SAFETY: as above.
    unsafe { libc::execvp(argv[0], argv.as_ptr()) };
    let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
    say(tell, errno);
    let status = if errno == libc::ENOENT { 127 } else { 126 };
    // SAFETY: _exit(2) takes a number.
    unsafe { libc::_exit(status) }
}

fn say(tell: RawFd, number: i32) {
    // SAFETY: the integer is valid for its size.
    unsafe { libc::write(tell, (&raw const number).cast(), size_of::<i32>()) };
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::mem;
    use std::path::PathBuf;

    use super::*;

    /// A process that would make the returned file.
    fn touching(name: &str) -> (Waiting, PathBuf) {
        let name = format!("mini-vmm-trace-{name}-{}", std::process::id());
        let file = std::env::temp_dir().join(name);
        let command = vec!["touch".into(), file.clone().into()];
        let signals = KeptBack::new();
        let waiting = Waiting::new(command, None, &signals).unwrap();
        signals.let_come();
        (waiting, file)
    }

    #[test]
    fn only_go_runs_the_command() {
        let (waiting, file) = touching("go");
        let pid = waiting.pid;
        let mut started = waiting.go();
        assert_eq!(end(pid), Some(0));
        assert!(started.failure().is_none());
        fs::remove_file(&file).unwrap();

        // Dropped: killed, and waited for.
        let (waiting, file) = touching("drop");
        let pid = waiting.pid;
        drop(waiting);
        assert_eq!(end(pid), None);
        assert!(!file.exists());

        // The tracer was killed: all that the process sees is the end of the pipe.
        let (mut waiting, file) = touching("killed");
        let (_reader, other) = pipe().unwrap();
        drop(mem::replace(&mut waiting.begin, other));
        let status = end(waiting.pid).unwrap();
        waiting.told = None;
        assert!(libc::WIFEXITED(status));
        assert_eq!(libc::WEXITSTATUS(status), 125);
        assert!(!file.exists());
    }
}
