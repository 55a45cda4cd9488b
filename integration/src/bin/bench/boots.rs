//! Part 2: from process start to the guest's /init, with and without a device, all under L1's clock.

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

fn take(facts: &Facts, runs: &[Run<'_>], results: &mut Results) {
    for fact in facts.iter() {
        let Some(run) = runs.get(fact.run) else {
            continue;
        };
        let work = if run.device {
            "boot with an NVMe disk"
        } else {
            "boot without a device"
        };
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
            "counts" if run.counted => {
                for word in fact.rest.split(' ') {
                    let phase = word.strip_prefix("phase.").and_then(|w| w.split_once('='));
                    if let Some((name, micros)) = phase
                        && let Ok(micros) = micros.parse::<f64>()
                    {
                        let name = format!("phase {}", name.replace('_', " "));
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
    }
    for why in &facts.failures {
        results.missing.push(format!("part 2, a run: {why}"));
    }
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
