//! What the project set itself to reach, and whether this run did: every figure is made from the run's
//! own samples, and what the run did not measure has none.

use serde::{Deserialize, Serialize};

use crate::boots::{FILLED, RAM, SHARE, WITH};
use crate::growth;
use crate::kvm;
use crate::maps::MAPPED;
use crate::reads::{NATIVE, REST};
use crate::results::{FLOOR, FLOORS, LEAST, Results, SUBJECT};
use crate::stats::{Summary, slope};
use crate::tables::figure;

const ALONE: &str = "random 4 KiB reads, one at a time";
const EACH: &str = "exits to KVM for each read";
const HOST: &str = "of them host interrupts";
const WINDOWS: &str = "of them to wait for a moment to interrupt the guest";
const INJECTED: &str = "interrupts of the guest for each read";
/// Where a run tells how many reads of each small kind a round has.
pub const READS: &str = "reads of each kind in a round";
const PAGES: [&str; 4] = ["4 KiB", "transparent huge", "2 MiB", "1 GiB"];

/// A target, and how this run stands to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// What shall be.
    pub target: String,
    /// Whether it is; nothing where it was not measured.
    pub reached: Option<bool>,
    /// The figure that tells, with what it is held against; "-" where it was not measured.
    pub figure: String,
}

impl Target {
    /// "yes", "no", or "-".
    pub fn word(&self) -> &'static str {
        match self.reached {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        }
    }
}

/// All targets.
pub fn targets(results: &Results) -> Vec<Target> {
    let run = Run(results);
    let rows: Vec<(String, Option<(bool, String)>)> = [
        (
            "first instruction at most 1.5 times the bare calls', 512 MiB".into(),
            run.floor(),
        ),
        (
            "first instruction before every peer, 512 MiB".into(),
            run.peers(),
        ),
        (
            "to `/init` with an NVMe disk at most 0.6 of Cloud Hypervisor's time".into(),
            run.init("cloud-hypervisor", 0.6),
        ),
        (
            "to `/init` with an NVMe disk at most 0.4 of QEMU's time".into(),
            run.init("QEMU q35", 0.4),
        ),
        (
            "the disk's share of that at most its opening (a reset), the filling of RAM (the bare calls' or its own, whichever is less), and 20 ms"
                .into(),
            run.share(),
        ),
        ("no exit to the VMM for any read".into(), run.exits_to_vmm()),
        (
            "exits to KVM for each read alone below 1.1, or below QEMU's".into(),
            run.exits_to_kvm(),
        ),
        (
            "with `idle=native` at most 0.05 exits for each read that are for no interrupt".into(),
            run.interrupts(),
        ),
        (
            "port and MMIO exits of a boot with the disk below 500".into(),
            run.boot_exits(),
        ),
        (
            "mapping for DMA at most 1.1 times the bare calls' best on the same pages".into(),
            run.maps(),
        ),
        (
            "memory of the VMM with one device at most 5 MiB".into(),
            run.memory(),
        ),
        ("program static and at most 4 MiB".into(), run.program()),
    ]
    .into_iter()
    .chain(run.growth())
    .collect();
    rows.into_iter()
        .map(|(target, found)| match found {
            Some((reached, figure)) => Target {
                target,
                reached: Some(reached),
                figure,
            },
            None => Target {
                target,
                reached: None,
                figure: "-".into(),
            },
        })
        .collect()
}

struct Run<'a>(&'a Results);

type Found = Option<(bool, String)>;

impl Run<'_> {
    /// A row's figures by its work, place and quantity.
    fn summary(
        &self,
        work: &str,
        at: Option<(&str, f64)>,
        quantity: &str,
        subject: &str,
    ) -> Option<Summary> {
        let measure = self.0.measures.iter().find(|measure| {
            let row = measure.row();
            (row.work, row.at, row.quantity.0, measure.subject.as_str())
                == (work, at, quantity, subject)
        })?;
        measure.summary()
    }

    fn median(
        &self,
        work: &str,
        at: Option<(&str, f64)>,
        quantity: &str,
        subject: &str,
    ) -> Option<f64> {
        Some(self.summary(work, at, quantity, subject)?.median)
    }

    fn start(&self, subject: &str) -> Option<f64> {
        self.median(kvm::START, Some(("MiB", 512.0)), "time", subject)
    }

    fn floor(&self) -> Found {
        let (ours, floor) = (self.start(SUBJECT)?, self.start(FLOOR)?);
        let ratio = ours / floor;
        let mut told = format!(
            "×{}: {} ms, {} ms",
            figure(ratio),
            figure(ours),
            figure(floor)
        );
        if let Some(least) = self.start(LEAST) {
            told += &format!("; ×{} of those without CPUID", figure(ours / least));
        }
        Some((ratio <= 1.5, told))
    }

    /// Against all that were there; the nearest tells.
    fn peers(&self) -> Found {
        let ours = self.start(SUBJECT)?;
        let mut peers: Vec<(f64, &str)> = self
            .0
            .subjects(1)
            .into_iter()
            .filter(|name| ![SUBJECT, FLOOR, LEAST].contains(name))
            .filter_map(|name| Some((ours / self.start(name)?, name)))
            .collect();
        peers.sort_by(|a, b| b.0.total_cmp(&a.0));
        let told: Vec<String> = peers
            .iter()
            .map(|(ratio, name)| format!("×{} of {name}'s", figure(*ratio)))
            .collect();
        Some((peers.first()?.0 < 1.0, told.join(", ")))
    }

    fn init(&self, peer: &str, most: f64) -> Found {
        let to = |subject| self.median(WITH, None, "to /init", subject);
        let ratio = to(SUBJECT)? / to(peer)?;
        Some((ratio <= most, format!("×{}", figure(ratio))))
    }

    /// mini-vmm's own filling alone is no measure: it waits for the rest and goes on beside the guest. Where
    /// the bare calls' took longer, as with free memory in small pieces, they are none either.
    fn share(&self) -> Found {
        let of = |quantity| self.median(WITH, None, quantity, SUBJECT);
        let (share, open) = (of(SHARE)?, of("phase open device")?);
        let bare = self.median(RAM, None, FILLED, FLOORS[0].1)?;
        let fill = bare.min(of("phase populate ram")?);
        let most = open + fill + 20.0;
        let told = format!(
            "{} ms of {} ms ({} + {} + 20)",
            figure(share),
            figure(most),
            figure(open),
            figure(fill)
        );
        Some((share <= most, told))
    }

    fn exits_to_vmm(&self) -> Found {
        let works = [
            ALONE,
            "random 4 KiB reads, 32 at a time",
            "128 KiB reads in order",
        ];
        let all: Option<Vec<Summary>> = works
            .into_iter()
            .map(|work| self.summary(work, None, "exits to the VMM for all reads", SUBJECT))
            .collect();
        let most: Vec<String> = all.as_ref()?.iter().map(|s| figure(s.max)).collect();
        let rounds = all.as_ref()?.first()?.count;
        let reads = self.0.about.get(READS).map_or("?", String::as_str);
        let told = format!(
            "{} (alone, 32 at a time, in order; the most in any of {rounds} rounds of {reads} small reads)",
            most.join(", ")
        );
        Some((all?.iter().all(|s| s.max == 0.0), told))
    }

    fn exits_to_kvm(&self) -> Found {
        let ours = self.median(ALONE, None, EACH, SUBJECT)?;
        let qemu = self.median(ALONE, None, EACH, "QEMU q35");
        let told = qemu.map_or(String::new(), |qemu| format!("; QEMU q35 {}", figure(qemu)));
        let below = ours < 1.1 || qemu.is_some_and(|qemu| ours < qemu);
        Some((below, format!("{}{told}", figure(ours))))
    }

    /// Without posted interrupts each takes an exit of the host's, and another where the guest has its
    /// interrupts off just then. What the guest's own clock takes is told beside the rest: each read
    /// makes one interrupt, and all others are the clock's.
    fn interrupts(&self) -> Found {
        let of = |quantity| self.median(ALONE, None, quantity, NATIVE);
        let (all, host, windows, rest) = (of(EACH)?, of(HOST)?, of(WINDOWS)?, of(REST)?);
        let clock = of(INJECTED).map_or(0.0, |all| (all - 1.0).max(0.0));
        let told = format!(
            "{}: {} host interrupts, {} to deliver the guest's, {} others; {} interrupts of the guest's clock",
            figure(all),
            figure(host),
            figure(windows),
            figure(rest),
            figure(clock)
        );
        Some((rest <= 0.05, told))
    }

    fn boot_exits(&self) -> Found {
        let of =
            |kind: &str| self.median(WITH, None, &format!("exits to the VMM, {kind}"), SUBJECT);
        let (ports, mmio) = (of("ports")?, of("MMIO")?);
        let told = format!(
            "{} ({} + {})",
            figure(ports + mmio),
            figure(ports),
            figure(mmio)
        );
        Some((ports + mmio < 500.0, told))
    }

    fn maps(&self) -> Found {
        let ratios: Option<Vec<f64>> = PAGES
            .iter()
            .map(|pages| {
                let work = format!("1 GiB of RAM, {pages} pages");
                let is_floor = |subject: &str| FLOORS.iter().any(|(_, name)| *name == subject);
                // By either interface, whoever filled the RAM.
                let best = self
                    .0
                    .measures
                    .iter()
                    .filter(|m| m.work == work && m.quantity.starts_with(MAPPED))
                    .filter(|m| is_floor(&m.subject))
                    .filter_map(|m| Some(m.summary()?.median))
                    .min_by(f64::total_cmp)?;
                Some(self.median(&work, None, MAPPED, SUBJECT)? / best)
            })
            .collect();
        let ratios = ratios?;
        let told: Vec<String> = PAGES
            .iter()
            .zip(&ratios)
            .map(|(pages, ratio)| format!("×{} ({pages})", figure(*ratio)))
            .collect();
        Some((ratios.iter().all(|ratio| *ratio <= 1.1), told.join(", ")))
    }

    fn memory(&self) -> Found {
        let mib = self.median(WITH, None, "memory of the VMM itself, private", SUBJECT)?;
        Some((mib <= 5.0, format!("{} MiB", figure(mib))))
    }

    fn program(&self) -> Found {
        let told = self.0.about.get("mini-vmm's program")?;
        let mib: f64 = told.split_once(" MiB")?.0.parse().ok()?;
        Some((mib <= 4.0 && told.ends_with("static"), told.clone()))
    }

    /// Flat in vCPUs and devices; with memory no steeper than the bare calls.
    fn growth(&self) -> Vec<(String, Found)> {
        let flat = |work, axis, at: &str| {
            let target = format!("start with 4 {axis} at most 1.1 times that with 1, {at}");
            (target, self.flat(work, axis))
        };
        let steep = |work, at: &str| {
            let target = format!(
                "start grows with memory at most 1.1 times as fast as the bare calls', and by 1 % of their start more for each GiB, {at}"
            );
            (target, self.steep(work))
        };
        vec![
            flat(kvm::START, "vCPUs", "on /dev/kvm"),
            flat(growth::START, "vCPUs", "in the lab with a disk"),
            flat(growth::START, "devices", "in the lab"),
            steep(kvm::START, "on /dev/kvm"),
            steep(growth::START, "in the lab with a disk"),
        ]
    }

    fn flat(&self, work: &str, axis: &str) -> Found {
        let of = |subject| {
            let at = |value| self.median(work, Some((axis, value)), "time", subject);
            Some(at(4.0)? / at(1.0)?)
        };
        let ours = of(SUBJECT)?;
        let told = of(FLOOR).map_or(String::new(), |floor| {
            format!("; bare calls ×{}", figure(floor))
        });
        Some((ours <= 1.1, format!("×{}{told}", figure(ours))))
    }

    /// A slope of nothing, or below for want of rounds, has no multiple to hold another against: the
    /// share of a start is what counts as flat.
    fn steep(&self, work: &str) -> Found {
        let points = |subject: &str| -> Vec<(f64, f64)> {
            self.0
                .measures
                .iter()
                .filter(|m| m.part == 5 && m.work == work && m.subject == subject)
                .filter_map(|m| {
                    let at = m.at.as_ref().filter(|at| at.axis == "MiB")?;
                    Some((at.value / 1024.0, m.summary()?.median))
                })
                .collect()
        };
        let bare = points(FLOOR);
        let (ours, floor) = (slope(&points(SUBJECT))?, slope(&bare)?);
        // With the least memory.
        let start = bare.iter().min_by(|a, b| a.0.total_cmp(&b.0))?.1;
        let most = floor.max(0.0) * 1.1 + start * 0.01;
        let told = format!(
            "{} ms for each GiB of at most {} ms; bare calls {} ms",
            figure(ours),
            figure(most),
            figure(floor)
        );
        Some((ours <= most, told))
    }
}

#[cfg(test)]
mod tests;
