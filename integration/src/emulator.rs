//! The process of an emulator. An emulator always ends with the lab: a guard kills the process when
//! the guard is dropped, and the kernel kills the process if the lab is killed.

use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdout, Command};

use crate::error::{Context, Result};

/// A running emulator, killed when dropped.
pub struct Emulator(Child);

impl Emulator {
    /// Starts the emulator, which inherits the descriptor `keep`, if any.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(mut command: Command, keep: Option<i32>) -> Result<Self> {
        // SAFETY: prctl and fcntl are async-signal-safe, and the descriptor is the child's own
        // copy. The kernel sends the signal when the thread that spawned the emulator ends; that
        // thread waits for the emulator.
        unsafe {
            command.pre_exec(move || {
                let kept = keep.is_none_or(|fd| libc::fcntl(fd, libc::F_SETFD, 0) == 0);
                if kept && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0 {
                    Ok(())
                } else {
                    Err(std::io::Error::last_os_error())
                }
            });
        }
        command.spawn().map(Self).context("start the emulator")
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// The emulator's standard output.
    ///
    /// # Panics
    /// Standard output is not a pipe, or was taken before.
    pub fn take_stdout(&mut self) -> ChildStdout {
        self.0.stdout.take().expect("stdout is a pipe")
    }

    /// The emulator's standard error.
    ///
    /// # Panics
    /// Standard error is not a pipe, or was taken before.
    pub fn take_stderr(&mut self) -> ChildStderr {
        self.0.stderr.take().expect("stderr is a pipe")
    }

    /// Waits for the end of the process, and returns its exit status; `None` if a signal ended it.
    ///
    /// # Errors
    /// The process cannot be waited for.
    pub fn wait(&mut self) -> Result<Option<i32>> {
        let status = self.0.wait().context("wait for the emulator")?;
        Ok(status.code())
    }

    /// Whether the process has ended.
    pub fn has_ended(&mut self) -> bool {
        // An error means that there is no such child any more.
        self.0.try_wait().map_or(true, |status| status.is_some())
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // Both calls fail only if the emulator has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
