//! A turn of a guest of mini-vmm.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::error::{Context, Error, Result};
use crate::guest::{COUNT, FIRST_WORK, LIFE, RESET, SEED};
use crate::subjects::affinity;
use crate::subjects::boot::Boot;
use crate::subjects::chains::Interrupts;
use crate::subjects::child::{PATIENCE, Vmm};
use crate::subjects::counting::{Counting, PAUSE, Source};
use crate::subjects::counts::Count;
use crate::subjects::life;
use crate::subjects::list::Change;
use crate::subjects::program::Program;
use crate::subjects::totals::Totals;
use crate::subjects::tracing::Tracing;
use crate::subjects::trial::{Trial, Works};
use crate::subjects::watch::Watch;
use crate::work::task::{Message, Task};

/// What all guests of a run have.
pub struct Guest {
    /// The kernel.
    pub kernel: PathBuf,
    /// The archive with this program, in memory: nothing of it is left after a kill.
    pub initramfs: OwnedFd,
    /// A guest of a few bytes, in memory.
    pub tiny: OwnedFd,
    /// Whether each turn also measures a first instruction, a reset and a reboot.
    pub life: bool,
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
    /// What for.
    pub(super) boot: Boot,
    /// Who puts the virtual CPUs on their CPUs.
    pub(super) vcpus: Vcpus,
    /// When it began, with the binding of the device.
    pub(super) began: Instant,
    /// The VMM's standard input.
    pub(super) input: Stdio,
}

impl Start {
    /// A start of mini-vmm, now.
    fn ours(boot: Boot) -> Self {
        Self {
            boot,
            vcpus: Vcpus::Pinned,
            began: Instant::now(),
            input: Stdio::null(),
        }
    }
}

impl Guest {
    /// The path of the guest of a few bytes, for this process and its children.
    pub(super) fn tiny(&self) -> String {
        format!("/proc/self/fd/{}", self.tiny.as_raw_fd())
    }

    /// The arguments of mini-vmm; `words` are further words of the kernel's command line.
    fn arguments(&self, change: Option<Change>, (boot, words): (Boot, &str)) -> Vec<String> {
        let cpus: Vec<String> = self.cpus.iter().map(usize::to_string).collect();
        let option = |of: Change| match change {
            Some(change) if change == of => format!(",{}", change.option()),
            _ => String::new(),
        };
        let initrd = format!("/proc/self/fd/{}", self.initramfs.as_raw_fd());
        let memory = format!("{}{}", self.memory, option(Change::HugePages));
        let idle = option(Change::Idle);
        let device = [option(Change::Mmap), option(Change::Irqfd)].concat();
        let kernel = match boot {
            Boot::First => self.tiny(),
            Boot::Work | Boot::Life => self.kernel.display().to_string(),
        };
        let mut cmdline = format!("quiet loglevel=4 panic=-1 {} {words}", self.cmdline);
        if boot == Boot::Life {
            cmdline = format!("{cmdline} {RESET}");
        }
        let of_linux = [["--initrd", &initrd], ["--cmdline", &cmdline]];
        let of_linux = of_linux.iter().filter(|_| boot != Boot::First).flatten();
        let ends: &[&str] = if boot == Boot::Life {
            &[]
        } else {
            &["--no-reboot"]
        };
        [
            ["--kernel", &kernel],
            ["--memory", &memory],
            [
                "--cpus",
                &format!("{},pin={}{idle}", cpus.len(), cpus.join(",")),
            ],
            ["--vfio", &format!("{},managed=on{device}", self.address)],
        ]
        .iter()
        .flatten()
        .chain(of_linux)
        .chain(ends)
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
        let run = |boot, words: &str| {
            let mut command = Command::new(&program.path);
            command.args(self.arguments(change, (boot, words)));
            self.run(command, &program.path, task, Start::ours(boot), None)
        };
        let mut trial = match task.works.is_empty() {
            true => Trial::default(),
            false => run(Boot::Work, &format!("{SEED}{seed}"))?,
        };
        if self.life {
            trial.add(run(Boot::First, "")?);
            trial.add(run(Boot::Life, LIFE)?);
        }
        Ok(trial)
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
        command.args(self.arguments(change, (Boot::Work, &words)));
        command.arg(format!("--stats=/proc/self/fd/{}", report.as_raw_fd()));
        let mut counting = Counting::by(Source::Report(report));
        let start = Start::ours(Boot::Work);
        self.run(command, &program.path, task, start, Some(&mut counting))?;
        Ok(counting.counts(subject))
    }

    /// Does the first work once more while the kernel records the way of the device's interrupts;
    /// without work, the guest only starts and reboots.
    ///
    /// # Errors
    /// As for [`Guest::trial`].
    pub fn trace(
        &self,
        program: &Program,
        change: Option<Change>,
        task: &Task,
    ) -> Result<Interrupts> {
        let (boot, words) = traced(task);
        let mut tracing = match Tracing::start() {
            Ok(tracing) => tracing,
            Err(error) => return Ok(Interrupts::none(error.to_string())),
        };
        let mut command = Command::new(&program.path);
        command.args(self.arguments(change, (boot, &words)));
        self.run(
            command,
            &program.path,
            task,
            Start::ours(boot),
            Some(&mut tracing),
        )?;
        Ok(tracing.end(&self.address))
    }

    /// Runs a VMM and hears its guest.
    pub(super) fn run(
        &self,
        command: Command,
        program: &Path,
        task: &Task,
        start: Start,
        watch: Option<&mut dyn Watch>,
    ) -> Result<Trial> {
        let Start {
            boot,
            vcpus,
            began: started,
            input,
        } = start;
        let mut vmm = Vmm::start(command, input)?;
        let pin: &[usize] = match vcpus {
            Vcpus::Pinned => &[],
            Vcpus::Pin => &self.cpus,
        };
        if boot != Boot::Work {
            // The guest is ended when it has said all.
            let heard = life::hear(&vmm, boot, (started, pin), watch);
            return heard.map_err(|error| match error.is_interrupted() {
                true => error,
                false => error.with_details(vmm.last_lines()),
            });
        }
        let mut trial = Trial::default();
        let heard = listen(&vmm, &mut trial, task, (started, pin), watch);
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

/// What a guest does in a traced pass.
pub(super) fn traced(task: &Task) -> (Boot, String) {
    match task.works.is_empty() {
        true => (Boot::Life, format!("{LIFE} {FIRST_WORK}")),
        false => (Boot::Work, format!("{SEED}2 {FIRST_WORK}")),
    }
}

/// Hears the guest to its last message. When it is ready, its virtual CPUs are put on `pin`. A
/// guest is given up that sends no message for too long, whatever else it prints.
fn listen(
    vmm: &Vmm,
    trial: &mut Trial,
    task: &Task,
    (started, pin): (Instant, &[usize]),
    mut watch: Option<&mut dyn Watch>,
) -> Result<()> {
    let work = Duration::from_millis(task.warm_up_ms + task.measure_ms);
    let limit = work + PATIENCE;
    let mut until = Instant::now() + limit;
    let (mut totals, mut works) = (Totals::default(), Works);
    while let Some(line) = vmm.line(until)? {
        let Some(message) = Message::in_line(&line)? else {
            continue;
        };
        until = Instant::now() + limit;
        let since_start = started.elapsed();
        match message {
            Message::Init => trial.moments.init_us = Some(since_start.as_secs_f64() * 1e6),
            Message::Ready { .. } => {
                trial.ready_ms = u64::try_from(since_start.as_millis()).ok();
                trial.moments.ready_us = Some(since_start.as_secs_f64() * 1e6);
                affinity::pin(vmm.pid(), pin)?;
            }
            _ => {}
        }
        match &mut watch {
            Some(watch) => watch.hear(vmm, &message)?,
            None => {
                works.hear(&message);
                trial.totals.extend(totals.hear(vmm, &message));
            }
        }
        if trial.hear(message)? {
            return Ok(());
        }
    }
    Err(Error::new("the guest ended before its work"))
}
