//! The kernel that makes the changes: the running kernel, or a made-up kernel for a test.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::{fs, io};

use vmm::sys::process::Process;
use vmm::sys::worker::{Progress, Worker};

use crate::limited_command;

/// The changes that commands make on the host.
pub trait Kernel: Send + Sync {
    /// Prepares the write of an attribute of sysfs with a single write(2), which returns the
    /// kernel's error. A process of its own makes the write, because the kernel may hold the writer
    /// in a sleep that nobody can end.
    ///
    /// # Errors
    /// No process can be made.
    fn prepare(&self, path: &Path, text: &str) -> io::Result<Box<dyn Call>>;

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
    /// The last line that modprobe printed, or [`io::ErrorKind::TimedOut`].
    fn load(&self, module: &str, limit: Duration) -> io::Result<()>;

    /// Runs a program of the host with its arguments.
    ///
    /// # Errors
    /// The last line that the program printed, or [`io::ErrorKind::TimedOut`].
    fn run(&self, command: &[&str], limit: Duration) -> io::Result<()>;
}

/// A prepared call of the kernel.
pub trait Call {
    /// The process that makes the call, and nothing else.
    fn process(&self) -> Process;

    /// Lets the process make the call.
    ///
    /// # Errors
    /// The process has ended.
    fn start(&mut self) -> io::Result<()>;

    /// Waits for the end of the call. May be called again after [`CallEnd::Sleeps`].
    fn wait(&mut self, limit: Duration) -> CallEnd;
}

/// The state of a call.
#[derive(Debug)]
pub enum CallEnd {
    /// The call returned.
    Returned(io::Result<()>),
    /// A signal ended the process.
    Killed(i32),
    /// The limit is over, and the call goes on.
    Sleeps,
}

/// The running kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Running;

impl Kernel for Running {
    fn prepare(&self, path: &Path, text: &str) -> io::Result<Box<dyn Call>> {
        let worker = Worker::prepare(|| {
            let outcome = write(path, text);
            let errno = outcome.map_or_else(|e| e.raw_os_error().unwrap_or(libc::EIO), |()| 0);
            errno.to_le_bytes().to_vec()
        })?;
        Ok(Box::new(Written(worker)))
    }

    fn chown(&self, path: &Path, uid: u32, gid: Option<u32>) -> io::Result<()> {
        chown(path, Some(uid), gid)
    }

    fn owner(&self, path: &Path) -> io::Result<(u32, u32)> {
        let metadata = fs::metadata(path)?;
        Ok((metadata.uid(), metadata.gid()))
    }

    fn load(&self, module: &str, limit: Duration) -> io::Result<()> {
        self.run(&["modprobe", "--", module], limit)
    }

    fn run(&self, command: &[&str], limit: Duration) -> io::Result<()> {
        let [program, arguments @ ..] = command else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mut process = Command::new(program);
        process.args(arguments);
        let output = limited_command::output(process, limit).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => io::Error::other(format!("there is no program {program}")),
            _ => e,
        })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let failed = format!("{program} failed");
        let last = said.lines().last().unwrap_or(&failed);
        Err(io::Error::other(last.to_owned()))
    }
}

/// A write in a child process.
struct Written(Worker);

impl Call for Written {
    fn process(&self) -> Process {
        self.0.process()
    }

    fn start(&mut self) -> io::Result<()> {
        self.0.start()
    }

    fn wait(&mut self, limit: Duration) -> CallEnd {
        match self.0.wait(limit) {
            Progress::Busy => CallEnd::Sleeps,
            Progress::Killed(signal) => CallEnd::Killed(signal),
            Progress::Ended(answer) => {
                let errno = <[u8; 4]>::try_from(answer).map(i32::from_le_bytes);
                CallEnd::Returned(match errno {
                    Ok(0) => Ok(()),
                    Ok(errno) => Err(io::Error::from_raw_os_error(errno)),
                    Err(_) => Err(io::Error::other("the writing process gave no answer")),
                })
            }
        }
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
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
