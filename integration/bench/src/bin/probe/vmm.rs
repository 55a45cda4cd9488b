//! Runs a VMM in L1. Prints each line of its guest with the time since the VMM's start. Between the
//! guest's lines "begin" and "end" is a window: its exits and CPU time are printed too.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bench::error::{Context, Error, Result};
use bench::tiny;
use bench::watch::process::{Input, Watched, last_words};

use bench::watch::counters::{Counter, Counts, MESSAGES, QMP, STARTED};
use bench::watch::cpu::{self, Cpu};

const LIMIT: Duration = Duration::from_secs(60);

fn start(command: &[&str]) -> Result<Watched> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Error::new("there is no command to watch"));
    };
    // An earlier QEMU may have left its socket.
    let _ = fs::remove_file(QMP);
    let messages = File::create(MESSAGES).context("make a file for messages")?;
    let mut command = Command::new(program);
    command.args(arguments);
    Watched::start(&mut command, Input::None, Stdio::from(messages))
}

/// Runs a VMM, and prints each line of its guest. Ends the VMM after the guest's line `stop`. Fails
/// if the guest ends before that line.
pub fn watch(id: &str, counter: Counter, stop: &str, command: &[&str]) -> Result<()> {
    let mut vmm = start(command)?;
    let mut open: Option<(String, Snapshot)> = None;
    let mut stopped = false;
    while let Some((line, at)) = vmm.line(LIMIT)? {
        let Some(fact) = line.split_once("L2: ").map(|(_, fact)| fact) else {
            continue;
        };
        if let Some(name) = fact.strip_prefix("begin ") {
            open = Some((name.to_owned(), Snapshot::take(&vmm, counter)?));
        } else if fact == "end" {
            let now = Snapshot::take(&vmm, counter)?;
            if let Some((name, before)) = open.take() {
                println!("LAB: window {id} {name} {}", now.since(&before));
            }
        } else {
            println!("LAB: watched {id} at={:.3} {fact}", at.as_secs_f64() * 1e3);
        }
        let word = fact.split(' ').next();
        if word == Some("failed") {
            return Err(Error::new(format!("{id}: the guest {fact}")));
        }
        if word == Some(stop) {
            stopped = true;
            break;
        }
    }
    if !stopped {
        let said = last_words(Path::new(MESSAGES));
        return Err(Error::new(format!(
            "{id}: the guest never said {stop:?}; its VMM said: {said}"
        )));
    }
    say_counts(id, counter, &vmm)?;
    let memory = vmm.memory()?;
    println!(
        "LAB: memory {id} private={} dirty={}",
        memory.dirty + memory.clean,
        memory.dirty
    );
    vmm.end()
}

fn say_counts(id: &str, counter: Counter, vmm: &Watched) -> Result<()> {
    let mut counts = counter.ask(vmm.pid())?;
    if let Some(main) = counts.remove(STARTED) {
        let before = Duration::from_micros(main).saturating_sub(vmm.started_monotonic());
        let micros = u64::try_from(before.as_micros()).context("count microseconds")?;
        counts.insert("phase.before_main".into(), micros);
    }
    if !counts.is_empty() {
        println!("LAB: counts {id} {}", words(&counts));
    }
    Ok(())
}

/// Runs a guest of `bench::tiny` until the guest has written its mark `count` times. Prints the
/// time of each mark.
pub fn marks(id: &str, counter: Counter, count: usize, command: &[&str]) -> Result<()> {
    let mut vmm = start(command)?;
    let mut times = String::new();
    for _ in 0..count {
        let at = vmm.until(&[tiny::MARK], LIMIT).map_err(|error| {
            let said = last_words(Path::new(MESSAGES));
            Error::new(format!("{id}: {error}; its VMM said: {said}"))
        })?;
        times.push_str(&format!(" {:.3}", at.as_secs_f64() * 1e3));
    }
    println!("LAB: marks {id}{times}");
    if counter == Counter::Stats && command.contains(&"--vfio") {
        wait_for_maps(counter, &vmm)?;
    }
    say_counts(id, counter, &vmm)?;
    vmm.end()?;
    let said = fs::read_to_string(MESSAGES).context("read the VMM's messages")?;
    if let Some(micros) = unmapped(&said) {
        println!("LAB: ended {id} unmapped={micros}");
    }
    Ok(())
}

/// Waits until mini-vmm has mapped the guest's memory for its devices. The guest may start before.
fn wait_for_maps(counter: Counter, vmm: &Watched) -> Result<()> {
    let begun = Instant::now();
    while !counter.ask(vmm.pid())?.contains_key("phase.map_dma") {
        if begun.elapsed() > LIMIT {
            return Err(Error::new("the VMM maps no memory for its device"));
        }
    }
    Ok(())
}

/// The time of unmapping the guest's memory in microseconds, from mini-vmm's messages with `-v`.
fn unmapped(said: &str) -> Option<u64> {
    let (_, rest) = said.split_once("unmapped for DMA in ")?;
    rest.split_once(" us")?.0.parse().ok()
}

struct Snapshot {
    at: Instant,
    cpu: Cpu,
    counts: Counts,
}

impl Snapshot {
    fn take(vmm: &Watched, counter: Counter) -> Result<Self> {
        // Exits for the guest's last line may still follow the line's last character.
        std::thread::sleep(Duration::from_millis(100));
        Ok(Self {
            counts: counter.ask(vmm.pid())?,
            cpu: cpu::of(vmm.pid())?,
            at: Instant::now(),
        })
    }

    /// The difference from an earlier snapshot, as words of "name=value". Times are in
    /// microseconds.
    fn since(&self, before: &Self) -> String {
        let micros = |now: Duration, then: Duration| now.saturating_sub(then).as_micros();
        let counts = self.counts.iter().map(|(name, now)| {
            let then = before.counts.get(name).copied().unwrap_or(0);
            (name.clone(), now.saturating_sub(then))
        });
        format!(
            "wall={} vcpus={} others={} {}",
            (self.at - before.at).as_micros(),
            micros(self.cpu.vcpus, before.cpu.vcpus),
            micros(self.cpu.others, before.cpu.others),
            words(&counts.collect())
        )
    }
}

/// Counters that the bench looks up by name. These are printed even if they are zero: otherwise a
/// median would be taken of the other rounds only. Other counters are printed only if they are
/// above zero, because the serial line is slow.
const ASKED: [&str; 10] = [
    "pio",
    "mmio",
    "other",
    "exits",
    "irq_exits",
    "irq_window_exits",
    "halt_exits",
    "io_exits",
    "mmio_exits",
    "irq_injections",
];

fn words(counts: &Counts) -> String {
    let words: Vec<String> = counts
        .iter()
        .filter(|(name, value)| **value > 0 || ASKED.contains(&name.as_str()))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_is_asked_for_is_said_where_it_is_zero() {
        let counts = [("halt_exits", 0), ("pio", 0), ("hypercalls", 0), ("l1d", 2)];
        let counts = counts.map(|(name, count)| (name.to_owned(), count));
        assert_eq!(words(&Counts::from(counts)), "halt_exits=0 l1d=2 pio=0");
    }

    #[test]
    fn the_vmms_words_on_unmapping_are_understood() {
        let said = " INFO exits\n INFO the guest's memory was unmapped for DMA in 1234 us\n";
        assert_eq!(unmapped(said), Some(1234));
        assert_eq!(unmapped("mini-vmm: statistics are in x"), None);
    }
}
