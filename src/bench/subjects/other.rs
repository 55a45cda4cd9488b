//! A turn of a guest of another VMM. For a turn with the device itself, `mini-vmm host bind` takes
//! the device from the host's driver and `host unbind` gives it back; if this program is killed in
//! between, `host unbind` does it.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};

use crate::error::{Context, Error, Result};
use crate::guest::{COUNT, SEED};
use crate::say;
use crate::subjects::counting::{Counting, PAUSE, Source};
use crate::subjects::counts::Count;
use crate::subjects::held::Held;
use crate::subjects::host;
use crate::subjects::line::Line;
use crate::subjects::mini_vmm::{Guest, Start, Vcpus};
use crate::subjects::monitor::Monitor;
use crate::subjects::peer::Peer;
use crate::subjects::program::Program;
use crate::subjects::trial::Trial;
use crate::work::task::Task;

/// What a turn needs besides the guest.
pub struct OtherVmm<'a> {
    /// The VMM.
    pub program: &'a Program,
    /// The way in which the guest has the disk or the port.
    pub peer: Peer,
    /// Whether the guest's idle loop causes no exits.
    pub native_idle: bool,
    /// A mini-vmm, which binds the device.
    pub binder: &'a Program,
    /// The device's directory in sysfs.
    pub device: &'a Path,
}

impl OtherVmm<'_> {
    /// Does the work of a turn.
    ///
    /// # Errors
    /// The device cannot be bound, the guest or the VMM has failed, or the user has ended the
    /// measurement.
    pub fn trial(&self, guest: &Guest, task: &Task, seed: u64) -> Result<Trial> {
        let words = format!("{SEED}{seed}");
        self.run(guest, task, &words, false).map(|(trial, _)| trial)
    }

    /// Does the work once more, to count what it costs. Only QEMU says what KVM counts.
    ///
    /// # Errors
    /// As for [`OtherVmm::trial`].
    pub fn count(&self, guest: &Guest, task: &Task, subject: usize) -> Result<Vec<Count>> {
        let words = format!("{SEED}1 {COUNT}{}", PAUSE.as_millis());
        let (_, counting) = self.run(guest, task, &words, true)?;
        Ok(counting.map_or_else(Vec::new, |counting| counting.counts(subject)))
    }

    /// `words` are further words of the kernel's command line.
    fn run(
        &self,
        guest: &Guest,
        task: &Task,
        words: &str,
        counts: bool,
    ) -> Result<(Trial, Option<Counting>)> {
        // The device must be back, whatever subject had it before.
        host::wait(self.device, task)?;
        // mini-vmm binds the device as a part of its start.
        let started = Instant::now();
        let binder = (self.binder, guest.address.as_str());
        let held = Held::take(self.peer, binder, self.device, task)?;
        let line = Line {
            peer: self.peer,
            native_idle: self.native_idle,
            guest,
            task,
            given: held.given()?,
            words,
        };
        let line = line.words()?;
        let mut command = Command::new(&self.program.path);
        command.args(&line.words);
        let mut counting = match counts {
            true => Some(Counting::by(Source::Monitor(Monitor::add(&mut command)?))),
            false => None,
        };
        let (terminal, input) = match self.peer.needs_terminal() {
            true => terminal().map(|(ours, theirs)| (Some(ours), theirs.into()))?,
            false => (None, Stdio::null()),
        };
        let path = &self.program.path;
        let trial = guest.run(
            command,
            path,
            task,
            Start {
                vcpus: Vcpus::Pin,
                began: started,
                input,
            },
            counting.as_mut(),
        );
        drop((line.file, terminal));
        Ok((first(trial, held.give_back(), say::error)?, counting))
    }
}

/// A terminal (pty(7)), on which nothing is typed: the end that keeps it, and the program's end.
fn terminal() -> Result<(OwnedFd, OwnedFd)> {
    let made = || {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        unlockpt(&ours)?;
        let theirs = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        Ok::<_, Errno>((ours, theirs))
    };
    made().context("cannot make a terminal for the VMM")
}

/// The outcome of a turn, and of giving the device back after it. If both have failed, the turn's
/// error is the first, and says why; the other one is said at once, because the device is left.
fn first<T>(trial: Result<T>, back: Result<()>, say: impl FnOnce(&Error)) -> Result<T> {
    match (trial, back) {
        (Ok(trial), back) => back.map(|()| trial),
        (Err(error), back) => {
            if let Err(back) = back {
                say(&back);
            }
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_one_for_the_program_that_gets_it() {
        let says = |input: Stdio| {
            let output = Command::new("tty").stdin(input).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let (ours, theirs) = terminal().unwrap();
        let name = says(theirs.into());
        assert!(name.starts_with("/dev/pts/"), "{name}");
        drop(ours);
        assert_eq!(says(Stdio::null()), "not a tty\n");
    }

    #[test]
    fn neither_error_is_lost() {
        let failed = |what: &str| Error::new(what);
        let mut said = Vec::new();
        let mut both = |trial, back| {
            let outcome = first(trial, back, |e| said.push(e.to_string()));
            outcome.map_err(|e| e.to_string())
        };
        assert_eq!(both(Ok(1), Ok(())), Ok(1));
        assert_eq!(both(Ok(1), Err(failed("back"))), Err("back".into()));
        assert_eq!(both(Err(failed("turn")), Ok(())), Err("turn".into()));
        let two = both(Err(failed("turn")), Err(failed("back")));
        assert_eq!(two, Err("turn".into()));
        assert_eq!(said, ["back"]);
    }
}
