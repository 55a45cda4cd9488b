//! One machine, one script run in it, and what must be seen.
//! A failure keeps everything, and says where it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Context, Error, Result};
use crate::failure;
use crate::host::{self, Host};
use crate::initramfs::Archive;
use crate::kernel::{Choice, Kernel};
use crate::machine::{Ended, Machine};
use crate::scripts::{L1_FUNCTIONS, L1_INIT, L2_ACTS, L2_FUNCTIONS, L2_INIT};
use crate::transcript::{Line, Transcript};
use crate::vmm::{self, Programs};

/// What all scenarios share; each part is there, or says why it is not.
#[derive(Debug)]
pub struct Lab {
    /// QEMU and busybox.
    pub host: Result<Host>,
    /// The binary under test, and the guest's own.
    pub programs: Result<Programs>,
    kernels: BTreeMap<Choice, Result<Kernel>>,
}

impl Lab {
    /// Gets everything ready, once a run. Kernels are not fetched for a host that cannot run the lab.
    pub fn prepare(choices: &[Choice]) -> Self {
        let host = Host::find();
        let kernel = |choice| match &host {
            Ok(_) => Kernel::get(choice),
            Err(error) => Err(error.clone()),
        };
        Self {
            kernels: choices
                .iter()
                .map(|&choice| (choice, kernel(choice)))
                .collect(),
            programs: vmm::build(),
            host,
        }
    }

    /// A kernel of this lab.
    pub fn kernel(&self, choice: Choice) -> Result<&Kernel> {
        match self.kernels.get(&choice) {
            Some(kernel) => kernel.as_ref().map_err(Clone::clone),
            None => Err(Error::failed("a kernel is used that was not asked for")),
        }
    }
}

/// In which form mini-vmm gets L2's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// `/boot/bzImage` in L1.
    BzImage,
    /// `/boot/vmlinux` in L1: the ELF inside the bzImage.
    Vmlinux,
}

/// What is checked when the machine is off.
pub type Check = Box<dyn Fn(&Outcome) -> Result<()> + Send + Sync>;

/// A machine, a script and what must be seen.
pub struct Scenario {
    /// What the test is called.
    pub name: &'static str,
    /// L1.
    pub machine: Machine,
    /// The kernel of L1 and L2 both.
    pub kernel: Choice,
    /// The form in which L2's kernel is given.
    pub image: Image,
    /// Shell text for L1, run with the functions of integration/resources/l1-functions.sh in /boot, where the
    /// kernel and `initrd` are.
    pub script: String,
    /// When the machine is stopped.
    pub limit: Duration,
    /// What must be seen.
    pub check: Check,
}

/// What a finished machine left.
#[derive(Debug)]
pub struct Outcome {
    /// All that was said.
    pub transcript: Transcript,
    /// Where the images are.
    pub dir: PathBuf,
}

impl Outcome {
    /// The image of a disk.
    pub fn image(&self, serial: &str) -> PathBuf {
        self.dir.join(format!("{serial}.img"))
    }
}

/// What L2's kernel says on its console before /init.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Console {
    /// Nothing but what is serious: each character is an exit to the VMM.
    Quiet,
    /// All of it, where the first machine hung.
    Kernel,
}

/// A scenario that passed.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    /// How long the machine lived.
    pub took: Duration,
    /// Whether the first machine went off by itself, or no guest in it reached /init.
    pub repeated: bool,
}

impl Scenario {
    /// Runs it; `heard` is told each line as it comes.
    pub fn run(&self, lab: &Lab, heard: &mut dyn FnMut(&Line)) -> Result<Passed> {
        host::forget(&self.first_dir())?;
        let first = self.once(lab, Console::Quiet, heard)?;
        let (ended, repeated) = if stuck(&first.0) {
            let kept = self.keep_first(&first.1)?;
            eprintln!(
                "  {}: {} {:.0} s; the machine is started once more, and the first one's logs are \
                 kept in {}",
                self.name,
                if first.0.timed_out {
                    "no guest reached /init in"
                } else {
                    "L1 itself went off after"
                },
                first.0.took.as_secs_f64(),
                kept.display()
            );
            (self.once(lab, Console::Kernel, heard)?, true)
        } else {
            (first, false)
        };
        let (ended, dir) = ended;
        let outcome = Outcome {
            transcript: ended.transcript,
            dir,
        };
        self.judge(&outcome, ended.timed_out)
            .map_err(|error| Error::failed(failure::explain(&error.to_string(), &outcome)))?;
        self.drop_large(&outcome.dir)?;
        Ok(Passed {
            took: ended.took,
            repeated,
        })
    }

    fn once(
        &self,
        lab: &Lab,
        console: Console,
        heard: &mut dyn FnMut(&Line),
    ) -> Result<(Ended, PathBuf)> {
        let host = lab.host.as_ref().map_err(Clone::clone)?;
        let kernel = lab.kernel(self.kernel)?;
        let dir = host::fresh_dir(self.name)?;
        self.machine.furnish(&dir)?;
        let archive = self.archive(lab, host, kernel, console)?;
        fs::write(dir.join("l1.cpio"), archive).context("write L1's initramfs")?;
        let ended = self
            .machine
            .run(host, &dir, &kernel.bzimage(), self.limit, heard)?;
        Ok((ended, dir))
    }

    fn script_for(&self, console: Console) -> String {
        match console {
            Console::Quiet => self.script.clone(),
            Console::Kernel => self.script.replace("'quiet ", "'loglevel=7 "),
        }
    }

    /// Where the first of two machines is kept.
    fn first_dir(&self) -> PathBuf {
        host::dir(&format!("{}.first", self.name))
    }

    fn keep_first(&self, dir: &Path) -> Result<PathBuf> {
        let kept = self.first_dir();
        fs::rename(dir, &kept).context(format!("keep {}", dir.display()))?;
        self.drop_large(&kept)?;
        Ok(kept)
    }

    /// Leaves the logs.
    fn drop_large(&self, dir: &Path) -> Result<()> {
        let images = self.machine.disks.iter().map(|disk| disk.serial);
        for name in images
            .map(|serial| format!("{serial}.img"))
            .chain(["l1.cpio".to_owned()])
        {
            let path = dir.join(name);
            fs::remove_file(&path).context(format!("remove {}", path.display()))?;
        }
        Ok(())
    }

    fn archive(
        &self,
        lab: &Lab,
        host: &Host,
        kernel: &Kernel,
        console: Console,
    ) -> Result<Vec<u8>> {
        let mut l1 = Archive::with_busybox(host, L1_INIT)?;
        l1.file("lab/functions.sh", L1_FUNCTIONS.as_bytes());
        l1.file("lab/scenario.sh", self.script_for(console).as_bytes());
        // An ordinary user, for what such a one may not do.
        l1.file(
            "etc/passwd",
            b"root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n",
        );
        l1.file("etc/group", b"root:x:0:\nuser:x:1000:\n");
        let mut order = String::new();
        for (name, path) in kernel.modules()? {
            l1.host_file(&format!("lib/lab-modules/{name}"), &path, false)?;
            order.push_str(&name);
            order.push('\n');
        }
        l1.file("lib/lab-modules/order", order.as_bytes());
        let programs = lab.programs.as_ref().map_err(Clone::clone)?;
        l1.host_file("bin/mini-vmm", &programs.vmm, true)?;
        match self.image {
            Image::BzImage => l1.host_file("boot/bzImage", &kernel.bzimage(), false)?,
            Image::Vmlinux => l1.host_file("boot/vmlinux", &kernel.vmlinux()?, false)?,
        }
        let mut l2 = Archive::with_busybox(host, L2_INIT)?;
        l2.host_file("bin/guest", &programs.guest, true)?;
        l2.file("lab/functions.sh", L2_FUNCTIONS.as_bytes());
        l2.file("lab/acts.sh", L2_ACTS.as_bytes());
        for program in &self.machine.programs {
            l1.host_program(program)?;
            l2.host_program(program)?;
        }
        l1.file("boot/initrd", &l2.finish());
        Ok(l1.finish())
    }

    fn judge(&self, outcome: &Outcome, timed_out: bool) -> Result<()> {
        if timed_out {
            return Err(Error::failed(format!(
                "the machine was still running after {} s and was stopped",
                self.limit.as_secs()
            )));
        }
        if let Some(line) = complaint(&outcome.dir.join("l1-kernel.log")) {
            return Err(Error::failed(format!("L1's kernel complains: {line}")));
        }
        let transcript = &outcome.transcript;
        for trouble in ["module-failed", "await-failed"] {
            if let Some(what) = transcript.lab(trouble).next() {
                return Err(Error::failed(format!("L1 said {trouble}: {what}")));
            }
        }
        match transcript.lab("script").next() {
            Some("0") => (self.check)(outcome),
            Some(status) => Err(Error::failed(format!(
                "the L1 script failed with status {status}"
            ))),
            None => Err(Error::failed("L1 went off before its script had ended")),
        }
    }
}

/// A line of L1's kernel that no run may cause: DMA to where it must not go, or a kernel in trouble.
fn complaint(log: &Path) -> Option<String> {
    let text = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .find(|line| {
            (line.contains("DMAR:") && line.contains("fault"))
                || ["WARNING: ", "BUG: ", "Oops"]
                    .iter()
                    .any(|word| line.contains(word))
        })
        .map(|line| line.trim_end().to_owned())
}

/// The lab's own flakes: L1's processor or kernel broke down before the script's end (QEMU's emulation
/// of nested SVM loses page tables now and then, and runs half of an instruction that is being patched:
/// no program of L1's can do that to its kernel), or the machine hung and no guest of the run under way
/// had reached /init. A VMM that ends with an error, or a guest that hangs or shuts down later, is never
/// tried again; nor is a machine whose kernel complains and lives.
fn stuck(ended: &Ended) -> bool {
    if !ended.timed_out {
        return ended.transcript.lab("script").next().is_none();
    }
    ended
        .transcript
        .runs()
        .last()
        .is_none_or(|run| !run.reached_init() && run.exit().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;

    fn ended(timed_out: bool, lines: &[&str]) -> Ended {
        Ended {
            transcript: Transcript {
                lines: lines
                    .iter()
                    .map(|raw| Line::new(Duration::ZERO, raw))
                    .collect(),
            },
            timed_out,
            took: Duration::ZERO,
        }
    }

    #[test]
    fn a_dma_fault_is_a_complaint_and_a_note_is_not() {
        let path = std::env::temp_dir().join(format!("lab-complaint-{}", std::process::id()));
        fs::write(
            &path,
            "[1.0] DMAR: IOMMU enabled\r\n[2.0] mtrr: your CPUs had inconsistent settings\r\n",
        )
        .unwrap();
        assert_eq!(complaint(&path), None);
        let fault = "[3.0] DMAR: [DMA Read NO_PASID] Request device [00:05.0] fault addr 0x1000";
        fs::write(&path, format!("[1.0] x\r\n{fault}\r\n")).unwrap();
        assert_eq!(complaint(&path).as_deref(), Some(fault));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn the_first_of_two_machines_leaves_its_logs_and_the_second_says_more() {
        let scenario = Scenario {
            name: "unit-of-the-lab",
            machine: Machine::with_disks(&[Disk::new("unit", 5)]),
            kernel: Choice::Lab,
            image: Image::BzImage,
            script: "run_vmm --cmdline 'quiet panic=-1'".into(),
            limit: Duration::ZERO,
            check: Box::new(|_| Ok(())),
        };
        let dir = host::fresh_dir(scenario.name).unwrap();
        for name in ["transcript.log", "unit.img", "l1.cpio"] {
            fs::write(dir.join(name), name).unwrap();
        }
        let kept = scenario.keep_first(&dir).unwrap();
        assert!(!dir.exists());
        let left: Vec<_> = fs::read_dir(&kept).unwrap().collect();
        assert_eq!(left.len(), 1);
        assert!(kept.join("transcript.log").is_file());
        host::forget(&kept).unwrap();
        assert_eq!(scenario.script_for(Console::Quiet), scenario.script);
        let loud = scenario.script_for(Console::Kernel);
        assert_eq!(loud, "run_vmm --cmdline 'loglevel=7 panic=-1'");
    }

    #[test]
    fn only_a_hang_before_init_and_a_broken_l1_are_tried_again() {
        assert!(stuck(&ended(
            true,
            &["LAB: run mini-vmm", "L2| [0.1] rcu: stall"]
        )));
        assert!(stuck(&ended(true, &[])));
        assert!(!stuck(&ended(
            true,
            &["LAB: run mini-vmm", "L2| L2: init 6.1"]
        )));
        assert!(!stuck(&ended(true, &["LAB: run mini-vmm", "LAB: exit 1"])));
        for script in ["LAB: script 0", "LAB: script 1"] {
            assert!(!stuck(&ended(
                false,
                &[
                    "LAB: l1-kernel 6.1",
                    "LAB: run mini-vmm",
                    "LAB: exit 1",
                    script
                ]
            )));
        }
        assert!(stuck(&ended(
            false,
            &[
                "LAB: l1-kernel 6.1",
                "LAB: run mini-vmm",
                "L2| L2: init 6.1"
            ]
        )));
        assert!(stuck(&ended(false, &[])));
    }
}
