//! A turn of a guest of mini-vmm.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::error::{Context, Error, Result};
use crate::guest::{COUNT, SEED};
use crate::subjects::affinity;
use crate::subjects::child::Vmm;
use crate::subjects::counting::{Counting, PAUSE, Source};
use crate::subjects::counts::Count;
use crate::subjects::list::Change;
use crate::subjects::program::Program;
use crate::subjects::totals::Totals;
use crate::subjects::trial::Trial;
use crate::work::task::{MARK, Message, Task};

/// How long a guest may send no message, besides the time of its work.
const PATIENCE: Duration = Duration::from_secs(120);

/// What all guests of a run have.
pub struct Guest {
    /// The kernel.
    pub kernel: PathBuf,
    /// The archive with this program, in memory: nothing of it is left after a kill.
    pub initramfs: OwnedFd,
    /// Further words of the kernel's command line.
    pub cmdline: String,
    /// The guest's memory, as `--memory` has it.
    pub memory: String,
    /// The host's CPUs, one for each virtual CPU.
    pub cpus: Vec<usize>,
    /// The device's address.
    pub address: String,
}

/// Puts an archive into a file without a name, which child processes inherit.
///
/// # Errors
/// There is no memory for it.
pub fn in_memory(archive: &[u8]) -> Result<OwnedFd> {
    let fd = memfd_create("initramfs", MemfdFlags::empty()).context("cannot make a memfd")?;
    let mut file = File::from(fd);
    file.write_all(archive)
        .context("cannot write the initramfs")?;
    Ok(file.into())
}

/// Who puts the virtual CPUs on their CPUs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Vcpus {
    /// The VMM.
    Pinned,
    /// This program, when the guest is ready.
    Pin,
}

/// The start of a VMM.
pub(super) struct Start {
    /// Who puts the virtual CPUs on their CPUs.
    pub(super) vcpus: Vcpus,
    /// When it began, with the binding of the device.
    pub(super) began: Instant,
    /// The VMM's standard input.
    pub(super) input: Stdio,
}

impl Start {
    /// A start of mini-vmm, now.
    fn ours() -> Self {
        Self {
            vcpus: Vcpus::Pinned,
            began: Instant::now(),
            input: Stdio::null(),
        }
    }
}

impl Guest {
    /// The arguments of mini-vmm; `words` are further words of the kernel's command line.
    fn arguments(&self, change: Option<Change>, words: &str) -> Vec<String> {
        let cpus: Vec<String> = self.cpus.iter().map(usize::to_string).collect();
        let option = |of: Change| match change {
            Some(change) if change == of => format!(",{}", change.option()),
            _ => String::new(),
        };
        let initrd = format!("/proc/self/fd/{}", self.initramfs.as_raw_fd());
        let memory = format!("{}{}", self.memory, option(Change::HugePages));
        let idle = option(Change::Idle);
        let device = [option(Change::Mmap), option(Change::Irqfd)].concat();
        [
            ["--kernel", &self.kernel.display().to_string()],
            ["--initrd", &initrd],
            [
                "--cmdline",
                &format!("quiet loglevel=4 panic=-1 {} {words}", self.cmdline),
            ],
            ["--memory", &memory],
            [
                "--cpus",
                &format!("{},pin={}{idle}", cpus.len(), cpus.join(",")),
            ],
            ["--vfio", &format!("{},managed=on{device}", self.address)],
        ]
        .iter()
        .flatten()
        .chain(&["--no-reboot"])
        .map(|&argument| argument.to_owned())
        .collect()
    }

    /// Does the work of a turn in a guest. mini-vmm binds the device for the guest, and gives it
    /// back.
    ///
    /// # Errors
    /// The guest or mini-vmm has failed, or the user has ended the measurement.
    pub fn trial(
        &self,
        program: &Program,
        change: Option<Change>,
        task: &Task,
        seed: u64,
    ) -> Result<Trial> {
        let mut command = Command::new(&program.path);
        command.args(self.arguments(change, &format!("{SEED}{seed}")));
        self.run(command, &program.path, task, Start::ours(), None)
    }

    /// Does the work once more, to count what it costs.
    ///
    /// # Errors
    /// As for [`Guest::trial`].
    pub fn count(
        &self,
        program: &Program,
        change: Option<Change>,
        task: &Task,
        subject: usize,
    ) -> Result<Vec<Count>> {
        let report = in_memory(b"")?;
        let mut command = Command::new(&program.path);
        let words = format!("{SEED}1 {COUNT}{}", PAUSE.as_millis());
        command.args(self.arguments(change, &words));
        command.arg(format!("--stats=/proc/self/fd/{}", report.as_raw_fd()));
        let mut counting = Counting::by(Source::Report(report));
        let start = Start::ours();
        self.run(command, &program.path, task, start, Some(&mut counting))?;
        Ok(counting.counts(subject))
    }

    /// Runs a VMM and hears its guest.
    pub(super) fn run(
        &self,
        command: Command,
        program: &Path,
        task: &Task,
        start: Start,
        counting: Option<&mut Counting>,
    ) -> Result<Trial> {
        let Start {
            vcpus,
            began: started,
            input,
        } = start;
        let mut vmm = Vmm::start(command, input)?;
        let mut trial = Trial::default();
        let pin: &[usize] = match vcpus {
            Vcpus::Pinned => &[],
            Vcpus::Pin => &self.cpus,
        };
        let heard = listen(&vmm, &mut trial, task, (started, pin), counting);
        let ended = heard.and_then(|()| vmm.wait(Duration::from_secs(60)));
        match ended {
            Ok(status) if status.success() => Ok(trial),
            Ok(status) => Err(
                Error::new(format!("{} ended with {status}", program.display()))
                    .with_details(vmm.last_lines()),
            ),
            Err(error) if error.is_interrupted() => Err(error),
            Err(error) => Err(error.with_details(vmm.last_lines())),
        }
    }
}

/// Hears the guest to its last message. When it is ready, its virtual CPUs are put on `pin`. A
/// guest is given up that sends no message for too long, whatever else it prints.
fn listen(
    vmm: &Vmm,
    trial: &mut Trial,
    task: &Task,
    (started, pin): (Instant, &[usize]),
    mut counting: Option<&mut Counting>,
) -> Result<()> {
    let work = Duration::from_millis(task.warm_up_ms + task.measure_ms);
    let limit = work + PATIENCE;
    let mut until = Instant::now() + limit;
    let mut totals = Totals::default();
    while let Some(line) = vmm.line(until)? {
        let Some((_, text)) = line.split_once(MARK) else {
            continue;
        };
        until = Instant::now() + limit;
        let message: Message = serde_json::from_str(text)
            .map_err(|e| Error::new(format!("the guest said what cannot be read: {e}")))?;
        if matches!(message, Message::Ready { .. }) {
            let ready = started.elapsed().as_millis();
            trial.ready_ms = u64::try_from(ready).ok();
            affinity::pin(vmm.pid(), pin)?;
        }
        match &mut counting {
            Some(counting) => counting.hear(vmm, &message)?,
            None => trial.totals.extend(totals.hear(vmm, &message)),
        }
        if trial.hear(message)? {
            return Ok(());
        }
    }
    Err(Error::new("the guest ended before its work"))
}
