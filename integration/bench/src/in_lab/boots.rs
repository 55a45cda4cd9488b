//! Part 2: measures the time from a VMM's start to the guest's /init, with and without a device, by
//! L1's clock.

use std::collections::BTreeMap;

use lab::disk::Disk;

use super::facts::{Fact, Facts, value};
use super::session::Session;
use super::setup::Setup;
use super::{filling, l1};
use crate::error::Result;
use crate::names::{
    BOOT_BEHIND_PORT, BOOT_RAM, BOOT_WITH_DISK, BOOT_WITH_EMPTY_PORT, DISK_ALONE, FILLED, FLOORS,
};
use crate::results::{Key, Results};
use crate::subjects::bare_calls::Map;
use crate::subjects::{Guest, Kind, Subject};
use crate::watch::counters::Counter;

const MIB: u32 = 512;
/// With `quiet` alone the lab's kernel says by two lines that it has no KVM of its own, which costs
/// an exit for every few characters. All VMMs boot with these parameters.
const CMDLINE: &str = "console=ttyS0 quiet loglevel=3 panic=-1";
/// The same; /init then reads the disk.
const CMDLINE_WITH_DISK: &str = "console=ttyS0 quiet loglevel=3 panic=-1 bench.disk=1";

/// One guest under one VMM.
struct Run<'a> {
    subject: &'a Subject,
    disk: At,
    /// Whether the run is made for its counters only: counting may cost time.
    counted: bool,
}

/// Where the guest has the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Nowhere,
    /// On bus 0, where other VMMs put a device by default too.
    RootBus,
    /// Behind a root port, beside so many empty ports.
    Port {
        empty: u32,
    },
}

impl At {
    /// The work whose name the figures have.
    fn work(self) -> &'static str {
        match self {
            Self::Nowhere => "boot without a device",
            Self::RootBus => BOOT_WITH_DISK,
            Self::Port { empty: 0 } => BOOT_BEHIND_PORT,
            Self::Port { .. } => BOOT_WITH_EMPTY_PORT,
        }
    }
}

/// Measures part 2, and adds the figures to the results.
pub fn run(setup: &Setup<'_>, results: &mut Results) -> Result<()> {
    let disk = Disk::new("bench", 5);
    let bdf = disk.bdf();
    let runs = runs(setup);
    let mut round = String::new();
    for (id, run) in runs.iter().enumerate() {
        round.push_str(&line(setup, id, run, &bdf));
    }
    let machine = l1::machine(&[disk]);
    let map = Map {
        interface: FLOORS[0].0,
        device: &bdf,
        mib: MIB,
        pages: "thp",
        threads: filling::threads(machine.cpus),
    };
    round.push_str(&format!(
        "{} | sed 's/^/LAB: mapped {} /'\n",
        l1::map(setup.subjects.bare_calls(), &map),
        runs.len()
    ));
    let session = Session {
        name: "bench-boots",
        machine,
        before: format!("bind_vfio {bdf}"),
        round,
    };
    let facts = session.run(setup, "part 2, guests to their /init")?;
    take(&facts, &runs, results);
    Ok(())
}

/// All runs of a round: with the device, then without. Each time, all VMMs run for their times, and
/// then mini-vmm runs once more for its counters. At last mini-vmm alone runs with root ports.
fn runs<'a>(setup: &Setup<'a>) -> Vec<Run<'a>> {
    let mut runs = Vec::new();
    let plain = |subject, disk| Run {
        subject,
        disk,
        counted: false,
    };
    for disk in [At::RootBus, At::Nowhere] {
        let plain = |subject| plain(subject, disk);
        runs.extend(setup.subjects.with_vfio().map(plain));
        if setup.subjects.abilities().stats {
            runs.push(Run {
                counted: true,
                ..plain(setup.subjects.ours())
            });
        }
    }
    if setup.subjects.abilities().ports {
        let behind = [0, 1].map(|empty| plain(setup.subjects.ours(), At::Port { empty }));
        runs.extend(behind);
    }
    runs
}

/// Returns the line of L1's script for one run.
fn line(setup: &Setup<'_>, id: usize, run: &Run<'_>, bdf: &str) -> String {
    let abilities = setup.subjects.abilities();
    let (option, empty_ports) = match run.disk {
        At::Port { empty } => (",port=on", empty),
        At::RootBus if abilities.ports && run.subject.kind == Kind::MiniVmm => (",port=off", 0),
        At::RootBus | At::Nowhere => ("", 0),
    };
    let device = format!("{bdf}{option}");
    let devices = [device.as_str()];
    let (devices, cmdline, stop) = if run.disk != At::Nowhere {
        (&devices[..], CMDLINE_WITH_DISK, "disk")
    } else {
        (&[][..], CMDLINE, "init")
    };
    let guest = Guest {
        initrd: Some(l1::initrd()),
        cmdline,
        mib: MIB,
        devices,
        empty_ports,
        ..Guest::new(l1::kernel())
    };
    let (counter, command) = if run.counted {
        (
            run.subject.kind.counter(abilities),
            l1::counting(run.subject, &guest, abilities),
        )
    } else {
        let counter = match run.subject.kind {
            Kind::MiniVmm => Counter::Signal,
            kind => kind.counter(abilities),
        };
        (counter, l1::command(run.subject, &guest))
    };
    let counter = counter.word();
    format!("probe watch {id} {counter} {stop} -- {command} || :\n")
}

fn take(facts: &Facts, runs: &[Run<'_>], results: &mut Results) {
    let mut reader = Reader {
        runs,
        results,
        with_disk: BTreeMap::new(),
        clock: None,
    };
    for fact in facts.iter() {
        reader.read(fact);
    }
    results.missing.extend(facts.failed_runs(2));
}

/// Converts facts to results.
struct Reader<'a> {
    runs: &'a [Run<'a>],
    results: &'a mut Results,
    /// Each subject's last time to /init with the disk, in milliseconds.
    with_disk: BTreeMap<String, f64>,
    /// The number of the last counted run, and the time at which its guest's kernel clock started.
    clock: Option<(usize, f64)>,
}

impl Reader<'_> {
    fn read(&mut self, fact: Fact<'_>) {
        let Some(run) = self.runs.get(fact.run) else {
            self.mapped(fact);
            return;
        };
        match (fact.kind, run.counted) {
            ("watched", true) => self.start_clock(fact),
            ("counts", true) => {
                self.phases(fact, run);
                self.counts_of_kvm(fact, run);
            }
            (_, true) => {}
            ("watched", false) => self.watched(fact, run),
            ("counts", false) => {
                self.exits(fact, run);
                self.counts_of_kvm(fact, run);
            }
            ("memory", false) => self.memory(fact, run),
            _ => {}
        }
    }

    fn add(&mut self, run: &Run<'_>, quantity: (&str, &str), sample: f64) {
        self.add_key(run.disk.work(), quantity, &run.subject.name, sample);
    }

    fn add_key(&mut self, work: &str, quantity: (&str, &str), subject: &str, sample: f64) {
        let key = Key {
            part: 2,
            work,
            at: None,
            quantity,
        };
        self.results.add(&key, subject, sample);
    }

    /// Adds the time in which the bare calls filled the guest's RAM.
    fn mapped(&mut self, fact: Fact<'_>) {
        if let Some(made) = value(fact.rest, "made").filter(|_| fact.kind == "mapped") {
            self.add_key(BOOT_RAM, (FILLED, "ms"), FLOORS[0].1, made);
        }
    }

    /// Notes when the guest's kernel clock started. A counted run prints "init" first, and its
    /// counters at the end.
    fn start_clock(&mut self, fact: Fact<'_>) {
        if fact.rest.contains(" init ")
            && let Some((at, uptime)) = times(fact)
        {
            self.clock = Some((fact.run, at - uptime * 1e3));
        }
    }

    fn phases(&mut self, fact: Fact<'_>, run: &Run<'_>) {
        // L1's clock starts before the fork, and the clock of the phases starts in `main`.
        let main = value(fact.rest, "phase.before_main");
        let first = value(fact.rest, "phase.main_to_first_run");
        if let (Some((of, clock)), Some(main), Some(first)) = (self.clock.take(), main, first)
            && of == fact.run
        {
            let quantity = ("from the first run to the kernel's clock", "ms");
            self.add(run, quantity, clock - (main + first) / 1e3);
        }
        for word in fact.rest.split(' ') {
            if let Some((name, micros)) = phase(word) {
                self.add(run, (&name, "ms"), micros / 1e3);
            }
        }
    }

    fn counts_of_kvm(&mut self, fact: Fact<'_>, run: &Run<'_>) {
        for (quantity, name) in BY_KVM {
            if let Some(count) = value(fact.rest, name) {
                self.add(run, (quantity, ""), count);
            }
        }
    }

    fn exits(&mut self, fact: Fact<'_>, run: &Run<'_>) {
        for (quantity, own, kvm) in EXITS {
            let count = value(fact.rest, own).or_else(|| value(fact.rest, kvm));
            if let Some(count) = count {
                self.add(run, (quantity, ""), count);
            }
        }
    }

    fn memory(&mut self, fact: Fact<'_>, run: &Run<'_>) {
        for (quantity, name) in [
            ("memory of the VMM itself, private", "private"),
            ("memory of the VMM itself, written to", "dirty"),
        ] {
            if let Some(kib) = value(fact.rest, name) {
                self.add(run, (quantity, "MiB"), kib / 1024.0);
            }
        }
    }

    fn watched(&mut self, fact: Fact<'_>, run: &Run<'_>) {
        let Some((at, uptime)) = times(fact) else {
            return;
        };
        if fact.rest.contains(" init ") {
            self.init(run, at, uptime);
        } else if fact.rest.contains(" disk ") {
            self.add(run, ("to the disk's first block", "ms"), at);
        }
    }

    fn init(&mut self, run: &Run<'_>, at: f64, uptime: f64) {
        self.add(run, ("to /init", "ms"), at);
        let before = ("of it before the kernel's clock starts", "ms");
        self.add(run, before, at - uptime * 1e3);
        self.add(run, ("of it in the guest's kernel", "ms"), uptime * 1e3);
        // A boot without the device follows a boot with the device. If the boot with the device
        // failed, there is no difference to add.
        let name = &run.subject.name;
        let with_disk = self.with_disk.remove(name);
        match (run.disk, with_disk) {
            (At::RootBus, _) => {
                self.with_disk.insert(name.clone(), at);
            }
            (At::Nowhere, Some(with_disk)) => {
                self.add_key(BOOT_WITH_DISK, (DISK_ALONE, "ms"), name, with_disk - at);
            }
            (At::Nowhere | At::Port { .. }, _) => {}
        }
    }
}

/// The milliseconds since the VMM's start, and the seconds since the kernel clock's start.
fn times(fact: Fact<'_>) -> Option<(f64, f64)> {
    Some((value(fact.rest, "at")?, value(fact.rest, "uptime")?))
}

/// A phase's name and its time in microseconds, from "phase.map_dma=12". "ahead.map_dma=3" is the
/// time of the phase before the guest runs.
fn phase(word: &str) -> Option<(String, f64)> {
    let (name, micros) = word.split_once('=')?;
    let name = match name.split_once('.')? {
        ("phase", name) => format!("phase {}", name.replace('_', " ")),
        ("ahead", name) => format!("phase {}, before the guest runs", name.replace('_', " ")),
        _ => return None,
    };
    Some((name, micros.parse().ok()?))
}

/// Exits to the VMM: the quantity, mini-vmm's counter, and KVM's counter for the other VMMs. KVM
/// counts a port access before it looks for the port's handler. `io_exits` therefore includes the
/// accesses that KVM handles itself.
const EXITS: [(&str, &str, &str); 2] = [
    ("exits to the VMM, ports", "pio", "io_exits"),
    ("exits to the VMM, MMIO", "mmio", "mmio_exits"),
];

/// Counters of KVM that mean the same for all VMMs.
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

    #[test]
    fn the_disks_share_is_of_one_round() {
        let subject = Subject::new("mini-vmm", Kind::MiniVmm, "/bin/true");
        let runs = [At::RootBus, At::Nowhere].map(|disk| Run {
            subject: &subject,
            disk,
            counted: false,
        });
        let lines = [
            "round 1",
            "watched 0 at=30 init uptime=0.01",
            "watched 1 at=20 init uptime=0.01",
            // A boot with the disk failed: the next boot without a device has no pair.
            "watched 1 at=21 init uptime=0.01",
            "mapped 2 made=250.5 mapped=4 unmapped=1",
            "script 0",
        ];
        let facts = Facts::of(lines.map(String::from).into_iter(), "/d".as_ref()).unwrap();
        let mut results = Results::default();
        take(&facts, &runs, &mut results);
        let alone = results.measures.iter().find(|m| m.quantity == DISK_ALONE);
        assert_eq!(alone.unwrap().samples, [10.0]);
        let filled = results.measures.iter().find(|m| m.work == BOOT_RAM);
        assert_eq!(filled.unwrap().samples, [250.5]);
    }

    #[test]
    fn a_counted_run_tells_how_long_a_kernel_takes_to_its_clock() {
        let subject = Subject::new("mini-vmm", Kind::MiniVmm, "/bin/true");
        let runs = [Run {
            subject: &subject,
            disk: At::RootBus,
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
        let [ours, qemu] = kinds.map(|(name, kind)| Subject::new(name, kind, "/bin/true"));
        let runs = [(&ours, false), (&ours, true), (&qemu, false)].map(|(subject, counted)| Run {
            subject,
            disk: At::RootBus,
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
