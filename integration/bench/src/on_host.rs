//! Parts 1 and 5, measured on this machine's own /dev/kvm. A guest of a few bytes writes one byte
//! to its first serial port in its first instructions. Each VMM copies that byte to its standard
//! output. For all subjects alike, the time runs from before the fork until the bench has read the
//! byte.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::error::{Context, Error, Result};
use crate::names::START;
use crate::plan::Plan;
use crate::results::{Key, Results};
use crate::subjects::{Guest, Kind, Subject, Subjects};
use crate::tiny::{self, Then};
use crate::watch::process::{Input, Watched, last_words};

const MARK: &[u8] = &[tiny::MARK];
const LIMIT: Duration = Duration::from_secs(60);
/// The usual RAM in MiB, for starts that do not vary the RAM.
const USUAL: u32 = 512;
const REBOOT: &str = "reset to first instruction";

/// Runs a number of rounds under a title, and shows the progress. The last argument is called in
/// each round with the number of the round.
pub type Rounds<'a> = dyn Fn(&str, usize, &mut dyn FnMut(usize)) + 'a;

/// Measures parts 1 and 5, and adds the figures to the results. `dir` is the directory for the
/// guests' files and the messages.
pub fn run(
    plan: &Plan,
    subjects: &Subjects,
    dir: &Path,
    rounds: &Rounds<'_>,
    results: &mut Results,
) -> Result<()> {
    if !plan.has(1) && !plan.has(5) {
        return Ok(());
    }
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        let line =
            format!("parts 1 and 5 on this machine's /dev/kvm, which cannot be opened: {error}");
        results.missing.push(line);
        return Ok(());
    }
    fs::create_dir_all(dir).context(format!("make {}", dir.display()))?;
    let mut bench = Bench {
        dir,
        subjects: subjects.all().collect(),
        results,
        failed: Vec::new(),
    };
    bench.warm_up();
    if plan.has(1) {
        let most = total_mib();
        let sizes: Vec<u32> = [128, USUAL, 2048, 4096, 16384]
            .into_iter()
            .filter(|mib| u64::from(*mib) <= most)
            .collect();
        rounds("part 1", plan.quick_rounds, &mut |round| {
            for &mib in &sizes {
                bench.starts(&Start::with_memory(1, mib), round);
            }
        });
    }
    if plan.has(5) {
        rounds("part 5 on /dev/kvm", plan.quick_rounds, &mut |round| {
            for cpus in 1..=4 {
                bench.starts(&Start::with_cpus(cpus), round);
            }
            for mib in [256, 1024, 4096] {
                bench.starts(&Start::with_memory(5, mib), round);
            }
            bench.reboots();
        });
    }
    Ok(())
}

/// One start, and the key of its figures in the results.
struct Start {
    part: u8,
    at: (&'static str, u32),
    cpus: u32,
    mib: u32,
}

impl Start {
    fn with_memory(part: u8, mib: u32) -> Self {
        Self {
            part,
            at: ("MiB", mib),
            cpus: 1,
            mib,
        }
    }

    fn with_cpus(cpus: u32) -> Self {
        Self {
            part: 5,
            at: ("vCPUs", cpus),
            cpus,
            mib: USUAL,
        }
    }

    /// Whether this is the usual guest, with which every subject and the VMM's own memory are
    /// measured.
    fn is_usual(&self) -> bool {
        self.part == 1 && self.mib == USUAL
    }
}

struct Bench<'a> {
    dir: &'a Path,
    subjects: Vec<&'a Subject>,
    results: &'a mut Results,
    /// The subject and the work of each failure. A failure is reported once, and the work is not
    /// repeated.
    failed: Vec<(&'a str, &'static str)>,
}

impl<'a> Bench<'a> {
    /// Starts each subject once, so that its program and libraries are in the page cache.
    fn warm_up(&mut self) {
        let start = Start::with_memory(1, USUAL);
        for subject in self.subjects.clone() {
            if let Err(error) = self.time(subject, &start) {
                self.give_up(subject, START, &error);
            }
        }
    }

    fn starts(&mut self, start: &Start, round: usize) {
        for subject in self.subjects.clone() {
            if !is_due(subject, start, round) || self.has_failed(subject, START) {
                continue;
            }
            match self.time(subject, start) {
                Ok((time, memory)) => self.add_start(subject, start, time, memory),
                Err(error) => self.give_up(subject, START, &error),
            }
        }
    }

    fn add_start(&mut self, subject: &Subject, start: &Start, time: f64, memory: [f64; 2]) {
        let (axis, value) = start.at;
        let key = Key {
            part: start.part,
            work: START,
            at: Some((axis, value.into())),
            quantity: ("time", "ms"),
        };
        self.results.add(&key, &subject.name, time);
        if !start.is_usual() {
            return;
        }
        let [all, dirty] = memory;
        for (quantity, mib) in [("private", all), ("private and written to", dirty)] {
            let key = Key {
                at: None,
                work: "memory of the VMM itself",
                quantity: (quantity, "MiB"),
                ..key.clone()
            };
            self.results.add(&key, &subject.name, mib);
        }
    }

    /// Measures one start: returns the time in milliseconds, and the VMM's private memory in MiB,
    /// first all of it and then its dirty part.
    fn time(&self, subject: &Subject, start: &Start) -> Result<(f64, [f64; 2])> {
        let mut vmm = self.start(subject, Then::Spin, start.cpus, start.mib)?;
        let time = vmm.until(MARK, LIMIT)?;
        let private = vmm.memory()?;
        let mib = |kib: u64| kib as f64 / 1024.0;
        let memory = [mib(private.dirty + private.clean), mib(private.dirty)];
        Ok((time.as_secs_f64() * 1000.0, memory))
    }

    fn start(&self, subject: &Subject, then: Then, cpus: u32, mib: u32) -> Result<Watched> {
        let config = self.dir.join("config.json");
        let kernel = self.dir.join("kernel");
        fs::write(&kernel, tiny::image(then)).context(format!("write {}", kernel.display()))?;
        let guest = Guest {
            cpus,
            mib,
            ..Guest::new(&kernel)
        };
        if let Some(text) = subject.kind.config_file(&guest) {
            fs::write(&config, text).context(format!("write {}", config.display()))?;
        }
        let mut command = Command::new(&subject.program);
        command.args(subject.kind.arguments(&guest, &config));
        let input = if subject.kind.needs_terminal() {
            Input::Terminal
        } else {
            Input::None
        };
        let log = File::create(self.log()).context("make a file for messages")?;
        Watched::start(&mut command, input, Stdio::from(log))
    }

    fn log(&self) -> PathBuf {
        self.dir.join("messages.log")
    }

    fn reboots(&mut self) {
        for subject in self.subjects.clone() {
            let reset = subject.kind.reset();
            let reset = reset.filter(|_| !subject.kind.has_slow_firmware());
            let Some(reset) = reset.filter(|_| !self.has_failed(subject, REBOOT)) else {
                continue;
            };
            match self.reboot(subject, reset) {
                Ok(time) => {
                    let key = Key {
                        part: 5,
                        work: REBOOT,
                        at: None,
                        quantity: ("time", "ms"),
                    };
                    self.results.add(&key, &subject.name, time);
                }
                Err(error) => self.give_up(subject, REBOOT, &error),
            }
        }
    }

    /// Measures one reboot: returns the milliseconds from the first boot's mark to the second
    /// boot's mark.
    fn reboot(&self, subject: &Subject, reset: Then) -> Result<f64> {
        let mut vmm = self.start(subject, reset, 1, USUAL)?;
        let first = vmm.until(MARK, LIMIT)?;
        let second = vmm.until(MARK, Duration::from_secs(10))?;
        Ok((second - first).as_secs_f64() * 1000.0)
    }

    fn has_failed(&self, subject: &Subject, work: &'static str) -> bool {
        self.failed.contains(&(&subject.name, work))
    }

    fn give_up(&mut self, subject: &'a Subject, work: &'static str, error: &Error) {
        let said = last_words(&self.log());
        let said = if said.is_empty() {
            String::new()
        } else {
            format!(" (it said: {said})")
        };
        let line = format!("{work}, {}: {error}{said}", subject.name);
        eprintln!("  {line}");
        self.results.missing.push(line);
        self.failed.push((&subject.name, work));
    }
}

/// Whether the subject takes part in this round. The bare calls without CPUID run with the usual
/// guest only, and mini-vmm without its sandbox also with several vCPUs. A VMM with slow firmware
/// also runs with the usual guest only, and in every third round.
fn is_due(subject: &Subject, start: &Start, round: usize) -> bool {
    if subject.kind == Kind::BareCallsWithoutCpuid {
        start.is_usual()
    } else if subject.kind == Kind::MiniVmmUnconfined {
        start.is_usual() || start.at.0 == "vCPUs"
    } else if subject.kind.has_slow_firmware() {
        start.is_usual() && round.is_multiple_of(3)
    } else {
        true
    }
}

/// The size of this machine's RAM in MiB.
fn total_mib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .map_or(0, |kib| kib / 1024)
}
