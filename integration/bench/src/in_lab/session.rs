//! Runs one machine of the lab for one part of the bench. The session makes the initramfs, and a
//! script that runs all subjects in turn. The figures come from L1's serial port.

use std::fs;
use std::time::Duration;

use lab::host::{self, Host};
use lab::initramfs::Archive;
use lab::inner_qemu;
use lab::kernel::{Choice, Kernel};
use lab::machine::Machine;
use lab::progress::Step;
use lab::scripts::{L1_FUNCTIONS, L1_INIT};
use lab::transcript::Speaker;

use super::facts::Facts;
use super::l1;
use super::setup::Setup;
use crate::error::{Context, Result};
use crate::subjects::{Kind, Subject};
use crate::tiny::{self, Then};

/// A machine and its script.
pub struct Session {
    /// The name of the session's directory.
    pub name: &'static str,
    /// L1.
    pub machine: Machine,
    /// The part of the script before the rounds.
    pub before: String,
    /// The part of the script that each round repeats.
    pub round: String,
}

impl Session {
    /// Runs the machine: one warm-up round, then as many rounds as fit into the time. Returns the
    /// facts of the rounds after the warm-up.
    pub fn run(&self, setup: &Setup<'_>, title: &str) -> Result<Facts> {
        let host = Host::find()?;
        let kernel = Kernel::get(Choice::Lab)?;
        let dir = host::fresh_dir(self.name)?;
        self.machine.furnish(&dir)?;
        let archive = self.archive(setup, &host, &kernel)?;
        fs::write(dir.join("l1.cpio"), archive).context("write L1's initramfs")?;
        let step = Step::start(title);
        let limit = setup.plan.budget + Duration::from_secs(180);
        let mut round = 0;
        let mut boot = || {
            self.machine
                .run(&host, &dir, &kernel.bzimage(), limit, &mut |line| {
                    if line.from == Speaker::Lab && line.text.starts_with("round ") {
                        round += 1;
                        step.at(&format!("round {round}"));
                    }
                })
        };
        let mut ended = boot()?;
        // On a busy host L1's kernel may miss the first timer ticks and panic. The machine is
        // then started again, at most twice.
        for _ in 0..2 {
            if ended.transcript.lab("l1-kernel").next().is_some() {
                break;
            }
            ended = boot()?;
        }
        step.done();
        let lines = ended.transcript.lines.into_iter();
        let said = lines.filter(|line| line.from == Speaker::Lab);
        Facts::of(said.map(|line| line.text), &dir)
    }

    fn script(&self, setup: &Setup<'_>) -> String {
        format!(
            "seconds() {{ cut -d. -f1 /proc/uptime; }}\n\
             {before}\n\
             deadline=$(($(seconds) + {budget}))\n\
             n=0\n\
             while [ $n -le {rounds} ] && {{ [ $n -le 2 ] || [ $(seconds) -lt $deadline ]; }}; do\n\
             say round $n\n\
             {round}\n\
             n=$((n + 1))\n\
             done\n",
            before = self.before,
            round = self.round,
            budget = setup.plan.budget.as_secs(),
            rounds = setup.plan.rounds,
        )
    }

    fn archive(&self, setup: &Setup<'_>, host: &Host, kernel: &Kernel) -> Result<Vec<u8>> {
        let mut archive = Archive::with_busybox(host, L1_INIT)?;
        archive.file("lab/functions.sh", L1_FUNCTIONS.as_bytes());
        archive.file("lab/scenario.sh", self.script(setup).as_bytes());
        let mut order = String::new();
        for (name, path) in kernel.modules()? {
            archive.host_file(&format!("lib/lab-modules/{name}"), &path, false)?;
            order.push_str(&name);
            order.push('\n');
        }
        archive.file("lib/lab-modules/order", order.as_bytes());
        let bzimage = l1::archived(l1::kernel());
        archive.host_file(&bzimage, &kernel.bzimage(), false)?;
        let initrd = Archive::with_program(setup.probe)?.finish();
        for (path, content) in [
            (l1::initrd(), initrd),
            (l1::tiny(), tiny::image(Then::Spin)),
            (l1::halting(), tiny::image(Then::Halt)),
        ] {
            archive.file(&l1::archived(path), &content);
        }
        archive.host_file("bin/probe", setup.probe, true)?;
        add_subject(&mut archive, setup.subjects.bare_calls())?;
        for subject in setup.subjects.with_vfio() {
            add_subject(&mut archive, subject)?;
        }
        Ok(archive.finish())
    }
}

/// Adds a subject's program with its libraries and firmware, and the guest that resets the
/// subject's machine.
fn add_subject(archive: &mut Archive, subject: &Subject) -> Result<()> {
    if let Some(reset) = subject.kind.reset() {
        let path = l1::archived(&l1::resetting(subject));
        archive.file(&path, &tiny::image(reset));
    }
    if subject.kind == Kind::QemuQ35 {
        inner_qemu::add(archive, &subject.program)?;
    } else if subject.is_dynamic() {
        archive.host_program(&subject.program)?;
    } else {
        let path = l1::archived(&l1::program(subject));
        archive.host_file(&path, &subject.program, true)?;
    }
    Ok(())
}
