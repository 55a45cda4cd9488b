//! A child process for work that may sleep in the kernel.
//!
//! A process in an uninterruptible sleep cannot be ended, not even by SIGKILL, and its parent waits
//! as long. The work is therefore done by a child in a session of its own, and this process waits
//! for the child's answer with a limit. If the limit is over, this process goes on or ends, and the
//! child stays until the kernel lets it go.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use crate::sys::process::{self, Process};

/// The time for which a child may still exist after it has closed its files.
const EXIT_LIMIT: Duration = Duration::from_secs(1);

/// A child that waits for [`Worker::start`] before it does its work.
#[derive(Debug)]
pub struct Worker {
    process: Process,
    stream: UnixStream,
    answer: Vec<u8>,
}

/// The state of a worker.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// The work ended with this answer.
    Ended(Vec<u8>),
    /// A signal ended the child. A child handles no signal but SIGKILL, so any other signal comes
    /// from a failure in the kernel (an oops).
    Killed(i32),
    /// The limit is over, and the child still works.
    Busy,
}

impl Worker {
    /// Makes the child. This process must have one thread only, because the child runs Rust code
    /// after the fork. If this process ends before [`Worker::start`], the child does nothing.
    ///
    /// # Errors
    /// There are other threads, or no process can be made.
    pub fn prepare(work: impl FnOnce() -> Vec<u8>) -> io::Result<Self> {
        let (stream, theirs) = UnixStream::pair()?;
        let theirs = OwnedFd::from(theirs);
        let pid = process::detach(c"vmm-call", &[&theirs], || {
            let Ok(theirs) = theirs.try_clone() else {
                return;
            };
            let mut theirs = UnixStream::from(theirs);
            if theirs.read_exact(&mut [0]).is_err() {
                return;
            }
            // After the limit nobody reads the answer.
            let _ = theirs.write_all(&work());
        })?;
        Ok(Self {
            process: Process::child(pid),
            stream,
            answer: Vec::new(),
        })
    }

    /// The child.
    pub fn process(&self) -> Process {
        self.process
    }

    /// Lets the child begin.
    ///
    /// # Errors
    /// The child has ended.
    pub fn start(&mut self) -> io::Result<()> {
        self.stream.write_all(&[1])
    }

    /// Waits for the answer until `limit` is over. May be called again after
    /// [`Progress::Busy`].
    pub fn wait(&mut self, limit: Duration) -> Progress {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let ready = super::ready(self.stream.as_fd(), PollFlags::IN, Some(left));
            if !ready {
                if Instant::now() >= end {
                    return Progress::Busy;
                }
                continue;
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return self.ended(),
                Ok(count) => self.answer.extend_from_slice(&bytes[..count]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The child's end of the stream is gone with the child.
                Err(_) => return self.ended(),
            }
        }
    }

    /// Reaps the child, which has closed its end of the stream.
    fn ended(&mut self) -> Progress {
        let end = Instant::now() + EXIT_LIMIT;
        let signal = loop {
            match process::reap(self.process.pid) {
                Some(signal) => break signal,
                None if Instant::now() >= end => break None,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        match signal {
            Some(signal) => Progress::Killed(signal),
            None => Progress::Ended(std::mem::take(&mut self.answer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_worker_answers_sleeps_or_is_killed() {
        let other = Worker::prepare(Vec::new);
        assert!(other.is_err(), "a fork beside other threads");
        assert!(process::in_one_thread(answers_sleeps_or_is_killed));
    }

    fn answers_sleeps_or_is_killed() {
        let mut worker = Worker::prepare(|| vec![7; 10_000]).unwrap();
        assert_eq!(worker.wait(Duration::ZERO), Progress::Busy);
        worker.start().unwrap();
        assert_eq!(
            worker.wait(Duration::from_secs(60)),
            Progress::Ended(vec![7; 10_000])
        );
        assert!(!worker.process().lives());

        let sleeping = || {
            thread::sleep(Duration::from_secs(600));
            Vec::new()
        };
        let mut worker = Worker::prepare(sleeping).unwrap();
        worker.start().unwrap();
        assert_eq!(worker.wait(Duration::from_millis(50)), Progress::Busy);
        assert!(worker.process().lives());
        worker.process().end_sleep();
        assert_eq!(
            worker.wait(Duration::from_secs(60)),
            Progress::Killed(libc::SIGKILL)
        );

        // A worker whose parent ends before the start does nothing.
        let mut path = std::env::temp_dir();
        path.push(format!("mini-vmm-worker-{}", std::process::id()));
        let never = path.clone();
        let worker = Worker::prepare(move || {
            let _ = std::fs::write(&never, "");
            Vec::new()
        });
        let process = worker.unwrap().process();
        while process.lives() {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(!path.exists());
    }
}
