//! Part 2: from process start to the guest's /init, with and without a device, all under L1's clock.

use std::collections::BTreeMap;

use lab::Result;
use lab::disk::Disk;

use crate::peers::{Guest, Kind, Peer};
use crate::plan::Plan;
use crate::results::{Key, Results};
use crate::session::{Facts, Session, at, command, counter, counting, machine, subjects, value};

const MIB: u32 = 512;

/// One guest under one VMM.
struct Run<'a> {
    peer: &'a Peer,
    device: bool,
    /// Only for its counters: they might cost time.
    counted: bool,
}

/// Measures, and adds to the results.
pub fn run(plan: &Plan, results: &mut Results) -> Result<()> {
    let disk = Disk::new("bench", 5);
    let bdf = disk.bdf();
    let runs: Vec<Run<'_>> = [true, false]
        .into_iter()
        .flat_map(|device| {
            [false, true]
                .into_iter()
                .flat_map(move |counted| subjects(plan).map(move |peer| (peer, device, counted)))
        })
        .filter(|(peer, _, counted)| !counted || (peer.kind == Kind::MiniVmm && plan.stats))
        .map(|(peer, device, counted)| Run {
            peer,
            device,
            counted,
        })
        .collect();
    let mut round = String::new();
    for (id, run) in runs.iter().enumerate() {
        let (devices, cmdline, stop) = if run.device {
            (
                &[bdf.as_str()][..],
                "console=ttyS0 quiet panic=-1 bench.disk=1",
                "disk",
            )
        } else {
            (&[][..], "console=ttyS0 quiet panic=-1", "init")
        };
        let guest = Guest {
            kernel: at::kernel(),
            initrd: Some(at::initrd()),
            cmdline,
            cpus: 1,
            mib: MIB,
            devices,
            cpu_options: "",
            memory_options: "",
        };
        let (counter, command) = if run.counted {
            let counter = counter(plan, run.peer.kind);
            (counter, counting(plan, run.peer, &guest))
        } else if run.peer.kind == Kind::MiniVmm {
            ("signal", command(run.peer, &guest))
        } else {
            let counter = counter(plan, run.peer.kind);
            (counter, command(run.peer, &guest))
        };
        round.push_str(&format!(
            "probe watch {id} {counter} {stop} -- {command} || :\n"
        ));
    }
    let session = Session {
        name: "bench-boots",
        machine: machine(&[disk]),
        before: format!("bind_vfio {bdf}"),
        round,
    };
    let facts = session.run(plan, "part 2, guests to their /init")?;
    take(&facts, &runs, results);
    Ok(())
}

/// What a boot with the disk takes longer than one without, of the same round.
pub const SHARE: &str = "the disk's share of it";
/// The work with the disk.
pub const WITH: &str = "boot with an NVMe disk";

fn take(facts: &Facts, runs: &[Run<'_>], results: &mut Results) {
    // The last boot with the disk to /init, by who made it.
    let mut with: BTreeMap<&str, f64> = BTreeMap::new();
    // When the kernel's clock began in the last counted run.
    let mut began: Option<(usize, f64)> = None;
    for fact in facts.iter() {
        let Some(run) = runs.get(fact.run) else {
            continue;
        };
        let work = if run.device {
            WITH
        } else {
            "boot without a device"
        };
        let mut share = None;
        let mut add = |quantity: &str, unit, sample| {
            let key = Key {
                part: 2,
                work,
                at: None,
                quantity: (quantity, unit),
            };
            results.add(&key, &run.peer.name, sample);
        };
        match fact.kind {
            // The same run told its /init before: "init" comes first.
            "watched" if run.counted && fact.rest.contains(" init ") => {
                if let (Some(at), Some(uptime)) =
                    (value(fact.rest, "at"), value(fact.rest, "uptime"))
                {
                    began = Some((fact.run, at - uptime * 1e3));
                }
            }
            "counts" if run.counted => {
                let first = value(fact.rest, "phase.main_to_first_run");
                if let (Some((of, clock)), Some(first)) = (began.take(), first)
                    && of == fact.run
                {
                    let quantity = "from the first run to the kernel's clock";
                    add(quantity, "ms", clock - first / 1e3);
                }
                for word in fact.rest.split(' ') {
                    if let Some((name, micros)) = phase(word) {
                        add(&name, "ms", micros / 1e3);
                    }
                }
                if let Some(exits) = value(fact.rest, "exits") {
                    add("exits to KVM", "", exits);
                }
            }
            _ if run.counted => {}
            "watched" => {
                let (Some(at), Some(uptime)) = (value(fact.rest, "at"), value(fact.rest, "uptime"))
                else {
                    continue;
                };
                if fact.rest.contains(" init ") {
                    add("to /init", "ms", at);
                    let before = with.remove(run.peer.name.as_str());
                    if run.device {
                        with.insert(&run.peer.name, at);
                    } else if let Some(before) = before {
                        share = Some(before - at);
                    }
                    add(
                        "of it before the kernel's clock starts",
                        "ms",
                        at - uptime * 1e3,
                    );
                    add("of it in the guest's kernel", "ms", uptime * 1e3);
                } else if fact.rest.contains(" disk ") {
                    add("to the disk's first block", "ms", at);
                }
            }
            "counts" => {
                for (quantity, names) in EXITS {
                    if let Some(sum) = sum(fact.rest, names) {
                        add(quantity, "", sum);
                    }
                }
            }
            "memory" => {
                for (quantity, name) in [
                    ("memory of the VMM itself, private", "private"),
                    ("memory of the VMM itself, written to", "dirty"),
                ] {
                    if let Some(kib) = value(fact.rest, name) {
                        add(quantity, "MiB", kib / 1024.0);
                    }
                }
            }
            _ => {}
        }
        if let Some(share) = share {
            let key = Key {
                part: 2,
                work: WITH,
                at: None,
                quantity: (SHARE, "ms"),
            };
            results.add(&key, &run.peer.name, share);
        }
    }
    for why in &facts.failures {
        results.missing.push(format!("part 2, a run: {why}"));
    }
}

/// A phase's name and its microseconds: "phase.map_dma=12", or "ahead.map_dma=3" for what of it lies
/// before the guest runs.
fn phase(word: &str) -> Option<(String, f64)> {
    let (name, micros) = word.split_once('=')?;
    let name = match name.split_once('.')? {
        ("phase", name) => format!("phase {}", name.replace('_', " ")),
        ("ahead", name) => format!("phase {}, before the guest runs", name.replace('_', " ")),
        _ => return None,
    };
    Some((name, micros.parse().ok()?))
}

/// Exits by kind, under the names that mini-vmm and KVM (for QEMU) have for them.
const EXITS: [(&str, &[&str]); 3] = [
    ("exits to the VMM, ports", &["pio", "io_exits"]),
    ("exits to the VMM, MMIO", &["mmio", "mmio_exits"]),
    ("exits to KVM", &["exits"]),
];

/// The sum of those counters that are there; a counter that never counted is not said.
fn sum(fact: &str, names: &[&str]) -> Option<f64> {
    let found: Vec<f64> = names.iter().filter_map(|name| value(fact, name)).collect();
    (!found.is_empty()).then(|| found.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::Kind;

    #[test]
    fn the_disks_share_is_of_one_round() {
        let peer = Peer {
            name: "mini-vmm".into(),
            kind: Kind::MiniVmm,
            program: "/bin/true".into(),
        };
        let runs = [true, false].map(|device| Run {
            peer: &peer,
            device,
            counted: false,
        });
        let lines = [
            "round 1",
            "watched 0 at=30 init uptime=0.01",
            "watched 1 at=20 init uptime=0.01",
            // A boot with the disk that failed: the next has no pair.
            "watched 1 at=21 init uptime=0.01",
            "script 0",
        ];
        let facts = Facts::of(lines.map(String::from).into_iter(), "/d".as_ref()).unwrap();
        let mut results = Results::default();
        take(&facts, &runs, &mut results);
        let share = results.measures.iter().find(|m| m.quantity == SHARE);
        assert_eq!(share.unwrap().samples, [10.0]);
    }

    #[test]
    fn a_counted_run_tells_how_long_a_kernel_takes_to_its_clock() {
        let peer = Peer {
            name: "mini-vmm".into(),
            kind: Kind::MiniVmm,
            program: "/bin/true".into(),
        };
        let runs = [Run {
            peer: &peer,
            device: true,
            counted: true,
        }];
        let lines = [
            "round 1",
            "watched 0 at=30 init uptime=0.01",
            "counts 0 phase.main_to_first_run=5000",
            "counts 0 phase.main_to_first_run=5000",
            "script 0",
        ];
        let facts = Facts::of(lines.map(String::from).into_iter(), "/d".as_ref()).unwrap();
        let mut results = Results::default();
        take(&facts, &runs, &mut results);
        let row = results
            .measures
            .iter()
            .find(|m| m.quantity.starts_with("from the first run"));
        assert_eq!(row.unwrap().samples, [15.0]);
    }

    #[test]
    fn phases_may_lie_beside_the_guest() {
        assert_eq!(
            phase("phase.open_device=15"),
            Some(("phase open device".into(), 15.0))
        );
        let ahead = "phase map dma, before the guest runs";
        assert_eq!(phase("ahead.map_dma=0"), Some((ahead.into(), 0.0)));
        assert_eq!(phase("dma.ram=4"), None);
        assert_eq!(phase("pio=4"), None);
    }
}
