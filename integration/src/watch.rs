//! A running VMM: its console, the time since its start, and its memory. All VMMs are watched in
//! the same way, on L0 and in L1, so that their figures can be compared.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Result};

/// How long a program may take to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(20);

/// A program's standard input, which stays empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// /dev/null.
    None,
    /// A terminal, for programs that require one.
    Terminal,
}

/// A running program, killed when dropped.
#[derive(Debug)]
pub struct Watched {
    child: Child,
    console: ChildStdout,
    started: Instant,
    /// The time of the start by CLOCK_MONOTONIC, by which the program itself can measure.
    started_monotonic: Duration,
    /// The other end of the program's terminal, if it has one.
    _terminal: Option<OwnedFd>,
    /// Console output in which nothing has been searched yet.
    unread: Vec<u8>,
}

impl Watched {
    /// Starts a program, whose messages go to `stderr`. The clock starts before the fork.
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

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// When the clock started, by CLOCK_MONOTONIC.
    pub fn started_monotonic(&self) -> Duration {
        self.started_monotonic
    }

    /// Reads until `text` is on the console, and returns the time from the start until then.
    ///
    /// # Errors
    /// The console ends without the text, or the limit, counted from now, is over.
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
                return Err(Error::failed(format!(
                    "the console ended before it said {:?}",
                    String::from_utf8_lossy(text)
                )));
            }
        }
    }

    /// Returns the next whole line of the console and the time from the start until then, or
    /// nothing at the end of the console.
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

    /// Reads more of the console, and tells whether there was more before its end.
    fn more(&mut self, deadline: Instant) -> Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut poll = libc::pollfd {
            fd: self.console.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let timeout = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the kernel reads and writes one structure, which lives for the call.
        match unsafe { libc::poll(&raw mut poll, 1, timeout) } {
            0 => return Err(Error::failed("the guest took too long")),
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

    /// The memory that belongs to the process alone, without the guest's RAM.
    pub fn memory(&self) -> Result<Private> {
        let path = format!("/proc/{}/smaps", self.pid());
        let smaps = fs::read_to_string(&path).context(format!("read {path}"))?;
        Ok(private(&smaps))
    }

    /// Ends the program with SIGTERM and waits for the end.
    pub fn end(mut self) -> Result<()> {
        let pid = i32::try_from(self.pid()).context("name the process")?;
        // SAFETY: the signal goes to a child that has not been waited for, so the PID is the
        // child's.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            if self.child.try_wait().context("wait for a VMM")?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(Error::failed("the program did not end when asked to"))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Both calls fail only if the program has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Creates a terminal, and returns the lab's end and the program's.
fn terminal() -> Result<(OwnedFd, OwnedFd)> {
    let (mut ours, mut theirs) = (-1, -1);
    let none = std::ptr::null_mut();
    // SAFETY: openpty writes two ints, which live for the call; the other pointers may be null.
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
    // SAFETY: openpty has just opened both descriptors, and nothing else owns them.
    Ok(unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) })
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

/// Pages in KiB that belong to one process alone, without the guest's RAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Private {
    /// Pages that the process has written; they are freed at its end.
    pub dirty: u64,
    /// Pages with the content of a file.
    pub clean: u64,
}

/// The least size in KiB of a mapping of guest RAM: guests here have at least 128 MiB.
const RAM: u64 = 96 << 10;

/// The size in KiB of the first part of guest RAM in mini-vmm, which has small pages: a mapping of
/// its own, directly below the rest.
const FIRST: u64 = 2 << 10;

/// Sums up /proc/PID/smaps (Documentation/filesystems/proc.rst).
pub fn private(smaps: &str) -> Private {
    let mappings: Vec<(u64, u64)> = smaps.lines().filter_map(addresses).collect();
    let kib = |&(start, end): &(u64, u64)| end.saturating_sub(start) >> 10;
    let is_ram = |mapping: &(u64, u64)| {
        kib(mapping) >= RAM
            || kib(mapping) == FIRST
                && mappings
                    .iter()
                    .any(|next| next.0 == mapping.1 && kib(next) >= RAM)
    };
    let mut sum = Private::default();
    let mut of_guest = false;
    for line in smaps.lines() {
        if let Some(mapping) = addresses(line) {
            of_guest = is_ram(&mapping);
            continue;
        }
        let mut words = line.split_whitespace();
        let (Some(key), Some(value)) = (words.next(), words.next()) else {
            continue;
        };
        let Ok(value) = value.parse::<u64>() else {
            continue;
        };
        match key {
            "Private_Dirty:" if !of_guest => sum.dirty += value,
            "Private_Clean:" if !of_guest => sum.clean += value,
            _ => {}
        }
    }
    sum
}

/// The addresses in the first line of a mapping, or nothing for other lines.
fn addresses(line: &str) -> Option<(u64, u64)> {
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(start)?, number(end)?))
}

/// The last lines of a file with a program's messages, which tell why the program failed.
pub fn last_words(path: &std::path::Path) -> String {
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
    // SAFETY: the kernel writes one structure, which lives for the call.
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

    #[test]
    fn the_guests_ram_does_not_count() {
        // A program, 2 MiB of its own, RAM in two mappings, a stack.
        let smaps = "55d000-55e000 r-xp 00000000 08:01 1 /bin/vmm\nPrivate_Clean: 40 kB\n\
                     Private_Dirty: 2 kB\n60000000-60200000 rw-p 00000000 00:00 0\n\
                     Private_Dirty: 100 kB\n70000000-70200000 rw-p 00000000 00:00 0\n\
                     Private_Dirty: 2048 kB\n70200000-78000000 rw-p 00000000 00:00 0\n\
                     Private_Clean: 0 kB\nPrivate_Dirty: 77 kB\n\
                     7fff0000-7fff8000 rw-p 0 00:00 0 [stack]\n\
                     Private_Clean: 0 kB\nPrivate_Dirty: 8 kB\nVmFlags: rd wr\n";
        assert_eq!(
            private(smaps),
            Private {
                dirty: 110,
                clean: 40
            }
        );
    }
}
