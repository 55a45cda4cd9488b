//! What runs on this machine's own /dev/kvm: a guest of a few bytes, whose first instructions write
//! one byte to its first serial port, which every VMM here brings to its standard output. Timed is
//! from before the fork until the bench has read that byte, for all alike, the bare calls included.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::Result;
use lab::error::Context;
use lab::tiny::{self, Then};
use lab::watch::{Input, Watched, last_words};

use crate::peers::{self, Guest, Kind, Peer};
use crate::plan::Plan;
use crate::results::{FLOOR, Key, LEAST, Results};

const MARK: &[u8] = &[tiny::MARK];
const LIMIT: Duration = Duration::from_secs(60);
/// RAM where it is not varied, in MiB.
const USUAL: u32 = 512;
/// The two works.
pub const START: &str = "first instruction";
const REBOOT: &str = "reset to first instruction";

/// Files of the tiny guests, and where messages go.
struct Place {
    dir: PathBuf,
}

impl Place {
    fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).context(format!("make {}", dir.display()))?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    fn start(&self, subject: &Subject<'_>, then: Then, cpus: u32, mib: u32) -> Result<Watched> {
        let config = self.dir.join("config.json");
        let kernel = self.dir.join("kernel");
        fs::write(&kernel, tiny::image(then)).context(format!("write {}", kernel.display()))?;
        let mut command = match subject {
            Subject::Floor(program) | Subject::Least(program) => {
                let mut command = Command::new(program);
                let job = match subject {
                    Subject::Least(_) => "boot-without-cpuid",
                    _ => "boot",
                };
                command.args([job, &mib.to_string(), &cpus.to_string()]);
                command
            }
            Subject::Peer(peer) => {
                let guest = Guest {
                    kernel: &kernel,
                    initrd: None,
                    cmdline: "",
                    cpus,
                    mib,
                    devices: &[],
                    cpu_options: "",
                    memory_options: "",
                };
                if let Some(text) = peers::config_file(peer.kind, &guest) {
                    fs::write(&config, text).context(format!("write {}", config.display()))?;
                }
                let mut command = Command::new(&peer.program);
                command.args(peers::arguments(peer.kind, &guest, &config));
                command
            }
        };
        let log = File::create(self.log()).context("make a file for messages")?;
        Watched::start(&mut command, subject.input(), Stdio::from(log))
    }

    fn log(&self) -> PathBuf {
        self.dir.join("messages.log")
    }
}

/// Who is measured.
enum Subject<'a> {
    Floor(&'a Path),
    Least(&'a Path),
    Peer(&'a Peer),
}

impl Subject<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Floor(_) => FLOOR,
            Self::Least(_) => LEAST,
            Self::Peer(peer) => &peer.name,
        }
    }

    /// alioth reads nothing but a terminal.
    fn input(&self) -> Input {
        match self {
            Self::Peer(peer) if peer.kind == Kind::Alioth => Input::Terminal,
            _ => Input::None,
        }
    }

    /// QEMU's firmware alone takes seconds, so it has fewer rounds, and the usual place only.
    fn is_slow(&self) -> bool {
        matches!(self, Self::Peer(peer) if peer.kind == Kind::QemuQ35)
    }
}

/// Parts 1 and 5, as far as they need no lab.
pub fn run(plan: &Plan, dir: &Path, results: &mut Results) -> Result<()> {
    if !plan.has(1) && !plan.has(5) {
        return Ok(());
    }
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        let line =
            format!("parts 1 and 5 on this machine's /dev/kvm, which cannot be opened: {error}");
        results.missing.push(line);
        return Ok(());
    }
    let mut bench = Bench {
        place: Place::new(dir)?,
        subjects: [Subject::Floor(&plan.floor), Subject::Least(&plan.floor)]
            .into_iter()
            .chain(plan.peers.iter().map(Subject::Peer))
            .collect(),
        results,
        out: Vec::new(),
    };
    bench.warm_up();
    if plan.has(1) {
        let most = total_mib();
        let sizes: Vec<u32> = [128, USUAL, 2048, 4096, 16384]
            .into_iter()
            .filter(|mib| u64::from(*mib) <= most)
            .collect();
        plan.rounds("part 1", plan.quick_rounds, |round| {
            for &mib in &sizes {
                bench.starts(1, Some(("MiB", mib)), 1, mib, round);
            }
        });
    }
    if plan.has(5) {
        plan.rounds("part 5 on /dev/kvm", plan.quick_rounds, |round| {
            for cpus in 1..=4 {
                bench.starts(5, Some(("vCPUs", cpus)), cpus, USUAL, round);
            }
            for mib in [256, 1024, 4096] {
                bench.starts(5, Some(("MiB", mib)), 1, mib, round);
            }
            bench.reboots();
        });
    }
    Ok(())
}

struct Bench<'a> {
    place: Place,
    subjects: Vec<Subject<'a>>,
    results: &'a mut Results,
    /// Those that failed; each is told of once and not tried again.
    out: Vec<(String, &'static str)>,
}

impl Bench<'_> {
    /// Brings programs and their libraries into memory.
    fn warm_up(&mut self) {
        for n in 0..self.subjects.len() {
            if let Err(error) = self.start(n, 1, USUAL) {
                self.give_up(n, START, &error);
            }
        }
    }

    fn starts(&mut self, part: u8, at: Option<(&str, u32)>, cpus: u32, mib: u32, round: usize) {
        for n in 0..self.subjects.len() {
            let subject = &self.subjects[n];
            let usual = part == 1 && mib == USUAL;
            if matches!(subject, Subject::Least(_)) && !usual {
                continue;
            }
            if self.is_out(n, START) || (subject.is_slow() && !(usual && round.is_multiple_of(3))) {
                continue;
            }
            match self.start(n, cpus, mib) {
                Ok((time, private)) => {
                    let key = |quantity| Key {
                        part,
                        work: START,
                        at: at.map(|(axis, value)| (axis, value.into())),
                        quantity,
                    };
                    let name = self.subjects[n].name();
                    self.results.add(&key(("time", "ms")), name, time);
                    if usual {
                        let [all, dirty] = private;
                        let key = |quantity| Key {
                            at: None,
                            work: "memory of the VMM itself",
                            ..key((quantity, "MiB"))
                        };
                        self.results.add(&key("private"), name, all);
                        self.results
                            .add(&key("private and written to"), name, dirty);
                    }
                }
                Err(error) => self.give_up(n, START, &error),
            }
        }
    }

    /// Time in ms and MiB of private memory, all and dirty.
    fn start(&self, n: usize, cpus: u32, mib: u32) -> Result<(f64, [f64; 2])> {
        let mut vmm = self.place.start(&self.subjects[n], Then::Spin, cpus, mib)?;
        let time = vmm.until(MARK, LIMIT)?;
        let private = vmm.memory()?;
        let mib = |kib: u64| kib as f64 / 1024.0;
        let memory = [mib(private.dirty + private.clean), mib(private.dirty)];
        Ok((time.as_secs_f64() * 1000.0, memory))
    }

    fn reboots(&mut self) {
        for n in 0..self.subjects.len() {
            let reset = match &self.subjects[n] {
                Subject::Peer(peer) if !self.subjects[n].is_slow() => peer.kind.reset(),
                _ => None,
            };
            let Some(reset) = reset.filter(|_| !self.is_out(n, REBOOT)) else {
                continue;
            };
            match self.reboot(n, reset) {
                Ok(time) => {
                    let key = Key {
                        part: 5,
                        work: REBOOT,
                        at: None,
                        quantity: ("time", "ms"),
                    };
                    self.results.add(&key, self.subjects[n].name(), time);
                }
                Err(error) => self.give_up(n, REBOOT, &error),
            }
        }
    }

    /// From the first boot's mark to the second's.
    fn reboot(&self, n: usize, reset: Then) -> Result<f64> {
        let mut vmm = self.place.start(&self.subjects[n], reset, 1, USUAL)?;
        let first = vmm.until(MARK, LIMIT)?;
        let second = vmm.until(MARK, Duration::from_secs(10))?;
        Ok((second - first).as_secs_f64() * 1000.0)
    }

    fn is_out(&self, n: usize, work: &'static str) -> bool {
        let name = self.subjects[n].name();
        self.out.iter().any(|(out, of)| out == name && *of == work)
    }

    fn give_up(&mut self, n: usize, work: &'static str, error: &lab::Error) {
        let name = self.subjects[n].name().to_owned();
        let said = last_words(&self.place.log());
        let said = if said.is_empty() {
            String::new()
        } else {
            format!(" (it said: {said})")
        };
        let line = format!("{work}, {name}: {error}{said}");
        eprintln!("  {line}");
        self.results.missing.push(line);
        self.out.push((name, work));
    }
}

/// RAM of this machine.
fn total_mib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .map_or(0, |kib| kib / 1024)
}
