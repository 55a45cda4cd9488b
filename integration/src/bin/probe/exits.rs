//! How often a guest left for KVM, and for its VMM: each VMM is asked in its own way.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use lab::error::Context;
use lab::{Error, Result};
use serde_json::Value;

/// mini-vmm's messages, and QEMU's monitor, while they run.
pub const MESSAGES: &str = "/run/probe.messages";
/// Where QEMU listens.
pub const QMP: &str = "/run/probe.qmp";

/// How a VMM is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// It cannot be.
    None,
    /// SIGUSR1, which mini-vmm answers on its standard error.
    Signal,
    /// QEMU's machine protocol, query-stats.
    Qmp,
}

/// Counters by name.
pub type Counts = BTreeMap<String, u64>;

impl Counter {
    /// By its name in a script.
    pub fn of(word: &str) -> Result<Self> {
        match word {
            "none" => Ok(Self::None),
            "signal" => Ok(Self::Signal),
            "qmp" => Ok(Self::Qmp),
            _ => Err(Error::failed(format!("no such counter: {word}"))),
        }
    }

    /// Asks a VMM for all that it counts.
    pub fn ask(self, pid: u32) -> Result<Counts> {
        match self {
            Self::None => Ok(Counts::new()),
            Self::Signal => by_signal(pid),
            Self::Qmp => by_qmp(),
        }
    }
}

fn by_signal(pid: u32) -> Result<Counts> {
    let before = fs::read(MESSAGES).context("read the VMM's messages")?.len();
    let pid = i32::try_from(pid).context("name the process")?;
    // SAFETY: a signal to a child of ours that has not been waited for.
    unsafe { libc::kill(pid, libc::SIGUSR1) };
    let asked = Instant::now();
    let mut seen = 0;
    while asked.elapsed() < Duration::from_secs(2) {
        std::thread::sleep(Duration::from_millis(30));
        let bytes = fs::read(MESSAGES).context("read the VMM's messages")?;
        let text = String::from_utf8_lossy(&bytes[before.min(bytes.len())..]).into_owned();
        let counts = from_text(&text);
        // All of it is there when no more comes.
        if !counts.is_empty() && text.len() == seen {
            return Ok(counts);
        }
        seen = text.len();
    }
    Err(Error::failed("the VMM does not answer SIGUSR1"))
}

/// Words of "name=number".
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
    // The greeting, the capabilities, then the answer.
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
        let line = line.ok_or_else(|| Error::failed("QEMU's monitor said nothing"))?;
        said = serde_json::from_str(&line).context("understand QEMU's monitor")?;
    }
    Ok(from_stats(&said))
}

/// Counters of all vCPUs together; histograms are left out.
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
    fn both_ways_of_saying_it_are_understood() {
        let counts = from_text("exits pio=3 mmio=2 other=0 total=5\nirq 24: x\n");
        assert_eq!(counts["total"], 5);
        assert_eq!(counts.len(), 4);
        let said = serde_json::json!({"return": [
            {"provider": "kvm", "stats": [{"name": "exits", "value": 7}, {"name": "h", "value": [1, 2]}]},
            {"provider": "kvm", "stats": [{"name": "exits", "value": 5}]},
        ]});
        assert_eq!(from_stats(&said), Counts::from([("exits".into(), 12)]));
    }
}
