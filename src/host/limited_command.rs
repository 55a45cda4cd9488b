//! Runs another program with a time limit.

use std::io;
use std::os::fd::AsFd;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use vmm::sys::ready;

/// The most bytes of each output that are kept.
const MOST: usize = 1 << 20;

/// What a program printed, and how it ended.
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// Runs a program to its end.
///
/// # Errors
/// The program cannot be started, or [`io::ErrorKind::TimedOut`]. The program is then told to end,
/// but may stay: it may sleep in the kernel.
pub(crate) fn output(mut command: Command, limit: Duration) -> io::Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let end = Instant::now() + limit;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let (out, err) = (child.stdout.take(), child.stderr.take());
    loop {
        let status = child.try_wait()?;
        // After the end of the program, its last bytes are still in the pipes.
        if let Some(out) = &out {
            drain(out.as_fd(), &mut stdout);
        }
        if let Some(err) = &err {
            drain(err.as_fd(), &mut stderr);
        }
        if let Some(status) = status {
            return Ok(Output {
                status,
                stdout,
                stderr,
            });
        }
        if Instant::now() >= end {
            child.kill()?;
            let text = format!(
                "{name} (process {}) has not ended within {} seconds",
                child.id(),
                limit.as_secs()
            );
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Reads what is in a pipe now.
fn drain(pipe: std::os::fd::BorrowedFd<'_>, into: &mut Vec<u8>) {
    while ready(pipe, PollFlags::IN, Some(Duration::ZERO)) {
        let mut bytes = [0; 4096];
        match rustix::io::read(pipe, &mut bytes) {
            Ok(0) => return,
            Ok(count) if into.len() < MOST => into.extend_from_slice(&bytes[..count]),
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
