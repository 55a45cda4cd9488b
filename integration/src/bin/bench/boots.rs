//! Part 2: from process start to the guest's /init, with and without a device, all under L1's clock.

use std::collections::BTreeMap;

use lab::Result;
use lab::disk::Disk;

use crate::maps::filling;
use crate::peers::{Guest, Kind, Peer};
use crate::plan::Plan;
use crate::results::{FLOORS, Key, Results};
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
    let l1 = machine(&[disk]);
    let threads = filling(l1.cpus);
    let interface = FLOORS[0].0;
    round.push_str(&format!(
        "floor map {interface} {bdf} {MIB} thp {threads} | sed 's/^/LAB: mapped {} /'\n",
        runs.len()
    ));
    let session = Session {
        name: "bench-boots",
        machine: l1,
        before: format!("bind_vfio {bdf}"),
        round,
    };
    let facts = session.run(plan, "part 2, guests to their /init")?;
    take(&facts, &runs, results);
    Ok(())
}

/// What the bare calls do of a boot: the guest's RAM, as many threads as fill mini-vmm's, and nobody
/// beside them.
pub const RAM: &str = "512 MiB of RAM, transparent huge pages";
/// How long that takes.
pub const FILLED: &str = "filled";
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
            if let Some(made) = value(fact.rest, "made").filter(|_| fact.kind == "mapped") {
                let key = Key {
                    part: 2,
                    work: RAM,
                    at: None,
                    quantity: (FILLED, "ms"),
                };
                results.add(&key, FLOORS[0].1, made);
            }
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
                // The clock runs from before the fork, and the phases from main.
                let main = value(fact.rest, "phase.before_main");
                let first = value(fact.rest, "phase.main_to_first_run");
                if let (Some((of, clock)), Some(main), Some(first)) = (began.take(), main, first)
                    && of == fact.run
                {
                    let quantity = "from the first run to the kernel's clock";
                    add(quantity, "ms", clock - (main + first) / 1e3);
                }
                for word in fact.rest.split(' ') {
                    if let Some((name, micros)) = phase(word) {
                        add(&name, "ms", micros / 1e3);
                    }
                }
                for (quantity, name) in BY_KVM {
                    if let Some(count) = value(fact.rest, name) {
                        add(quantity, "", count);
                    }
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
                for (quantity, own, kvm) in EXITS {
                    let count = value(fact.rest, own).or_else(|| value(fact.rest, kvm));
                    if let Some(count) = count {
                        add(quantity, "", count);
                    }
                }
                for (quantity, name) in BY_KVM {
                    if let Some(count) = value(fact.rest, name) {
                        add(quantity, "", count);
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

/// Exits that reach the VMM, under mini-vmm's name for them, and under KVM's for the others. KVM counts
/// accesses to ports before it looks who handles them, so its `io_exits` are more than those.
const EXITS: [(&str, &str, &str); 2] = [
    ("exits to the VMM, ports", "pio", "io_exits"),
    ("exits to the VMM, MMIO", "mmio", "mmio_exits"),
];

/// What KVM counts alike for everybody.
const BY_KVM: [(&str, &str); 2] = [
    (
        "port accesses that left the guest (KVM's io_exits)",
        "io_exits",
    ),
    ("exits to KVM", "exits"),
];

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
            "mapped 2 made=250.5 mapped=4 unmapped=1",
            "script 0",
        ];
        let facts = Facts::of(lines.map(String::from).into_iter(), "/d".as_ref()).unwrap();
        let mut results = Results::default();
        take(&facts, &runs, &mut results);
        let share = results.measures.iter().find(|m| m.quantity == SHARE);
        assert_eq!(share.unwrap().samples, [10.0]);
        let filled = results.measures.iter().find(|m| m.work == RAM);
        assert_eq!(filled.unwrap().samples, [250.5]);
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
            "counts 0 phase.before_main=2000 phase.main_to_first_run=5000",
            "counts 0 phase.before_main=2000 phase.main_to_first_run=5000",
            "script 0",
        ];
        let facts = Facts::of(lines.map(String::from).into_iter(), "/d".as_ref()).unwrap();
        let mut results = Results::default();
        take(&facts, &runs, &mut results);
        let row = results
            .measures
            .iter()
            .find(|m| m.quantity.starts_with("from the first run"));
        assert_eq!(row.unwrap().samples, [13.0]);
    }

    #[test]
    fn ports_are_told_as_kvm_counts_them_and_as_the_vmm_does() {
        let kinds = [("mini-vmm", Kind::MiniVmm), ("QEMU q35", Kind::QemuQ35)];
        let [ours, qemu] = kinds.map(|(name, kind)| Peer {
            name: name.into(),
            kind,
            program: "/bin/true".into(),
        });
        let runs = [(&ours, false), (&ours, true), (&qemu, false)].map(|(peer, counted)| Run {
            peer,
            device: true,
            counted,
        });
        let lines = [
            "round 1",
            "counts 0 pio=300 mmio=200 other=1 total=501",
            "counts 1 pio=310 mmio=200 exits=9000 io_exits=450 mmio_exits=200",
            "counts 2 exits=9500 io_exits=20000 mmio_exits=1100",
            "script 0",
        ];
        let facts = Facts::of(lines.map(String::from).into_iter(), "/d".as_ref()).unwrap();
        let mut results = Results::default();
        take(&facts, &runs, &mut results);
        let of = |quantity: &str, subject: &str| {
            let mut all = results.measures.iter();
            let row = all.find(|m| m.quantity.starts_with(quantity) && m.subject == subject);
            row.map(|m| m.samples.clone())
        };
        for (quantity, ours, qemu) in [
            ("exits to the VMM, ports", 300.0, 20000.0),
            ("exits to the VMM, MMIO", 200.0, 1100.0),
            ("port accesses", 450.0, 20000.0),
            ("exits to KVM", 9000.0, 9500.0),
        ] {
            assert_eq!(of(quantity, "mini-vmm"), Some(vec![ours]), "{quantity}");
            assert_eq!(of(quantity, "QEMU q35"), Some(vec![qemu]), "{quantity}");
        }
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
