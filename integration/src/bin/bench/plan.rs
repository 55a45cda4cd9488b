//! What is to be measured, with which programs, for how long.

use std::env;
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::error::Context;
use lab::host;
use lab::progress::Step;
use lab::vmm;
use lab::{Error, Result};

use crate::peers::{self, Kind, Peer};
use crate::results::SUBJECT;

/// The whole of it.
#[derive(Debug)]
pub struct Plan {
    parts: Vec<u8>,
    /// mini-vmm first, then its peers.
    pub peers: Vec<Peer>,
    /// Whether this mini-vmm tells its phases (`--stats`).
    pub stats: bool,
    /// Whether it can be told which pages to take (`--memory`'s `hugepages=`).
    pub hugepages: bool,
    /// Whether its vCPUs can halt in the guest (`--cpus`'s `idle=`).
    pub idle: bool,
    /// The bare calls.
    pub floor: PathBuf,
    /// What runs in L1 and L2.
    pub probe: PathBuf,
    /// Rounds of what takes seconds.
    pub rounds: usize,
    /// Rounds of what takes milliseconds.
    pub quick_rounds: usize,
    /// Reads of each kind in a guest.
    pub reads: usize,
    /// How long a part may take in the lab.
    pub budget: Duration,
}

impl Plan {
    /// From BENCH, PEERS, BENCH_ROUNDS, BENCH_SECONDS and BENCH_READS; builds what has to be built.
    pub fn make() -> Result<Self> {
        let parts = parts(&text("BENCH"))?;
        let rounds = number("BENCH_ROUNDS", 10)?;
        let budget = Duration::from_secs(number("BENCH_SECONDS", 200)? as u64);
        let reads = number("BENCH_READS", 5000)?;
        let others = peers::parse(&text("PEERS"))?;
        let vmm = vmm::build()?.vmm;
        let step = Step::start("building static programs: the bare calls, and the lab's probe");
        let floor = vmm::program("lab", "floor")?;
        let probe = vmm::program("lab", "probe")?;
        step.done();
        // Pages of a file that is not on its disk yet count as written to by whoever maps them.
        for program in [&vmm, &floor, &probe] {
            let synced = File::open(program).and_then(|file| file.sync_all());
            synced.context(format!("write {} to its disk", program.display()))?;
        }
        let help = host::output(Command::new(&vmm).arg("--help"))?;
        let mut peers = vec![Peer {
            name: SUBJECT.into(),
            kind: Kind::MiniVmm,
            program: vmm,
        }];
        if let Some(qemu) = host::program("qemu-system-x86_64") {
            for (name, kind) in [
                ("QEMU microvm", Kind::QemuMicrovm),
                ("QEMU q35", Kind::QemuQ35),
            ] {
                peers.push(Peer {
                    name: name.into(),
                    kind,
                    program: qemu.clone(),
                });
            }
        }
        peers.extend(others);
        Ok(Self {
            parts,
            peers,
            stats: help.contains("--stats"),
            hugepages: help.contains("hugepages="),
            idle: help.contains("idle="),
            floor,
            probe,
            rounds,
            quick_rounds: 3 * rounds,
            reads,
            budget,
        })
    }

    /// One with nothing but mini-vmm, which can do all of it.
    #[cfg(test)]
    pub fn example() -> Self {
        Self {
            parts: (1..=5).collect(),
            peers: vec![Peer {
                name: SUBJECT.into(),
                kind: Kind::MiniVmm,
                program: "/bin/true".into(),
            }],
            stats: true,
            hugepages: true,
            idle: true,
            floor: "/bin/true".into(),
            probe: "/bin/true".into(),
            rounds: 1,
            quick_rounds: 1,
            reads: 1,
            budget: Duration::ZERO,
        }
    }

    /// Whether a part is asked for.
    pub fn has(&self, part: u8) -> bool {
        self.parts.contains(&part)
    }

    /// Does something so many times, shown.
    pub fn rounds(&self, what: &str, count: usize, mut round: impl FnMut(usize)) {
        let step = Step::start(format!("{what}, {count} rounds"));
        let started = Instant::now();
        for n in 0..count {
            step.at(&format!(
                "round {} of {count}, {:.0} s",
                n + 1,
                started.elapsed().as_secs_f64()
            ));
            round(n);
        }
        step.done();
    }
}

fn text(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

fn number(name: &str, otherwise: usize) -> Result<usize> {
    match text(name).as_str() {
        "" => Ok(otherwise),
        word => word.parse().context(format!("read {name}={word:?}")),
    }
}

/// "1,3" as parts; nothing is all of them.
fn parts(text: &str) -> Result<Vec<u8>> {
    if text.is_empty() {
        return Ok((1..=5).collect());
    }
    text.split(',')
        .map(|word| match word.trim().parse() {
            Ok(part @ 1..=5) => Ok(part),
            _ => Err(Error::cannot_run(
                format!("BENCH holds {word:?}, and the bench has parts 1 to 5"),
                "BENCH=1,3 make bench",
            )),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_numbers_of_one_to_five() {
        assert_eq!(parts("").unwrap(), [1, 2, 3, 4, 5]);
        assert_eq!(parts("3, 1").unwrap(), [3, 1]);
        for bad in ["0", "6", "x", "1,,2"] {
            assert!(parts(bad).is_err(), "{bad}");
        }
    }
}
