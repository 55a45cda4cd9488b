//! A scenario is a machine, a script that runs in the machine, and the expected results.
//!
//! A plain scenario names only its differences from the defaults:
//!
//! ```no_run
//! use lab::disk::Disk;
//! use lab::kernel::Choice;
//! use lab::scenario::Scenario;
//!
//! Scenario::new("nvme_stock_kernel")
//!     .kernel(Choice::Stock)
//!     .disk(Disk::new("lab-disk", 5))
//!     .vmm("-v --memory 512M");
//! ```
//!
//! By default, the kernel is the lab's own as a bzImage, and the time limit is 150 s. L1 binds the
//! devices to vfio-pci, runs mini-vmm with all of them, and gives them back to their drivers.
//!
//! Each guest must boot once, work its disks and power off. To work a disk means to read, copy and
//! write as the table in the module `disk` shows, with an interrupt for each request. Afterwards
//! L1's own driver must read the content that the guest wrote.
//!
//! [`Scenario::l1`] adds shell commands to the default script. [`Scenario::script`] replaces the
//! default script, for scenarios that need another order. Such a scenario must bring all its
//! checks.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use crate::command::{End, INTERFACES, Vmm};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::expect::{self, expect};
use crate::kernel::{Choice, KernelFile};
use crate::machine::Machine;
use crate::outcome::Outcome;
use crate::transcript::Run;

/// The variable with a mode of the sandbox for all runs whose scenario names none.
pub const SANDBOX: &str = "MINI_VMM_LAB_SANDBOX";

/// A check that runs after the machine has powered off.
type Check = Box<dyn Fn(&Outcome) -> Result<()> + Send + Sync>;

/// A check of each run of mini-vmm that the builder started. The number of the first run is 0.
type RunCheck = Box<dyn Fn(u32, &Run<'_>) -> Result<()> + Send + Sync>;

/// A part of the L1 script between binding and giving back.
enum Step {
    Vmm(Vmm),
    Shell(String),
}

/// The commands that run a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// `make lab`, and so `make test`.
    Quick,
    /// `make lab-all`, and so `make test-all`.
    Slow,
    /// `make lab-apart`.
    Apart,
}

/// Builds or finds a static program, and returns its path.
pub type Build = fn() -> Result<PathBuf>;

/// A machine, a script and the expected results.
pub struct Scenario {
    /// The test's name.
    pub name: &'static str,
    /// L1.
    pub machine: Machine,
    /// The kernel of both L1 and L2.
    pub kernel: Choice,
    /// The form of L2's kernel.
    pub kernel_file: KernelFile,
    /// The time limit. The lab stops the machine then.
    pub limit: Duration,
    /// The commands that run the scenario.
    pub class: Class,
    /// Whether the machine is idle most of the time.
    pub waits: bool,
    /// Whether the IOMMU may refuse a device's request.
    pub refusals: bool,
    /// Whether L1 has the tests of tests/guests, as `/bin/guests`.
    pub tiny_guests: bool,
    /// Whether L1 has QEMU, as `/bin/qemu-system-x86_64`.
    pub inner_qemu: bool,
    /// Further static programs of L1, or an image of them, by their name in `/bin`. Each is built
    /// when the scenario runs.
    pub built: Vec<(&'static str, Build)>,
    /// Further files of L1 by their path.
    pub files: Vec<(String, Vec<u8>)>,
    /// Addresses of the devices that each guest gets, with options of `--vfio`. L1 binds these
    /// devices.
    given: Vec<(String, &'static str)>,
    before: String,
    steps: Vec<Step>,
    script: Option<String>,
    interrupt_chip: &'static str,
    guests_leave_text: bool,
    degraded: &'static [&'static [&'static str]],
    /// Codes that any run may have.
    allowed: &'static [&'static str],
    run_checks: Vec<RunCheck>,
    checks: Vec<Check>,
}

/// The machine and the kernel.
impl Scenario {
    /// A scenario on a machine without devices.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            machine: Machine::with_disks(&[]),
            kernel: Choice::Lab,
            kernel_file: KernelFile::BzImage,
            limit: Duration::from_secs(150),
            class: Class::Quick,
            waits: false,
            refusals: false,
            tiny_guests: false,
            inner_qemu: false,
            built: Vec::new(),
            files: Vec::new(),
            given: Vec::new(),
            before: String::new(),
            steps: Vec::new(),
            script: None,
            interrupt_chip: "MSI",
            guests_leave_text: true,
            degraded: &[],
            allowed: &[],
            run_checks: Vec::new(),
            checks: Vec::new(),
        }
    }

    /// Uses another kernel in L1 and L2.
    pub fn kernel(mut self, kernel: Choice) -> Self {
        self.kernel = kernel;
        self
    }

    /// Gives L2's kernel in another form.
    pub fn kernel_file(mut self, file: KernelFile) -> Self {
        self.kernel_file = file;
        self
    }

    /// Changes the time limit.
    pub fn limit(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// Marks a scenario that takes over a minute: the test runs with `--include-ignored` only.
    pub fn slow(mut self) -> Self {
        self.class = Class::Slow;
        self
    }

    /// Marks a long scenario of what others show in part, such as all devices by all ways: the
    /// test runs with `--apart` only. Neither `make test` nor `make test-all` runs it, and so
    /// continuous integration does not.
    pub fn apart(mut self) -> Self {
        self.class = Class::Apart;
        self
    }

    /// Marks a scenario whose machine is idle most of the time, so that it needs no core of its
    /// own.
    pub fn waits(mut self) -> Self {
        self.waits = true;
        self
    }

    /// Marks a scenario in which a device is told a wrong address, and so the IOMMU refuses its
    /// request.
    pub fn refusals(mut self) -> Self {
        self.refusals = true;
        self
    }

    /// Gives L1 the tests of tests/guests.
    pub fn tiny_guests(mut self) -> Self {
        self.tiny_guests = true;
        self
    }

    /// Gives L1 QEMU.
    pub fn inner_qemu(mut self) -> Self {
        self.inner_qemu = true;
        self
    }

    /// Gives L1 another static program, which `build` builds or finds.
    pub fn built(mut self, name: &'static str, build: Build) -> Self {
        self.built.push((name, build));
        self
    }

    /// Gives L1 a file.
    pub fn file(mut self, path: impl Into<String>, data: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.into(), data.into()));
        self
    }

    /// Changes L1.
    pub fn machine(mut self, change: impl FnOnce(&mut Machine)) -> Self {
        change(&mut self.machine);
        self
    }

    /// Adds QEMU arguments for devices other than disks. L1 does not bind these devices by default:
    /// see [`Scenario::function`].
    pub fn qemu(mut self, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&text| text.to_owned());
        self.machine.extra.extend(arguments);
        self
    }

    /// Adds a disk; its controller goes to the guest.
    pub fn disk(self, disk: Disk) -> Self {
        self.disk_with(disk, "")
    }

    /// Adds a disk whose controller has options of `--vfio`, such as `,slot=7`.
    pub fn disk_with(mut self, disk: Disk, options: &'static str) -> Self {
        self.given.push((disk.bdf(), options));
        self.machine.disks.push(disk);
        self
    }

    /// Adds several disks.
    pub fn disks(self, disks: &[Disk]) -> Self {
        disks.iter().cloned().fold(self, Self::disk)
    }

    /// Passes a function through that is no disk controller. At the end, L1 keeps the function
    /// bound to vfio-pci.
    pub fn function(mut self, address: &str) -> Self {
        self.given.push((address.to_owned(), ""));
        self
    }
}

/// The script in L1.
impl Scenario {
    /// Runs shell commands in L1 before the devices are bound.
    pub fn before(mut self, shell: impl Into<String>) -> Self {
        self.before = shell.into();
        self
    }

    /// Runs mini-vmm once.
    pub fn vmm(mut self, vmm: impl Into<Vmm>) -> Self {
        self.steps.push(Step::Vmm(vmm.into()));
        self
    }

    /// Runs mini-vmm once with each of [`INTERFACES`]. `vmm` gets the number of the run.
    pub fn by_each_interface(self, vmm: impl Fn(u32) -> Vmm) -> Self {
        let rounds = (0..).zip(INTERFACES);
        rounds.fold(self, |scenario, (round, interface)| {
            scenario.vmm(vmm(round).by(interface))
        })
    }

    /// Runs shell commands in L1, which may call the functions of
    /// integration/resources/l1-functions.sh. If the commands start mini-vmm, these runs are
    /// numbered after the runs of `vmm`, and the scenario must check them itself.
    pub fn l1(mut self, shell: impl Into<String>) -> Self {
        self.steps.push(Step::Shell(shell.into()));
        self
    }

    /// Replaces the default script and the default checks: L1 binds nothing, gives nothing back and
    /// checks nothing by default. In the script, `$boot` names the guest's kernel and initramfs on
    /// mini-vmm's command line, and `$cmdline` starts the guest's kernel command line.
    pub fn script(
        mut self,
        script: impl Into<String>,
        check: impl Fn(&Outcome) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.script = Some(script.into());
        self.check(check)
    }

    /// The whole L1 script; `cmdline` starts the guest's kernel command line.
    pub fn l1_script(&self, cmdline: &str) -> String {
        let kernel = self.kernel_file.name();
        let mut text = format!("boot='--kernel {kernel} --initrd initrd'\ncmdline='{cmdline}'\n");
        if let Some(mode) = env::var_os(SANDBOX) {
            text.push_str(&format!("sandbox='{}'\n", mode.to_string_lossy()));
        }
        if let Some(script) = &self.script {
            text.push_str(script);
            return text;
        }
        text.push_str(&self.before);
        text.push('\n');
        for (address, _) in &self.given {
            text.push_str(&format!("bind_vfio {address}\n"));
        }
        let all = self.vfio_options();
        for step in &self.steps {
            match step {
                Step::Vmm(vmm) => text.push_str(&vmm.shell(&all)),
                Step::Shell(shell) => text.push_str(&format!("{}\n", shell.trim_end())),
            }
        }
        for disk in &self.machine.disks {
            text.push_str(&format!("give_back {}\n", disk.bdf()));
        }
        text
    }

    fn vfio_options(&self) -> String {
        self.given
            .iter()
            .map(|(address, options)| format!(" --vfio {address}{options}"))
            .collect()
    }
}

/// The expected results.
impl Scenario {
    /// Sets the interrupt controller that the guest's /proc/interrupts must show for the disks.
    pub fn interrupt_chip(mut self, chip: &'static str) -> Self {
        self.interrupt_chip = chip;
        self
    }

    /// Declares that the guests end before they write their line of text. L1 must still read its
    /// own text from the disks after they are given back.
    pub fn guests_leave_no_text(mut self) -> Self {
        self.guests_leave_text = false;
        self
    }

    /// Names the codes of what the guest of each run has less of (docs/stats.md), in order. By
    /// default there are none. Each run of mini-vmm in L1 must warn of its codes, and of no others.
    pub fn degraded(self, codes: &'static [&'static [&'static str]]) -> Self {
        Self {
            degraded: codes,
            ..self
        }
    }

    /// Names codes that any run may have, where it is drawn what the runs do.
    pub fn may_be_degraded(self, allowed: &'static [&'static str]) -> Self {
        Self { allowed, ..self }
    }

    /// Adds a check of each run of [`Scenario::vmm`]. The check gets the number of the run.
    pub fn each_run(
        mut self,
        check: impl Fn(u32, &Run<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.run_checks.push(Box::new(check));
        self
    }

    /// Adds a check of the whole outcome.
    pub fn check(mut self, check: impl Fn(&Outcome) -> Result<()> + Send + Sync + 'static) -> Self {
        self.checks.push(Box::new(check));
        self
    }

    /// Checks a finished machine.
    pub fn verify(&self, outcome: &Outcome) -> Result<()> {
        if self.script.is_none() {
            let runs: Vec<&Vmm> = self.runs().collect();
            expect(!runs.is_empty() || !self.checks.is_empty(), || {
                "the scenario checks nothing".into()
            })?;
            for (index, vmm) in (0..).zip(runs) {
                self.verify_run(outcome, index, vmm).map_err(|error| {
                    let interface = vmm
                        .interface()
                        .map_or_else(String::new, |i| format!(", {i}"));
                    Error::failed(format!("run {}{interface}: {error}", index + 1))
                })?;
            }
        }
        let runs = outcome.transcript.runs();
        runs.iter().try_for_each(expect::confined)?;
        self.checks.iter().try_for_each(|check| check(outcome))?;
        self.verify_degraded(outcome)?;
        if self.script.is_none() {
            self.verify_disks(outcome)?;
        }
        Ok(())
    }

    fn runs(&self) -> impl Iterator<Item = &Vmm> {
        self.steps.iter().filter_map(|step| match step {
            Step::Vmm(vmm) => Some(vmm),
            Step::Shell(_) => None,
        })
    }

    fn verify_run(&self, outcome: &Outcome, index: u32, vmm: &Vmm) -> Result<()> {
        let run = expect::run(outcome, index as usize)?;
        match vmm.end() {
            End::Exited(status) => expect::exit(&run, status)?,
            End::PoweredOff { boots } => {
                let seen = run.guest("init").count();
                expect(seen == boots, || {
                    format!("the guest booted {seen} times instead of {boots}")
                })?;
                expect::ended_well(&run)?;
                let all = self.vfio_options();
                for disk in &self.machine.disks {
                    if vmm.given(&all).contains(&disk.bdf()) {
                        expect::worked_by(outcome, &run, disk, self.interrupt_chip)?;
                    }
                }
            }
        }
        if let Some(interface) = vmm.interface() {
            expect::used(&run, interface)?;
        }
        self.run_checks
            .iter()
            .try_for_each(|check| check(index, &run))
    }

    /// Checks the codes of all runs, also of those that a script has started.
    fn verify_degraded(&self, outcome: &Outcome) -> Result<()> {
        let runs = outcome.transcript.runs();
        let mut told: Vec<_> = runs.iter().map(Run::degraded).collect();
        // With the sandbox: the Landlock of the release's own kernel lacks rights.
        let no_landlock = self.kernel == Choice::Stock;
        for codes in &mut told {
            codes.retain(|code| !self.allowed.contains(code));
            codes.retain(|code| !(no_landlock && *code == "no-landlock"));
        }
        let mut wanted: Vec<&[&str]> = self.degraded.to_vec();
        wanted.resize(wanted.len().max(told.len()), &[]);
        expect(told == wanted, || {
            format!(
                "the runs' codes of what their guests have less of are {told:?}, not {wanted:?}"
            )
        })
    }

    fn verify_disks(&self, outcome: &Outcome) -> Result<()> {
        self.machine.disks.iter().try_for_each(|disk| {
            if self.guests_leave_text {
                expect::back_with_guest_text(outcome, disk)
            } else {
                expect::back(outcome, disk)
            }
        })
    }
}

#[cfg(test)]
mod tests;
