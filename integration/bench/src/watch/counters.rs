//! Counts the exits of a guest to KVM and to its VMM. Each VMM has its own way to read its
//! counters.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::{Context, Error, Result};
use crate::watch::process::last_words;

/// The file with the standard error of the running VMM.
pub const MESSAGES: &str = "/run/probe.messages";
/// The file of mini-vmm's statistics (docs/stats.md).
pub const STATS: &str = "/run/probe.stats";
/// QEMU's QMP socket.
pub const QMP: &str = "/run/probe.qmp";

/// The name of a counter: the time at which mini-vmm's `main` started, in microseconds of
/// CLOCK_MONOTONIC.
pub const STARTED: &str = "started_monotonic_us";

/// The way to read a VMM's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// The VMM has no counters.
    None,
    /// SIGUSR1: mini-vmm writes its counters to its standard error.
    Signal,
    /// SIGUSR1: mini-vmm with `--stats` writes its statistics to [`STATS`].
    Stats,
    /// QMP: QEMU answers the command query-stats at [`QMP`].
    Qmp,
}

/// Counters by name.
pub type Counts = BTreeMap<String, u64>;

impl Counter {
    /// The name of this way in a script.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Signal => "signal",
            Self::Stats => "stats",
            Self::Qmp => "qmp",
        }
    }

    /// Finds the way by its name in a script.
    pub fn of(word: &str) -> Result<Self> {
        [Self::None, Self::Signal, Self::Stats, Self::Qmp]
            .into_iter()
            .find(|counter| counter.word() == word)
            .ok_or_else(|| Error::new(format!("no such counter: {word}")))
    }

    /// Reads all counters of a VMM.
    pub fn ask(self, pid: u32) -> Result<Counts> {
        match self {
            Self::None => Ok(Counts::new()),
            Self::Signal => by_signal(pid),
            Self::Stats => by_stats(pid),
            Self::Qmp => by_qmp(),
        }
    }
}

fn signal(pid: u32) -> Result<()> {
    let pid = i32::try_from(pid).context("name the process")?;
    // SAFETY: a signal to a child of ours that has not been waited for.
    unsafe { libc::kill(pid, libc::SIGUSR1) };
    Ok(())
}

fn by_stats(pid: u32) -> Result<Counts> {
    let before = times_written()?;
    signal(pid)?;
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(10));
        if times_written()? > before {
            let text = fs::read_to_string(STATS).context("read the VMM's statistics")?;
            let report = serde_json::from_str(&text).context("understand the VMM's statistics")?;
            return Ok(from_report(&report));
        }
    }
    let said = last_words(Path::new(MESSAGES));
    Err(Error::new(format!(
        "the VMM writes no statistics on SIGUSR1; it said: {said}"
    )))
}

/// Counts mini-vmm's messages that a report has been written.
fn times_written() -> Result<usize> {
    let text = fs::read_to_string(MESSAGES).context("read the VMM's messages")?;
    Ok(text.matches("statistics are in").count())
}

/// The exits, the sums of KVM's counters over all vCPUs, and the microseconds of the phases and of
/// mapping.
fn from_report(report: &Value) -> Counts {
    let mut counts = Counts::new();
    let mut add = |name: String, value: &Value| {
        if let Some(value) = value.as_u64() {
            *counts.entry(name).or_default() += value;
        }
    };
    let reasons = report["exits"]["by_reason"].as_object();
    for (reason, value) in reasons.into_iter().flatten() {
        let kind = ["pio", "mmio"]
            .into_iter()
            .find(|kind| reason.starts_with(kind))
            .unwrap_or("other");
        add(kind.into(), value);
    }
    for vcpu in report["kvm"]["vcpus"].as_array().into_iter().flatten() {
        for (name, value) in vcpu.as_object().into_iter().flatten() {
            add(name.clone(), value);
        }
    }
    add_phases(report, &mut add);
    add("dma.ram".into(), &report["dma"]["ram"]["us"]);
    if let Some(ns) = report["started_monotonic_ns"].as_u64() {
        counts.insert(STARTED.into(), ns / 1000);
    }
    counts
}

/// Adds the microseconds of each phase as "phase.NAME". If a phase ends after the guest's first
/// run, adds the part before the first run as "ahead.NAME".
fn add_phases(report: &Value, add: &mut dyn FnMut(String, &Value)) {
    let phases = || report["phases"].as_array().into_iter().flatten();
    let first_run = phases()
        .find(|phase| phase["name"] == "first_run")
        .and_then(|phase| phase["end_us"].as_u64());
    for phase in phases() {
        if let (Some(name), Some(start), Some(end)) = (
            phase["name"].as_str(),
            phase["start_us"].as_u64(),
            phase["end_us"].as_u64(),
        ) {
            add(format!("phase.{name}"), &end.saturating_sub(start).into());
            // The last vCPU always starts after the first vCPU runs.
            if let Some(run) = first_run.filter(|run| end > *run && name != "start_vcpus") {
                add(format!("ahead.{name}"), &run.saturating_sub(start).into());
            }
            if name == "first_run" {
                add("phase.main_to_first_run".into(), &end.into());
            }
        }
    }
}

fn by_signal(pid: u32) -> Result<Counts> {
    let before = fs::read(MESSAGES).context("read the VMM's messages")?.len();
    signal(pid)?;
    let asked = Instant::now();
    let mut seen = 0;
    while asked.elapsed() < Duration::from_secs(2) {
        std::thread::sleep(Duration::from_millis(30));
        let bytes = fs::read(MESSAGES).context("read the VMM's messages")?;
        let text = String::from_utf8_lossy(&bytes[before.min(bytes.len())..]).into_owned();
        let counts = from_text(&text);
        // The answer is complete when its length no longer grows.
        if !counts.is_empty() && text.len() == seen {
            return Ok(counts);
        }
        seen = text.len();
    }
    Err(Error::new("the VMM does not answer SIGUSR1"))
}

/// Parses words of "name=number".
fn from_text(text: &str) -> Counts {
    text.split_whitespace()
        .filter_map(|word| {
            let (name, value) = word.split_once('=')?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect()
}

fn by_qmp() -> Result<Counts> {
    let stream = UnixStream::connect(Path::new(QMP)).context("reach QEMU's monitor")?;
    let patience = Some(Duration::from_secs(2));
    stream
        .set_read_timeout(patience)
        .context("limit QEMU's time")?;
    let mut lines = BufReader::new(stream.try_clone().context("copy a socket")?).lines();
    let mut stream = stream;
    // QEMU sends a greeting, the answer to qmp_capabilities, and then the statistics.
    let mut said = Value::Null;
    for ask in [
        "",
        r#"{"execute":"qmp_capabilities"}"#,
        r#"{"execute":"query-stats","arguments":{"target":"vcpu"}}"#,
    ] {
        stream
            .write_all(ask.as_bytes())
            .context("ask QEMU's monitor")?;
        let line = lines.next().transpose().context("hear QEMU's monitor")?;
        let line = line.ok_or_else(|| Error::new("QEMU's monitor said nothing"))?;
        said = serde_json::from_str(&line).context("understand QEMU's monitor")?;
    }
    Ok(from_stats(&said))
}

/// Sums the counters over all vCPUs. Leaves histograms out.
fn from_stats(said: &Value) -> Counts {
    let mut counts = Counts::new();
    let vcpus = said["return"].as_array().into_iter().flatten();
    for entry in vcpus.flat_map(|vcpu| vcpu["stats"].as_array().into_iter().flatten()) {
        if let (Some(name), Some(value)) = (entry["name"].as_str(), entry["value"].as_u64()) {
            *counts.entry(name.to_owned()).or_default() += value;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_summed_up() {
        let report = serde_json::json!({
            "exits": {
                "total": 7,
                "by_reason": {"pio_in": 1, "pio_out": 2, "mmio_read": 4, "halt": 0},
            },
            "kvm": {"vcpus": [{"exits": 5, "halts": [1]}, {"exits": 6}]},
            "phases": [
                {"name": "open_device", "device": "a", "start_us": 10, "end_us": 15},
                {"name": "first_run", "device": null, "start_us": 40, "end_us": 40},
                {"name": "map_dma", "device": null, "start_us": 30, "end_us": 90},
                {"name": "late", "device": null, "start_us": 50, "end_us": 60},
            ],
            "dma": {"ram": {"maps": 1, "us": 9}},
            "started_monotonic_ns": 7_001_000,
        });
        let counts = from_report(&report);
        assert_eq!((counts["pio"], counts["mmio"], counts["other"]), (3, 4, 0));
        assert_eq!((counts["exits"], counts["dma.ram"]), (11, 9));
        assert_eq!(counts[STARTED], 7001);
        assert_eq!(counts["phase.open_device"], 5);
        assert_eq!(counts["phase.main_to_first_run"], 40);
        assert_eq!((counts["phase.map_dma"], counts["ahead.map_dma"]), (60, 10));
        assert_eq!((counts["phase.late"], counts["ahead.late"]), (10, 0));
        assert_eq!(counts.get("ahead.open_device"), None);
    }

    #[test]
    fn both_ways_of_saying_it_are_understood() {
        let counts = from_text("exits pio=3 mmio=2 other=0 total=5\nirq 24: x\n");
        assert_eq!(counts["total"], 5);
        assert_eq!(counts.len(), 4);
        let said = serde_json::json!({"return": [
            {"provider": "kvm", "stats": [
                {"name": "exits", "value": 7},
                {"name": "h", "value": [1, 2]},
            ]},
            {"provider": "kvm", "stats": [{"name": "exits", "value": 5}]},
        ]});
        assert_eq!(from_stats(&said), Counts::from([("exits".into(), 12)]));
    }
}
