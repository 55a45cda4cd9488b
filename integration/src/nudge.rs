//! Wakes a QEMU that hangs. While QEMU 7.2 emulates nested SVM, it sometimes hangs: all its threads
//! wait forever, although its CPUs are in the middle of an instruction. (The gdbstub shows this,
//! and also wakes the CPUs.) The QMP commands `stop` and `cont` wake QEMU too. The lab sends these
//! commands when QEMU has used no CPU time for a while, and when the machine has said nothing for
//! long: an emulator that hangs may still use a little CPU time. When QEMU is woken, and a
//! second later, QEMU is asked for the registers of its CPUs; the answers are in qmp.log of the
//! scenario's directory. By the same socket, the machine's script may change the machine.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::error::{Context, Result};
use crate::transcript::{Line, Speaker};

/// The time without CPU use after which QEMU counts as hung. Waking an idle machine does no harm.
const PATIENCE: Duration = Duration::from_secs(5);

/// The time without a line of the machine after which QEMU may hang too.
const QUIET: Duration = Duration::from_secs(20);

/// What QEMU is asked when it is woken (QEMU, hmp-commands-info.hx).
const STATE: [&str; 2] = ["info registers -a", "info lapic"];

/// The two ends of the QMP socket. QEMU inherits one of them.
pub struct Monitor {
    ours: UnixStream,
    theirs: UnixStream,
}

impl Monitor {
    /// Adds a QMP monitor to the command. QEMU must inherit the descriptor of [`Monitor::keep`].
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

    /// Starts to watch the QEMU that was spawned, and keeps QEMU's answers in `dir`.
    pub fn watch(self, pid: u32, dir: &Path) -> Result<Nudge> {
        self.ours.set_nonblocking(true).context("set up QMP")?;
        let mut nudge = Nudge {
            qmp: self.ours,
            answers: File::create(dir.join("qmp.log")).context("make the log of QMP")?,
            pid,
            used: 0,
            since: Instant::now(),
            woken: Instant::now(),
            again: false,
        };
        nudge.say("qmp_capabilities");
        Ok(nudge)
    }
}

/// Watches one QEMU.
pub struct Nudge {
    qmp: UnixStream,
    answers: File,
    pid: u32,
    /// The CPU time in ticks at the last check, and the time of its last change.
    used: u64,
    since: Instant,
    /// The time of the last wake.
    woken: Instant,
    /// QEMU was woken at the last look, and is asked for its state once more.
    again: bool,
}

impl Nudge {
    /// Wakes QEMU if QEMU may hang, and returns whether it may. `silent` is for how long the
    /// machine has said nothing. Callers call this about once a second.
    pub fn look(&mut self, silent: Duration) -> bool {
        self.hear_answers();
        if std::mem::take(&mut self.again) {
            self.ask_for_state();
        }
        let used = cpu_time(self.pid).unwrap_or(self.used + 1);
        if used != self.used {
            self.used = used;
            self.since = Instant::now();
        }
        let idles = self.since.elapsed() >= PATIENCE;
        if !idles && silent.min(self.woken.elapsed()) < QUIET {
            return false;
        }
        self.since = Instant::now();
        self.woken = self.since;
        self.ask_for_state();
        self.say("stop");
        self.say("cont");
        self.again = true;
        true
    }

    /// Sends what L1's script has asked for by a line `LAB: qmp COMMAND`, a command in JSON.
    pub fn hear(&mut self, line: &Line) {
        let command = line.text.strip_prefix("qmp ");
        if let (Speaker::Lab, Some(command)) = (line.from, command) {
            self.send(command);
        }
    }

    /// Sends a QMP command without arguments.
    fn say(&mut self, command: &str) {
        self.send(&format!("{{\"execute\": \"{command}\"}}"));
    }

    /// Asks QEMU's human monitor.
    fn ask_for_state(&mut self) {
        for command in STATE {
            self.send(&format!(
                "{{\"execute\": \"human-monitor-command\", \
                 \"arguments\": {{\"command-line\": \"{command}\"}}}}"
            ));
        }
    }

    /// Sends a QMP command.
    fn send(&mut self, command: &str) {
        self.hear_answers();
        // An error means that QEMU has ended.
        let _ = writeln!(self.qmp, "{command}");
    }

    /// Keeps what QEMU has answered, also so that QEMU's buffer does not fill.
    fn hear_answers(&mut self) {
        let mut answers = [0; 4096];
        while let Ok(length @ 1..) = self.qmp.read(&mut answers) {
            // A lost answer does not end the scenario: only a person reads the log.
            let _ = self.answers.write_all(&answers[..length]);
        }
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
    fn the_script_of_l1_alone_sends_commands_and_answers_are_kept() {
        let dir = std::env::temp_dir().join(format!("lab-nudge-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let mut command = Command::new("true");
        let monitor = Monitor::add(&mut command).unwrap();
        let mut theirs = monitor.theirs.try_clone().unwrap();
        writeln!(theirs, "a greeting").unwrap();
        let mut nudge = monitor.watch(std::process::id(), &dir).unwrap();
        for raw in [
            "L2| LAB: qmp {\"execute\": \"quit\"}",
            "qmp {\"execute\": \"quit\"}",
            "LAB: state qmp",
            "LAB: qmp {\"execute\": \"query-block\"}",
        ] {
            nudge.hear(&Line::new(Duration::ZERO, raw));
        }
        writeln!(theirs, "an answer").unwrap();
        nudge.hear_answers();
        drop(nudge);
        let answers = fs::read_to_string(dir.join("qmp.log")).unwrap();
        assert_eq!(answers, "a greeting\nan answer\n");
        fs::remove_dir_all(&dir).unwrap();
        let sent = std::io::read_to_string(theirs).unwrap();
        let lines: Vec<_> = sent.lines().collect();
        let wanted = ["qmp_capabilities", "query-block"];
        assert_eq!(
            lines,
            wanted.map(|name| format!("{{\"execute\": \"{name}\"}}"))
        );
    }

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
