//! Wakes a QEMU that hangs. QEMU 7.2 sometimes hangs while it emulates nested SVM: all its threads
//! wait for ever, although its CPUs are in the middle of an instruction (the gdbstub shows the
//! CPUs, and wakes them). The QMP commands `stop` and `cont` wake QEMU too. The lab sends them when
//! QEMU has used no CPU time for a while.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::error::{Context, Result};

/// How long QEMU may use no CPU time. Waking an idle machine does no harm.
const PATIENCE: Duration = Duration::from_secs(5);

/// Both ends of the socket for QMP; QEMU inherits one.
pub struct Monitor {
    ours: UnixStream,
    theirs: UnixStream,
}

impl Monitor {
    /// Adds a QMP monitor to the command. The descriptor of [`Monitor::keep`] must be open in QEMU.
    pub fn add(qemu: &mut Command) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair().context("make a socket for QMP")?;
        let fd = theirs.as_raw_fd();
        qemu.arg("-chardev")
            .arg(format!("socket,id=qmp,fd={fd}"))
            .args(["-mon", "chardev=qmp,mode=control"]);
        Ok(Self { ours, theirs })
    }

    /// The descriptor that QEMU inherits.
    pub fn keep(&self) -> i32 {
        self.theirs.as_raw_fd()
    }

    /// Starts to watch the QEMU that was spawned.
    pub fn watch(self, pid: u32) -> Result<Nudge> {
        self.ours.set_nonblocking(true).context("set up QMP")?;
        let mut nudge = Nudge {
            qmp: self.ours,
            pid,
            used: 0,
            since: Instant::now(),
        };
        nudge.say("qmp_capabilities");
        Ok(nudge)
    }
}

/// Watches one QEMU.
pub struct Nudge {
    qmp: UnixStream,
    pid: u32,
    /// The CPU time in ticks at the last look, and since when it has not changed.
    used: u64,
    since: Instant,
}

impl Nudge {
    /// Wakes QEMU if QEMU hangs, and tells whether it did. Callers call this about once a second.
    pub fn look(&mut self) -> bool {
        let used = cpu_time(self.pid).unwrap_or(self.used + 1);
        if used != self.used {
            self.used = used;
            self.since = Instant::now();
            return false;
        }
        if self.since.elapsed() < PATIENCE {
            return false;
        }
        self.since = Instant::now();
        self.say("stop");
        self.say("cont");
        true
    }

    /// Sends a QMP command. QEMU's answers are read, so that its buffer does not fill, and ignored.
    fn say(&mut self, command: &str) {
        let mut answers = [0; 4096];
        while self.qmp.read(&mut answers).is_ok_and(|n| n > 0) {}
        // An error means that QEMU has ended.
        let _ = writeln!(self.qmp, "{{\"execute\": \"{command}\"}}");
    }
}

/// User and system time of a process in ticks (proc_pid_stat(5), fields 14 and 15).
fn cpu_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_used_and_known() {
        let pid = std::process::id();
        let before = cpu_time(pid).unwrap();
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(100) {
            std::hint::spin_loop();
        }
        assert!(cpu_time(pid).unwrap() > before);
        assert_eq!(cpu_time(u32::MAX), None);
    }
}
