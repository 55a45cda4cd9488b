//! One machine of the lab, switched on for one part of the bench: what is in its initramfs, the
//! script that runs everybody's work in turns, and the figures that come out on its serial line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lab::disk::Disk;
use lab::error::Context;
use lab::initramfs::Archive;
use lab::kernel::{Choice, Kernel};
use lab::machine::Machine;
use lab::progress::Step;
use lab::scripts::{L1_FUNCTIONS, L1_INIT};
use lab::tiny::{self, Then};
use lab::transcript::Speaker;
use lab::{Error, Result, host};

use crate::peers::{self, Guest, Kind, Peer};
use crate::plan::Plan;

/// Where QEMU's packages keep its firmware.
const FIRMWARE: [&str; 2] = ["/usr/share/qemu", "/usr/share/seabios"];
/// What its machines want of it without a display.
const ROMS: [&str; 6] = [
    "bios.bin",
    "bios-256k.bin",
    "kvmvapic.bin",
    "linuxboot.bin",
    "linuxboot_dma.bin",
    "pvh.bin",
];

/// Paths in L1.
pub mod at {
    use std::path::Path;

    /// The lab's kernel.
    pub fn kernel() -> &'static Path {
        Path::new("/boot/bzImage")
    }

    /// The guest's initramfs, of which src/bin/probe is /init.
    pub fn initrd() -> &'static Path {
        Path::new("/boot/initrd")
    }

    /// A guest of `lab::tiny`.
    pub fn tiny() -> &'static Path {
        Path::new("/boot/tiny")
    }

    /// One that leaves its CPU to others.
    pub fn halting() -> &'static Path {
        Path::new("/boot/halting")
    }
}

/// A fact that L1 said: what of, which run's, and the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fact<'a> {
    /// The first word: "watched", "window", "marks" and so on.
    pub kind: &'a str,
    /// The run's number.
    pub run: usize,
    /// All that follows.
    pub rest: &'a str,
}

/// L1 with two CPUs, as a VMM's threads have elsewhere. One is what the lab's scenarios have, because
/// QEMU's emulation of nested SVM is not sound with two and busy guests of several vCPUs: the guests
/// here have one, and a machine that goes off early has figures up to then.
pub fn machine(disks: &[Disk]) -> Machine {
    Machine {
        cpus: 2,
        ..Machine::with_disks(disks)
    }
}

/// A machine and its script.
pub struct Session {
    /// Names its directory.
    pub name: &'static str,
    /// L1.
    pub machine: Machine,
    /// Before the rounds.
    pub before: String,
    /// Each round.
    pub round: String,
}

impl Session {
    /// Runs it: one round to warm up, then as many as fit; all facts of these.
    pub fn run(&self, plan: &Plan, title: &str) -> Result<Facts> {
        let host = host::Host::find()?;
        let kernel = Kernel::get(Choice::Lab)?;
        let dir = host::fresh_dir(self.name)?;
        self.machine.furnish(&dir)?;
        let archive = self.archive(plan, &host, &kernel)?;
        fs::write(dir.join("l1.cpio"), archive).context("write L1's initramfs")?;
        let step = Step::start(title);
        let limit = plan.budget + Duration::from_secs(180);
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
        // On a busy host L1's kernel may miss the ticks that it looks for in its first moments.
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

    fn script(&self, plan: &Plan) -> String {
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
            budget = plan.budget.as_secs(),
            rounds = plan.rounds,
        )
    }

    fn archive(&self, plan: &Plan, host: &host::Host, kernel: &Kernel) -> Result<Vec<u8>> {
        let mut l1 = Archive::with_busybox(host, L1_INIT)?;
        l1.file("lab/functions.sh", L1_FUNCTIONS.as_bytes());
        l1.file("lab/scenario.sh", self.script(plan).as_bytes());
        let mut order = String::new();
        for (name, path) in kernel.modules()? {
            l1.host_file(&format!("lib/lab-modules/{name}"), &path, false)?;
            order.push_str(&name);
            order.push('\n');
        }
        l1.file("lib/lab-modules/order", order.as_bytes());
        l1.host_file("boot/bzImage", &kernel.bzimage(), false)?;
        l1.file("boot/initrd", &Archive::with_program(&plan.probe)?.finish());
        l1.file("boot/tiny", &tiny::image(Then::Spin));
        l1.file("boot/halting", &tiny::image(Then::Halt));
        l1.host_file("bin/probe", &plan.probe, true)?;
        l1.host_file("bin/floor", &plan.floor, true)?;
        for peer in subjects(plan) {
            if let Some(Then::Reset(..)) = peer.kind.reset() {
                let image = tiny::image(peer.kind.reset().unwrap_or(Then::Spin));
                l1.file(&resetting(peer).to_string_lossy()[1..], &image);
            }
            if is_dynamic(&peer.program) {
                l1.host_program(&peer.program)?;
            } else {
                l1.host_file(&in_l1(peer)[1..], &peer.program, true)?;
            }
            if peer.kind == Kind::QemuQ35 {
                for (dir, name) in FIRMWARE
                    .iter()
                    .flat_map(|dir| ROMS.iter().map(move |name| (dir, name)))
                {
                    let path = Path::new(dir).join(name);
                    if path.is_file() {
                        l1.host_file(&path.to_string_lossy()[1..], &path, false)?;
                    }
                }
            }
        }
        Ok(l1.finish())
    }
}

/// Those that take part in the lab: they have VFIO.
pub fn subjects(plan: &Plan) -> impl Iterator<Item = &Peer> {
    plan.peers.iter().filter(|peer| peer.kind.has_vfio())
}

fn in_l1(peer: &Peer) -> String {
    let name = peer.program.file_name().unwrap_or_default();
    format!("/bin/{}", name.to_string_lossy())
}

/// Where the tiny guest is that resets this VMM's machine.
pub fn resetting(peer: &Peer) -> PathBuf {
    PathBuf::from(format!("/boot/reset-{:?}", peer.kind))
}

/// Whether a program needs libraries.
pub fn is_dynamic(program: &Path) -> bool {
    // ldd fails on a file that has no dynamic section; one that has, but names no library in it, is a
    // static program that can be loaded anywhere.
    Command::new("ldd")
        .arg(program)
        .output()
        .is_ok_and(|output| {
            output.status.success()
                && !String::from_utf8_lossy(&output.stdout).contains("statically linked")
        })
}

/// How src/bin/probe asks a VMM for its counters.
pub fn counter(plan: &Plan, kind: Kind) -> &'static str {
    match kind {
        Kind::MiniVmm if plan.stats => "stats",
        Kind::MiniVmm => "signal",
        Kind::QemuQ35 => "qmp",
        _ => "none",
    }
}

/// The same command for a VMM that is asked for all that it counts.
pub fn counting(plan: &Plan, peer: &Peer, guest: &Guest<'_>) -> String {
    let mut line = command(peer, guest);
    if peer.kind == Kind::MiniVmm && plan.stats {
        line.push_str(" --stats=/run/probe.stats");
    }
    line
}

/// What is typed in L1 for a guest.
pub fn command(peer: &Peer, guest: &Guest<'_>) -> String {
    let mut words = vec![in_l1(peer)];
    let arguments = peers::arguments(peer.kind, guest, Path::new("/run/config"));
    words.extend(arguments.iter().map(|word| quote(&word.to_string_lossy())));
    if peer.kind == Kind::QemuQ35 {
        // QEMU looks for its firmware beside its program, which is elsewhere in L1.
        words.extend(FIRMWARE.map(|dir| format!("-L {dir}")));
        words.push("-name bench,debug-threads=on".into());
        words.push("-qmp unix:/run/probe.qmp,server=on,wait=off".into());
    }
    words.join(" ")
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// All that L1 said in its rounds.
#[derive(Debug, Default)]
pub struct Facts {
    lines: Vec<String>,
    /// What went wrong, each once.
    pub failures: Vec<String>,
    /// Rounds that count.
    pub rounds: usize,
}

impl Facts {
    /// Of what L1 said; `dir` is where its log is.
    pub fn of(lines: impl Iterator<Item = String>, dir: &Path) -> Result<Self> {
        let mut facts = Self::default();
        let mut counts = false;
        let mut ended = false;
        for line in lines {
            if let Some(round) = line.strip_prefix("round ") {
                counts = round != "0";
                facts.rounds += usize::from(counts);
            } else if let Some(why) = line.strip_prefix("probe-failed ") {
                if !facts.failures.iter().any(|known| known == why) {
                    facts.failures.push(why.to_owned());
                }
            } else if line.starts_with("script ") {
                ended = true;
            } else if counts {
                facts.lines.push(line);
            }
        }
        if !ended {
            let log = dir.join("transcript.log");
            let why = format!(
                "the machine went off before its rounds were over; its log is {}",
                log.display()
            );
            facts.failures.push(why);
        }
        if facts.lines.is_empty() {
            return Err(Error::failed(facts.failures.join("; ")));
        }
        Ok(facts)
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = Fact<'_>> {
        self.lines.iter().filter_map(|line| {
            let (kind, rest) = line.split_once(' ')?;
            let (run, rest) = rest.split_once(' ')?;
            Some(Fact {
                kind,
                run: run.parse().ok()?,
                rest,
            })
        })
    }
}

/// The figure in "name=".
pub fn value(fact: &str, name: &str) -> Option<f64> {
    lab::transcript::value(fact, name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(lines: &[&str]) -> Result<Facts> {
        Facts::of(lines.iter().map(|line| (*line).to_owned()), Path::new("/d"))
    }

    #[test]
    fn the_first_round_warms_up() {
        let facts = facts(&[
            "round 0",
            "watched 3 at=9 init uptime=1",
            "round 1",
            "watched 3 at=7.5 init uptime=1",
            "probe-failed 4: it broke",
            "probe-failed 4: it broke",
            "marks 1 0.5 0.6",
            "script 0",
        ])
        .unwrap();
        let all: Vec<_> = facts.iter().collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].kind, all[0].run), ("watched", 3));
        assert_eq!(value(all[0].rest, "at"), Some(7.5));
        assert_eq!(all[1].rest, "0.5 0.6");
        assert_eq!(facts.failures, ["4: it broke"]);
        assert_eq!(facts.rounds, 1);
    }

    #[test]
    fn a_machine_that_went_off_early_has_figures_up_to_then() {
        assert!(facts(&["round 0", "marks 1 2", "script 1"]).is_err());
        assert!(facts(&["round 0", "round 1"]).is_err());
        let early = facts(&["round 0", "round 1", "marks 1 2"]).unwrap();
        assert_eq!((early.iter().count(), early.failures.len()), (1, 1));
    }

    #[test]
    fn words_stay_whole_in_a_shell() {
        assert_eq!(quote("a 'b'"), r"'a '\''b'\'''");
    }
}
