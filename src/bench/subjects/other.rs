//! A turn of a guest of another VMM. For a turn with the device itself, `mini-vmm host bind` takes
//! the device from the host's driver and `host unbind` gives it back; if this program is killed in
//! between, `host unbind` does it.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};

use crate::error::{Context, Result};
use crate::guest::{COUNT, LIFE, SEED};
use crate::say;
use crate::subjects::boot::Boot;
use crate::subjects::bound::first;
use crate::subjects::chains::Interrupts;
use crate::subjects::counting::{Counting, PAUSE, Source};
use crate::subjects::counts::Count;
use crate::subjects::held::Held;
use crate::subjects::host;
use crate::subjects::line::Line;
use crate::subjects::mini_vmm::{Guest, Start, Vcpus, traced};
use crate::subjects::monitor::Monitor;
use crate::subjects::peer::Peer;
use crate::subjects::program::Program;
use crate::subjects::tracing::Tracing;
use crate::subjects::trial::Trial;
use crate::subjects::watch::Watch;
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

/// What a turn is made for.
enum Pass<'a> {
    Timed,
    Counted,
    Watched(&'a mut Tracing),
}

impl OtherVmm<'_> {
    /// Does the work of a turn.
    ///
    /// # Errors
    /// The device cannot be bound, the guest or the VMM has failed, or the user has ended the
    /// measurement.
    pub fn trial(&self, guest: &Guest, task: &Task, seed: u64) -> Result<Trial> {
        let run = |boot, words: &str| {
            let trial = self.run(guest, task, (boot, words), Pass::Timed);
            trial.map(|(trial, _)| trial)
        };
        let mut trial = match task.works.is_empty() {
            true => Trial::default(),
            false => run(Boot::Work, &format!("{SEED}{seed}"))?,
        };
        if guest.life && self.peer.reboots() {
            trial.add(run(Boot::First, "")?);
            trial.add(run(Boot::Life, LIFE)?);
        }
        Ok(trial)
    }

    /// Does the work once more, to count what it costs. Only QEMU says what KVM counts.
    ///
    /// # Errors
    /// As for [`OtherVmm::trial`].
    pub fn count(&self, guest: &Guest, task: &Task, subject: usize) -> Result<Vec<Count>> {
        let words = format!("{SEED}1 {COUNT}{}", PAUSE.as_millis());
        let (_, counting) = self.run(guest, task, (Boot::Work, &words), Pass::Counted)?;
        Ok(counting.map_or_else(Vec::new, |counting| counting.counts(subject)))
    }

    /// Does the first work once more while the kernel records the way of the device's interrupts.
    ///
    /// # Errors
    /// As for [`OtherVmm::trial`].
    pub fn trace(&self, guest: &Guest, task: &Task) -> Result<Interrupts> {
        let (boot, words) = traced(task);
        let mut tracing = match Tracing::start() {
            Ok(tracing) => tracing,
            Err(error) => return Ok(Interrupts::none(error.to_string())),
        };
        self.run(guest, task, (boot, &words), Pass::Watched(&mut tracing))?;
        Ok(tracing.end(&guest.address))
    }

    /// `words` are further words of the kernel's command line.
    fn run(
        &self,
        guest: &Guest,
        task: &Task,
        (boot, words): (Boot, &str),
        pass: Pass<'_>,
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
            boot,
            given: held.given()?,
            words,
        };
        let line = line.words()?;
        let mut command = Command::new(&self.program.path);
        command.args(&line.words);
        let mut counting = match pass {
            Pass::Counted => Some(Counting::by(Source::Monitor(Monitor::add(&mut command)?))),
            Pass::Timed | Pass::Watched(_) => None,
        };
        let watch: Option<&mut dyn Watch> = match (pass, &mut counting) {
            (Pass::Watched(tracing), _) => Some(tracing),
            (_, Some(counting)) => Some(counting),
            (_, None) => None,
        };
        let (terminal, input) = match self.peer.needs_terminal() {
            true => terminal().map(|(ours, theirs)| (Some(ours), theirs.into()))?,
            false => (None, Stdio::null()),
        };
        let path = &self.program.path;
        let start = Start {
            boot,
            vcpus: Vcpus::Pin,
            began: started,
            input,
        };
        let trial = guest.run(command, path, task, start, watch);
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
}
