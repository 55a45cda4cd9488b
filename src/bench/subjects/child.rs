//! A VMM as a child process. It never outlives this process: the kernel kills it then, and its own
//! guardian gives the device back. The kernel kills the child alone; what a wrapper has started
//! would stay, so the program must be the VMM itself. Where this process ends the VMM, all of its
//! process group ends. The guardian has left that group (setsid(2)).

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};

use crate::error::{Context, Error, Result};
use crate::say;
use crate::stop::STOP;
use crate::tied::tie;

/// The last lines that are kept for an error.
const LAST_LINES: usize = 40;

/// No line of a guest that is worth reading is longer.
const LONGEST: u64 = 1 << 20;

/// How long a guest may send no message, besides the time of its work.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// How long a VMM may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(30);

/// A running VMM.
pub(super) struct Vmm {
    child: Child,
    lines: Receiver<String>,
    last: Arc<Mutex<VecDeque<String>>>,
    ended: bool,
}

impl Vmm {
    /// Starts a program, which reads `input`.
    pub(super) fn start(mut command: Command, input: Stdio) -> Result<Self> {
        tie(&mut command, input);
        let name = command.get_program().display().to_string();
        let mut child = command.spawn().context(format!("cannot start {name}"))?;
        let last = Arc::new(Mutex::new(VecDeque::new()));
        let (sender, lines) = channel();
        if let Some(out) = child.stdout.take() {
            listen(out, Arc::clone(&last), Some(sender));
        }
        if let Some(errors) = child.stderr.take() {
            listen(errors, Arc::clone(&last), None);
        }
        Ok(Self {
            child,
            lines,
            last,
            ended: false,
        })
    }

    /// The guest's next line; `None` when its serial port is closed.
    pub(super) fn line(&self, until: Instant) -> Result<Option<String>> {
        loop {
            if STOP.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(Error::interrupted());
            }
            if Instant::now() >= until {
                return Err(Error::new("the guest has sent no message for too long"));
            }
            match self.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => return Ok(Some(line)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Its process number.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the VMM.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.number()?, signal).context("cannot send a signal to the VMM")
    }

    fn number(&self) -> Result<Pid> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        pid.ok_or_else(|| Error::new("the VMM has no process ID, so no signal can be sent to it"))
    }

    /// Sends a signal to the VMM and to all that it has started. Must not be called when the VMM
    /// was waited for: its number may be another group's then.
    fn signal_all(&self, signal: Signal) {
        if let Ok(pid) = self.number() {
            // A group that has just ended needs no signal.
            let _ = kill_process_group(pid, signal);
        }
    }

    /// Whether the VMM has ended. It still has its number.
    fn has_ended(&self) -> Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(self.number()?), options);
        Ok(status.context("cannot wait for the VMM")?.is_some())
    }

    /// The last lines of the guest and of the VMM.
    pub(super) fn last_lines(&self) -> Vec<String> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.iter().cloned().collect()
    }

    /// Waits for the VMM's end. What it has started and left ends, too.
    pub(super) fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let started = Instant::now();
        loop {
            if self.has_ended()? {
                self.signal_all(Signal::KILL);
                self.ended = true;
                return self.child.wait().context("cannot wait for the VMM");
            }
            if started.elapsed() > limit {
                return Err(Error::new(format!(
                    "the VMM has not ended in {} s",
                    limit.as_secs()
                )));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The device goes back before this process goes on: SIGTERM ends the run in order. A VMM that does
/// not end by SIGKILL either, because the kernel waits for a device, is left behind.
impl Drop for Vmm {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.signal_all(Signal::TERM);
        if self.wait(GRACE).is_err() {
            // The guardian gives the device back, and says so in the kernel's log.
            self.signal_all(Signal::KILL);
            if self.wait(GRACE).is_err() {
                let pid = self.child.id();
                say::line(format_args!(
                    "mini-vmm-bench: process {pid} has been killed and does not end"
                ));
            }
        }
    }
}

/// Reads lines in a thread of its own, so that no pipe fills up. The thread ends with the pipe.
fn listen(
    pipe: impl Read + Send + 'static,
    last: Arc<Mutex<VecDeque<String>>>,
    lines: Option<Sender<String>>,
) {
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while let Ok(1..) = pipe.by_ref().take(LONGEST).read_until(b'\n', &mut bytes) {
            let line = String::from_utf8_lossy(&bytes);
            let line = line.trim_end_matches(['\r', '\n']).to_owned();
            bytes.clear();
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.len() == LAST_LINES {
                last.pop_front();
            }
            last.push_back(line.chars().take(200).collect());
            drop(last);
            if let Some(lines) = &lines {
                // Nobody listens any more when the turn is over.
                let _ = lines.send(line);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Vmm {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        Vmm::start(command, Stdio::null()).unwrap()
    }

    #[test]
    fn lines_and_the_end_are_heard() {
        let mut vmm = sh("printf 'one\\r\\ntwo'; echo why >&2; exit 3");
        let limit = Duration::from_secs(10);
        let until = Instant::now() + limit;
        assert_eq!(vmm.line(until).unwrap().as_deref(), Some("one"));
        assert_eq!(vmm.line(until).unwrap().as_deref(), Some("two"));
        assert_eq!(vmm.line(until).unwrap(), None);
        assert_eq!(vmm.wait(limit).unwrap().code(), Some(3));
    }

    #[test]
    fn a_silent_guest_is_given_up_and_its_vmm_ended() {
        let vmm = sh("trap 'exit 0' TERM; sleep 60 & wait");
        let pid = vmm.child.id();
        let until = Instant::now() + Duration::from_millis(150);
        let silent = vmm.line(until).unwrap_err();
        assert!(silent.to_string().contains("no message"));
        drop(vmm);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    /// A wrapper ends at SIGTERM; what it has started does not hear it.
    #[test]
    fn what_a_wrapper_has_started_ends_with_it() {
        let limit = Duration::from_secs(10);
        for (end, drops) in [("wait", true), ("exit 0", false)] {
            let script = format!("(trap '' TERM; exec sleep 60) & echo $!; {end}");
            let mut vmm = sh(&script);
            let pid = vmm.line(Instant::now() + limit).unwrap().unwrap();
            if !drops {
                assert!(vmm.wait(limit).unwrap().success());
            }
            drop(vmm);
            // Without a parent that waits for it, a process that has ended stays a zombie.
            let runs = || {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
                stat.is_ok_and(|stat| !stat.contains(") Z"))
            };
            let started = Instant::now();
            while runs() && started.elapsed() < limit {
                thread::sleep(Duration::from_millis(5));
            }
            assert!(!runs(), "{end}");
        }
    }

    /// Lines that say nothing do not put the end off.
    #[test]
    fn a_guest_that_prints_for_ever_is_given_up() {
        let vmm = sh("while :; do echo nothing; done");
        let until = Instant::now() + Duration::from_millis(300);
        let given_up = loop {
            match vmm.line(until) {
                Ok(line) => assert_eq!(line.as_deref(), Some("nothing")),
                Err(error) => break error,
            }
        };
        assert!(given_up.to_string().contains("no message"));
    }
}
