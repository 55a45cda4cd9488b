//! Part 5, in the lab: what a start costs with more devices, vCPUs and memory, and what a reset costs.
//! The guests are of a few bytes (`lab::tiny`), so that all of the time is the VMM's and the kernel's.

use lab::Result;
use lab::disk::Disk;

use crate::peers::{Guest, Kind, Peer};
use crate::plan::Plan;
use crate::results::{Key, Results, SUBJECT};
use crate::session::{Facts, Session, at, command, machine, resetting, subjects};

const START: &str = "first instruction with NVMe disks";
const USUAL: u32 = 512;

/// One start.
struct Run<'a> {
    peer: &'a Peer,
    axis: Option<&'static str>,
    value: u32,
    cpus: u32,
    mib: u32,
    devices: usize,
}

/// Measures, and adds to the results.
pub fn run(plan: &Plan, results: &mut Results) -> Result<()> {
    let disks = ["bench1", "bench2", "bench3", "bench4"];
    let disks: Vec<Disk> = (5..)
        .zip(disks)
        .map(|(n, serial)| Disk::new(serial, n))
        .collect();
    let bdfs: Vec<String> = disks.iter().map(Disk::bdf).collect();
    let bdfs: Vec<&str> = bdfs.iter().map(String::as_str).collect();
    let runs = runs(plan);
    let mut round = String::new();
    for (id, run) in runs.iter().enumerate() {
        let reset = run.axis.is_none();
        let kernel = resetting(run.peer);
        let guest = Guest {
            kernel: if reset { &kernel } else { at::tiny() },
            initrd: None,
            cmdline: "",
            cpus: run.cpus,
            mib: run.mib,
            devices: &bdfs[..run.devices],
        };
        let marks = if reset { 2 } else { 1 };
        let line = command(run.peer, &guest);
        round.push_str(&format!("probe marks {id} none {marks} -- {line} || :\n"));
    }
    let mut l1 = machine(&disks);
    l1.memory = 5632;
    let session = Session {
        name: "bench-growth",
        machine: l1,
        before: bdfs
            .iter()
            .map(|bdf| format!("bind_vfio {bdf}\n"))
            .collect(),
        round,
    };
    let facts = session.run(plan, "part 5, more devices, vCPUs and memory")?;
    take(&facts, &runs, results);
    Ok(())
}

/// mini-vmm along every axis; the others, whose firmware takes seconds, along that of devices, and
/// all reset.
fn runs(plan: &Plan) -> Vec<Run<'_>> {
    let mut runs = Vec::new();
    for devices in 0..=4_u32 {
        for peer in subjects(plan) {
            runs.push(Run {
                peer,
                axis: Some("devices"),
                value: devices,
                cpus: 1,
                mib: USUAL,
                devices: devices as usize,
            });
        }
    }
    for peer in subjects(plan) {
        if peer.kind.reset().is_some() {
            runs.push(Run {
                peer,
                axis: None,
                value: 0,
                cpus: 1,
                mib: USUAL,
                devices: 1,
            });
        }
        if peer.kind != Kind::MiniVmm {
            continue;
        }
        for cpus in 1..=4 {
            runs.push(Run {
                peer,
                axis: Some("vCPUs"),
                value: cpus,
                cpus,
                mib: USUAL,
                devices: 1,
            });
        }
        for mib in [256, 512, 1024, 2048, 4096] {
            runs.push(Run {
                peer,
                axis: Some("MiB"),
                value: mib,
                cpus: 1,
                mib,
                devices: 1,
            });
        }
    }
    runs
}

fn take(facts: &Facts, runs: &[Run<'_>], results: &mut Results) {
    for fact in facts.iter().filter(|fact| fact.kind == "marks") {
        let Some(run) = runs.get(fact.run) else {
            continue;
        };
        let times: Vec<f64> = fact
            .rest
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let (work, sample) = match (run.axis, times.as_slice()) {
            (Some(_), [first]) => (START, *first),
            (None, [first, second]) => {
                ("reset to first instruction, one NVMe disk", second - first)
            }
            _ => continue,
        };
        let key = Key {
            part: 5,
            work,
            at: run.axis.map(|axis| (axis, run.value.into())),
            quantity: ("time", "ms"),
        };
        results.add(&key, &run.peer.name, sample);
    }
    for why in &facts.failures {
        results.missing.push(format!("part 5, a run: {why}"));
    }
    results.missing.push(format!(
        "part 5, vCPUs and memory in the lab of others than {SUBJECT}: their firmware takes seconds there"
    ));
}
