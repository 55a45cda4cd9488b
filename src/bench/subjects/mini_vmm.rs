//! A turn of a guest of mini-vmm.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::error::{Context, Error, Result};
use crate::guest::SEED;
use crate::subjects::child::Vmm;
use crate::subjects::program::Program;
use crate::subjects::trial::Trial;
use crate::work::task::{MARK, Message, Task};

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

impl Guest {
    /// The arguments of mini-vmm.
    pub fn arguments(&self, seed: u64) -> Vec<String> {
        let cpus: Vec<String> = self.cpus.iter().map(usize::to_string).collect();
        let cmdline = format!("quiet loglevel=4 panic=-1 {} {SEED}{seed}", self.cmdline);
        [
            ["--kernel".into(), self.kernel.display().to_string()],
            [
                "--initrd".into(),
                format!("/proc/self/fd/{}", self.initramfs.as_raw_fd()),
            ],
            ["--cmdline".into(), cmdline],
            ["--memory".into(), self.memory.clone()],
            [
                "--cpus".into(),
                format!("{},pin={}", cpus.len(), cpus.join(",")),
            ],
            ["--vfio".into(), format!("{},managed=on", self.address)],
        ]
        .into_iter()
        .flatten()
        .chain(["--no-reboot".into()])
        .collect()
    }

    /// Does the work of a turn in a guest. mini-vmm binds the device for the guest, and gives it
    /// back.
    ///
    /// # Errors
    /// The guest or mini-vmm has failed, or the user has ended the measurement.
    pub fn trial(&self, program: &Program, task: &Task, seed: u64) -> Result<Trial> {
        let mut command = Command::new(&program.path);
        command.args(self.arguments(seed));
        let started = Instant::now();
        let mut vmm = Vmm::start(command)?;
        let mut trial = Trial::default();
        let heard = listen(&vmm, &mut trial, task, started);
        let ended = heard.and_then(|()| vmm.wait(Duration::from_secs(60)));
        match ended {
            Ok(status) if status.success() => Ok(trial),
            Ok(status) => Err(Error::new(format!(
                "{} ended with {status}",
                program.path.display()
            ))
            .with_details(vmm.last_lines())),
            Err(error) if error.is_interrupted() => Err(error),
            Err(error) => Err(error.with_details(vmm.last_lines())),
        }
    }
}

/// Hears the guest to its last message.
fn listen(vmm: &Vmm, trial: &mut Trial, task: &Task, started: Instant) -> Result<()> {
    let work = Duration::from_millis(task.warm_up_ms + task.measure_ms);
    let limit = work + Duration::from_secs(120);
    while let Some(line) = vmm.line(limit)? {
        let Some((_, text)) = line.split_once(MARK) else {
            continue;
        };
        let message: Message = serde_json::from_str(text)
            .map_err(|e| Error::new(format!("the guest said what cannot be read: {e}")))?;
        if matches!(message, Message::Ready { .. }) {
            let ready = started.elapsed().as_millis();
            trial.ready_ms = u64::try_from(ready).ok();
        }
        if trial.hear(message)? {
            return Ok(());
        }
    }
    Err(Error::new("the guest ended before its work"))
}
