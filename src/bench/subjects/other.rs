//! A turn of a guest of another VMM. For a turn with the device itself, `mini-vmm host bind` takes
//! the device from the host's driver and `host unbind` gives it back; if this program is killed in
//! between, `host unbind` does it.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Context, Error, Result};
use crate::guest::{COUNT, SEED};
use crate::subjects::counting::{Counting, PAUSE, Source};
use crate::subjects::counts::Count;
use crate::subjects::host;
use crate::subjects::line::Line;
use crate::subjects::mini_vmm::{Guest, Vcpus};
use crate::subjects::monitor::Monitor;
use crate::subjects::peer::Peer;
use crate::subjects::program::Program;
use crate::subjects::trial::Trial;
use crate::work::task::Task;

/// What a turn needs besides the guest.
pub struct OtherVmm<'a> {
    /// The VMM.
    pub program: &'a Program,
    /// The way in which the guest has the disk.
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
        // The disk must be back, whatever subject had it before.
        let disk = host::wait_for_disk(self.device, task)?;
        let bound = match self.peer.is_assigned() {
            true => Some(Bound::take(self.binder, &guest.address)?),
            false => None,
        };
        // While the VMM has the disk, nobody else gets it (open(2), O_EXCL), and no other disk gets
        // its name.
        let held = match self.peer.is_assigned() {
            true => None,
            false => Some(disk.open(None)?),
        };
        let line = Line {
            peer: self.peer,
            native_idle: self.native_idle,
            guest,
            task,
            node: &disk.node(),
            words,
        };
        let line = line.words()?;
        let mut command = Command::new(&self.program.path);
        command.args(&line.words);
        let mut counting = match counts {
            true => Some(Counting::by(Source::Monitor(Monitor::add(&mut command)?))),
            false => None,
        };
        let path = &self.program.path;
        let trial = guest.run(command, path, task, Vcpus::Pin, counting.as_mut());
        drop((held, line.file));
        let back = bound.map_or(Ok(()), Bound::give_back);
        // The first error says why.
        let trial = trial?;
        back?;
        Ok((trial, counting))
    }
}

/// The device, bound to vfio-pci. It goes back when this is dropped.
struct Bound<'a> {
    binder: &'a Program,
    address: &'a str,
    is_bound: bool,
}

impl<'a> Bound<'a> {
    fn take(binder: &'a Program, address: &'a str) -> Result<Self> {
        let mut bound = Self {
            binder,
            address,
            is_bound: true,
        };
        bound.host("bind").inspect_err(|_| bound.is_bound = false)?;
        Ok(bound)
    }

    fn give_back(mut self) -> Result<()> {
        self.is_bound = false;
        self.host("unbind")
    }

    /// Runs `mini-vmm host bind` or `unbind`. Ctrl-C on the terminal does not reach it.
    fn host(&self, what: &str) -> Result<()> {
        use std::os::unix::process::CommandExt;
        let output = Command::new(&self.binder.path)
            .args(["host", what, self.address])
            .stdin(Stdio::null())
            .process_group(0)
            .output()
            .context(format!("cannot run {}", self.binder.path.display()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let words = format!("`mini-vmm host {what} {}` has failed", self.address);
        Err(Error::new(words).with_details(said.lines().map(str::to_owned)))
    }
}

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        if self.is_bound
            && let Err(error) = self.host("unbind")
        {
            eprintln!("mini-vmm-bench: {error}");
            eprintln!("hint: mini-vmm host unbind {}", self.address);
        }
    }
}
