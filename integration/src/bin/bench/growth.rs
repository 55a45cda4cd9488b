//! Part 5, in the lab: what a start costs with more devices, vCPUs and memory, and what a reset costs.
//! The guests are of a few bytes (`lab::tiny`), so that all of the time is the VMM's and the kernel's.
//! The bare calls open the devices, fill the RAM and map it as well, and only then run their guest.

use lab::Result;
use lab::disk::Disk;

use crate::peers::{Guest, Kind, Peer};
use crate::plan::Plan;
use crate::results::{FLOOR, Key, Results, SUBJECT};
use crate::session::{Facts, Session, at, command, machine, resetting, subjects};

/// The work.
pub const START: &str = "first instruction with NVMe disks";
const USUAL: u32 = 512;

/// One start.
struct Run<'a> {
    /// Nobody: the bare calls.
    peer: Option<&'a Peer>,
    axis: Option<&'static str>,
    value: u32,
    cpus: u32,
    mib: u32,
    devices: usize,
}

impl<'a> Run<'a> {
    fn name(&self) -> &'a str {
        self.peer.map_or(FLOOR, |peer| &peer.name)
    }

    /// The usual guest with a device, and so much of one thing.
    fn at(peer: Option<&'a Peer>, axis: &'static str, value: u32) -> Self {
        let or = |name, usual| if axis == name { value } else { usual };
        Self {
            peer,
            axis: Some(axis),
            value,
            cpus: or("vCPUs", 1),
            mib: or("MiB", USUAL),
            devices: or("devices", 1) as usize,
        }
    }
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
        let devices = &bdfs[..run.devices];
        let Some(peer) = run.peer else {
            let (mib, cpus, devices) = (run.mib, run.cpus, devices.join(" "));
            round.push_str(&format!(
                "probe marks {id} none 1 -- floor boot {mib} {cpus} {devices} || :\n"
            ));
            continue;
        };
        let reset = run.axis.is_none();
        let kernel = resetting(peer);
        let guest = Guest {
            kernel: if reset { &kernel } else { at::tiny() },
            initrd: None,
            cmdline: "",
            cpus: run.cpus,
            mib: run.mib,
            devices,
            cpu_options: "",
            memory_options: "",
        };
        let marks = if reset { 2 } else { 1 };
        let line = command(peer, &guest);
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

/// mini-vmm and the bare calls along every axis; the others along that of devices, so that a round, with
/// firmware that takes seconds in it, does not take minutes; and all reset.
fn runs(plan: &Plan) -> Vec<Run<'_>> {
    let mut runs = Vec::new();
    let axes: [(&str, &[u32]); 3] = [
        ("devices", &[0, 1, 2, 3, 4]),
        ("vCPUs", &[1, 2, 3, 4]),
        ("MiB", &[256, 512, 1024, 2048, 4096]),
    ];
    let all = || std::iter::once(None).chain(subjects(plan).map(Some));
    for (axis, values) in axes {
        for &value in values {
            for peer in all() {
                let quick = peer.is_none_or(|peer| peer.kind == Kind::MiniVmm);
                if quick || axis == "devices" {
                    runs.push(Run::at(peer, axis, value));
                }
            }
        }
    }
    for peer in subjects(plan).filter(|peer| peer.kind.reset().is_some()) {
        runs.push(Run {
            axis: None,
            ..Run::at(Some(peer), "devices", 1)
        });
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
        results.add(&key, run.name(), sample);
    }
    for why in &facts.failures {
        results.missing.push(format!("part 5, a run: {why}"));
    }
    results.missing.extend(left_out(runs));
}

/// Of whom not every axis was measured.
fn left_out(runs: &[Run<'_>]) -> Option<String> {
    let mut names: Vec<&str> = runs
        .iter()
        .filter_map(|run| run.peer)
        .filter(|peer| peer.kind != Kind::MiniVmm)
        .map(|peer| peer.name.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    (!names.is_empty()).then(|| {
        format!(
            "part 5, vCPUs and memory in the lab of {}: left out to save time, only {SUBJECT} and the bare calls have them",
            names.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_that_were_there_are_said_to_be_left_out() {
        let plan = Plan::example();
        assert_eq!(left_out(&runs(&plan)), None);
        let mut plan = Plan::example();
        plan.peers.push(Peer {
            name: "QEMU q35".into(),
            kind: Kind::QemuQ35,
            program: "/bin/true".into(),
        });
        let told = left_out(&runs(&plan)).unwrap();
        assert!(told.contains("in the lab of QEMU q35: "), "{told}");
        let has = |name, axis| {
            let mut all = runs(&plan).into_iter();
            all.any(|run| run.name() == name && run.axis == axis)
        };
        assert!(has("QEMU q35", Some("devices")) && !has("QEMU q35", Some("vCPUs")));
        assert!(has(SUBJECT, Some("vCPUs")) && has(FLOOR, Some("MiB")));
    }
}
