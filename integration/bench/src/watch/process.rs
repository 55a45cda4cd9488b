//! Starts a program, reads its console, and measures the time since its start. This code measures
//! every VMM, on this machine and in the lab, so that figures can be compared.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Result};
use crate::watch::memory::{Private, private};

/// The time limit for a program's end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(20);

/// A program's standard input, on which the bench sends nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// /dev/null.
    None,
    /// A terminal, for programs that accept no other input.
    Terminal,
}

/// A running program, killed when dropped.
#[derive(Debug)]
pub struct Watched {
    child: Child,
    console: ChildStdout,
    started: Instant,
    /// The time of `started` by CLOCK_MONOTONIC. mini-vmm's statistics use the same clock.
    started_monotonic: Duration,
    /// The master side of the terminal, if the standard input is a terminal.
    _terminal: Option<OwnedFd>,
    /// The console's output that was read but not searched yet.
    unread: Vec<u8>,
}

impl Watched {
    /// Starts a program with its messages in `stderr`. The clock starts before the fork.
    pub fn start(command: &mut Command, input: Input, stderr: Stdio) -> Result<Self> {
        let (terminal, stdin) = match input {
            Input::None => (None, Stdio::null()),
            Input::Terminal => {
                let (ours, theirs) = terminal()?;
                (Some(ours), Stdio::from(theirs))
            }
        };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(stderr);
        let (started, started_monotonic) = (Instant::now(), monotonic()?);
        let mut child = command
            .spawn()
            .context(format!("start {}", command.get_program().to_string_lossy()))?;
        let console = child.stdout.take().expect("stdout is a pipe");
        Ok(Self {
            child,
            console,
            started,
            started_monotonic,
            _terminal: terminal,
            unread: Vec::new(),
        })
    }

    /// The process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The time of the program's start by CLOCK_MONOTONIC.
    pub fn started_monotonic(&self) -> Duration {
        self.started_monotonic
    }

    /// Reads the console until `text` appears, and returns the time since the program's start.
    ///
    /// # Errors
    /// The console ended before, or the limit, counted from now, is over.
    pub fn until(&mut self, text: &[u8], limit: Duration) -> Result<Duration> {
        let deadline = Instant::now() + limit;
        let mut at = self.started.elapsed();
        loop {
            if let Some(found) = find(&self.unread, text) {
                self.unread.drain(..found + text.len());
                return Ok(at);
            }
            let more = self.more(deadline)?;
            at = self.started.elapsed();
            if !more {
                return Err(Error::new(format!(
                    "the console ended before it said {:?}",
                    String::from_utf8_lossy(text)
                )));
            }
        }
    }

    /// Returns the console's next whole line and the time since the start; `None` at the end.
    pub fn line(&mut self, limit: Duration) -> Result<Option<(String, Duration)>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let at = self.started.elapsed();
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                return Ok(Some((line, at)));
            }
            if !self.more(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Waits for more output of the console. Returns whether there is more.
    fn more(&mut self, deadline: Instant) -> Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut poll = libc::pollfd {
            fd: self.console.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let timeout = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one structure, which is ours.
        match unsafe { libc::poll(&raw mut poll, 1, timeout) } {
            0 => return Err(Error::new("the guest took too long")),
            n if n < 0 => {
                let error = std::io::Error::last_os_error();
                if error.kind() != ErrorKind::Interrupted {
                    return Err(error).context("wait for the console");
                }
                return Ok(true);
            }
            _ => {}
        }
        let mut bytes = [0; 4096];
        let count = self.console.read(&mut bytes).context("read the console")?;
        self.unread.extend_from_slice(&bytes[..count]);
        Ok(count > 0)
    }

    /// The process's private memory.
    pub fn memory(&self) -> Result<Private> {
        let path = format!("/proc/{}/smaps", self.pid());
        let smaps = fs::read_to_string(&path).context(format!("read {path}"))?;
        Ok(private(&smaps))
    }

    /// Ends the program with SIGTERM, and waits for it.
    pub fn end(mut self) -> Result<()> {
        let pid = i32::try_from(self.pid()).context("name the process")?;
        // SAFETY: a signal to our own child, which has not been waited for.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            if self.child.try_wait().context("wait for a VMM")?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(Error::new("the program did not end when asked to"))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Both calls fail only if the program has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Opens a new terminal: the master for the bench, the other side for the program.
fn terminal() -> Result<(OwnedFd, OwnedFd)> {
    let (mut ours, mut theirs) = (-1, -1);
    let none = std::ptr::null_mut();
    // SAFETY: two ints of ours are filled; a name, settings and a size are not asked for.
    let ret = unsafe {
        libc::openpty(
            &raw mut ours,
            &raw mut theirs,
            none,
            none.cast(),
            none.cast(),
        )
    };
    if ret < 0 {
        return Err(std::io::Error::last_os_error()).context("make a terminal");
    }
    // SAFETY: two new descriptors, which nothing else owns.
    Ok(unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) })
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

/// The last lines of a file of messages, which explain why a program failed.
pub fn last_words(path: &Path) -> String {
    let mut text = String::new();
    if let Ok(mut file) = File::open(path) {
        let _ = file.read_to_string(&mut text);
    }
    let lines: Vec<&str> = text.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("; ")
}

fn monotonic() -> Result<Duration> {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: one structure, which is ours.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) } < 0 {
        return Err(std::io::Error::last_os_error()).context("read the clock");
    }
    let seconds = u64::try_from(now.tv_sec).context("read the clock")?;
    let nanos = u32::try_from(now.tv_nsec).context("read the clock")?;
    Ok(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_in_order_and_what_follows_is_kept() {
        let mut command = Command::new("sh");
        command.args(["-c", "printf 'one!two!L2: init\\nrest\\n'"]);
        let mut watched = Watched::start(&mut command, Input::None, Stdio::null()).unwrap();
        let limit = Duration::from_secs(10);
        let first = watched.until(b"!", limit).unwrap();
        let second = watched.until(b"!", limit).unwrap();
        assert!(second >= first);
        let line = watched.line(limit).unwrap().unwrap().0;
        assert_eq!(line, "L2: init");
        assert!(watched.until(b"!", limit).is_err());
    }

    #[test]
    fn a_program_may_need_a_terminal() {
        for (input, answer) in [(Input::None, "no"), (Input::Terminal, "yes")] {
            let mut command = Command::new("sh");
            command.args(["-c", "if [ -t 0 ]; then echo yes; else echo no; fi"]);
            let mut watched = Watched::start(&mut command, input, Stdio::null()).unwrap();
            let line = watched.line(Duration::from_secs(10)).unwrap().unwrap().0;
            assert_eq!(line, answer);
        }
    }
}
