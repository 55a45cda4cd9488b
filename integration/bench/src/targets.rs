//! The targets of the project, and whether a run reached them. Each figure is computed from the
//! run's own samples. A target has no figure if the run did not measure it.

use crate::figures::figure;
use crate::names::{
    BOOT_RAM, BOOT_WITH_DISK, DISK_ALONE, EXITS_TO_KVM, EXITS_TO_VMM, FILLED, FLOOR, FLOORS,
    HOST_INTERRUPTS, IN_ORDER, INJECTED, LEAST, MAPPED, NATIVE, ONE_AT_A_TIME, OTHER_EXITS,
    PROGRAM, READS, SIDE_BY_SIDE, START, START_IN_LAB, SUBJECT, UNCONFINED, WINDOWS,
};
use crate::results::{Results, Target};
use crate::stats::{Summary, slope};

const PAGES: [&str; 4] = ["4 KiB", "transparent huge", "2 MiB", "1 GiB"];

/// All targets.
pub fn targets(results: &Results) -> Vec<Target> {
    let run = Run(results);
    let fixed = FIXED.map(|(target, found)| (target.to_owned(), found(&run)));
    fixed
        .into_iter()
        .chain(run.growth())
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

/// Whether the target was reached, and the figure that decides; `None` if the run did not measure
/// it.
type Found = Option<(bool, String)>;

/// Judges one target.
type Judge = fn(&Run<'_>) -> Found;

/// The targets that do not concern growth, each with its judge.
const FIXED: [(&str, Judge); 13] = [
    (
        "first instruction at most 1.6 times the bare calls', 512 MiB",
        |run| run.floor(SUBJECT, 1.6),
    ),
    (
        "first instruction without the sandbox at most 1.35 times the bare calls', 512 MiB",
        |run| run.floor(UNCONFINED, 1.35),
    ),
    ("first instruction before every peer, 512 MiB", |run| {
        run.peers()
    }),
    (
        "to `/init` with an NVMe disk at most 0.6 of Cloud Hypervisor's time",
        |run| run.init("cloud-hypervisor", 0.6),
    ),
    (
        "to `/init` with an NVMe disk at most 0.4 of QEMU's time",
        |run| run.init("QEMU q35", 0.4),
    ),
    (
        "the disk's share of that at most its opening (a reset), the filling of RAM (the bare \
         calls' or its own, whichever is less), and 20 ms",
        |run| run.disk_alone(),
    ),
    ("no exit to the VMM for any read", |run| run.exits_to_vmm()),
    (
        "exits to KVM for each read alone below 1.1, or below QEMU's",
        |run| run.exits_to_kvm(),
    ),
    (
        "with `idle=native` at most 0.05 exits for each read that are for no interrupt",
        |run| run.interrupts(),
    ),
    (
        "port and MMIO exits of a boot with the disk below 500",
        |run| run.boot_exits(),
    ),
    (
        "mapping for DMA at most 1.1 times the bare calls' best on the same pages",
        |run| run.maps(),
    ),
    ("memory of the VMM with one device at most 5 MiB", |run| {
        run.memory()
    }),
    ("program static and at most 6 MiB", |run| run.program()),
];

/// The results of one run.
struct Run<'a>(&'a Results);

impl Run<'_> {
    /// Looks up the samples of this work, point, quantity and subject, and summarises them.
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
        self.median(START, Some(("MiB", 512.0)), "time", subject)
    }

    fn floor(&self, subject: &str, most: f64) -> Found {
        let (ours, floor) = (self.start(subject)?, self.start(FLOOR)?);
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
        Some((ratio <= most, told))
    }

    /// Compares mini-vmm with all VMMs of the run. The fastest of them decides.
    fn peers(&self) -> Found {
        let ours = self.start(SUBJECT)?;
        let mut peers: Vec<(f64, &str)> = self
            .0
            .subjects(1)
            .into_iter()
            .filter(|name| ![SUBJECT, UNCONFINED, FLOOR, LEAST].contains(name))
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
        let to = |subject| self.median(BOOT_WITH_DISK, None, "to /init", subject);
        let ratio = to(SUBJECT)? / to(peer)?;
        Some((ratio <= most, format!("×{}", figure(ratio))))
    }

    /// The time for filling RAM is the bare calls' time, because mini-vmm's own phase also waits
    /// for the rest of the start. With fragmented memory the bare calls may take longer than the
    /// phase. The phase's time is used then.
    fn disk_alone(&self) -> Found {
        let of = |quantity| self.median(BOOT_WITH_DISK, None, quantity, SUBJECT);
        let (alone, open) = (of(DISK_ALONE)?, of("phase open device")?);
        let bare = self.median(BOOT_RAM, None, FILLED, FLOORS[0].1)?;
        let fill = bare.min(of("phase populate ram")?);
        let most = open + fill + 20.0;
        let told = format!(
            "{} ms of {} ms ({} + {} + 20)",
            figure(alone),
            figure(most),
            figure(open),
            figure(fill)
        );
        Some((alone <= most, told))
    }

    fn exits_to_vmm(&self) -> Found {
        let works = [ONE_AT_A_TIME, SIDE_BY_SIDE, IN_ORDER];
        let all: Option<Vec<Summary>> = works
            .into_iter()
            .map(|work| self.summary(work, None, EXITS_TO_VMM, SUBJECT))
            .collect();
        let most: Vec<String> = all.as_ref()?.iter().map(|s| figure(s.max)).collect();
        let rounds = all.as_ref()?.first()?.count;
        let reads = self.0.about.get(READS).map_or("?", String::as_str);
        let told = format!(
            "{} (alone, 32 at a time, in order; the most in any of {rounds} rounds of {reads} \
             small reads)",
            most.join(", ")
        );
        Some((all?.iter().all(|s| s.max == 0.0), told))
    }

    fn exits_to_kvm(&self) -> Found {
        let ours = self.median(ONE_AT_A_TIME, None, EXITS_TO_KVM, SUBJECT)?;
        let qemu = self.median(ONE_AT_A_TIME, None, EXITS_TO_KVM, "QEMU q35");
        let told = qemu.map_or(String::new(), |qemu| format!("; QEMU q35 {}", figure(qemu)));
        let below = ours < 1.1 || qemu.is_some_and(|qemu| ours < qemu);
        Some((below, format!("{}{told}", figure(ours))))
    }

    /// Without posted interrupts, each interrupt of the disk causes an exit for the host's
    /// interrupt. If the guest's interrupts are off at that moment, a second exit follows. Each
    /// read causes one interrupt. All other interrupts come from the guest's clock, and the text
    /// names them separately.
    fn interrupts(&self) -> Found {
        let of = |quantity| self.median(ONE_AT_A_TIME, None, quantity, NATIVE);
        let (all, host, windows, rest) = (
            of(EXITS_TO_KVM)?,
            of(HOST_INTERRUPTS)?,
            of(WINDOWS)?,
            of(OTHER_EXITS)?,
        );
        let clock = of(INJECTED).map_or(0.0, |all| (all - 1.0).max(0.0));
        let told = format!(
            "{}: {} host interrupts, {} to deliver the guest's, {} others; {} interrupts of the \
             guest's clock",
            figure(all),
            figure(host),
            figure(windows),
            figure(rest),
            figure(clock)
        );
        Some((rest <= 0.05, told))
    }

    fn boot_exits(&self) -> Found {
        let of = |kind: &str| {
            self.median(
                BOOT_WITH_DISK,
                None,
                &format!("exits to the VMM, {kind}"),
                SUBJECT,
            )
        };
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
                // The best of both interfaces and of all numbers of threads that fill the RAM.
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
        let mib = self.median(
            BOOT_WITH_DISK,
            None,
            "memory of the VMM itself, private",
            SUBJECT,
        )?;
        Some((mib <= 5.0, format!("{} MiB", figure(mib))))
    }

    fn program(&self) -> Found {
        let told = self.0.about.get(PROGRAM)?;
        let mib: f64 = told.split_once(" MiB")?.0.parse().ok()?;
        Some((mib <= 6.0 && told.ends_with("static"), told.clone()))
    }

    /// The targets for growth: a start with 4 vCPUs or devices takes at most 1.1 times as long as a
    /// start with 1. With memory, the start's slope is at most about that of the bare calls.
    fn growth(&self) -> Vec<(String, Found)> {
        let flat = |work, axis, at: &str| {
            let target = format!("start with 4 {axis} at most 1.1 times that with 1, {at}");
            (target, self.flat(work, axis))
        };
        let steep = |work, at: &str| {
            let target = format!(
                "start grows with memory at most 1.1 times as fast as the bare calls', and by 1 % \
                 of their start more for each GiB, {at}"
            );
            (target, self.steep(work))
        };
        let grown = |work, at: &str| {
            let target = format!(
                "start grows from 1 vCPU to 4 at most 1.05 times as much as the bare calls', {at}"
            );
            (target, self.grown(work))
        };
        vec![
            grown(START, "on /dev/kvm"),
            grown(START_IN_LAB, "in the lab with a disk"),
            flat(START, "vCPUs", "on /dev/kvm"),
            flat(START_IN_LAB, "vCPUs", "in the lab with a disk"),
            flat(START_IN_LAB, "devices", "in the lab"),
            steep(START, "on /dev/kvm"),
            steep(START_IN_LAB, "in the lab with a disk"),
        ]
    }

    /// The times with 4 vCPUs as multiples of those with 1, and what the vCPUs add in milliseconds.
    fn grown(&self, work: &str) -> Found {
        let of = |subject| {
            let at = |value| self.median(work, Some(("vCPUs", value)), "time", subject);
            Some((at(1.0)?, at(4.0)?))
        };
        let (ours, bare) = (of(SUBJECT)?, of(FLOOR)?);
        let factor = |(one, four): (f64, f64)| four / one;
        let added = |(one, four): (f64, f64)| figure(four - one);
        let grown = factor(ours) / factor(bare);
        let told = format!(
            "×{}: ×{} and ×{} ({} and {} ms more)",
            figure(grown),
            figure(factor(ours)),
            figure(factor(bare)),
            added(ours),
            added(bare)
        );
        Some((grown <= 1.05, told))
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

    /// Whether mini-vmm's start time rises with the guest's memory at most 1.1 times as steeply as
    /// that of the bare calls. The slope of the bare calls may be zero or negative if there are few
    /// rounds. So the limit is higher by 1 % of the bare calls' start time with the least memory.
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
        // The start with the least memory.
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
