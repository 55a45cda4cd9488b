//! mini-vmm-bench as a copied program on a machine without the repository: it measures a disk whose
//! speed is known, writes nothing to it, refuses what is in use, and leaves the device to the
//! host's driver however it ends.

use std::fs;

use lab::disk::Disk;
use lab::expect::expect;
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::{Error, Result, vmm};
use serde_json::Value;

/// The disk whose speed QEMU limits.
pub(super) const SLOW: &str = "0000:00:06.0";

/// The disk.
pub(super) const SLOW_DISK: [&str; 4] = [
    "-drive",
    "if=none,id=slow,format=raw,file={dir}/slow.img,throttling.iops-total=400",
    "-device",
    "nvme,drive=slow,serial=slow,addr=6",
];

/// The same disk, far slower than a disk that is emulated twice, however busy the machine is.
const SLOWER_DISK: [&str; 4] = [
    "-drive",
    "if=none,id=slow,format=raw,file={dir}/slow.img,throttling.iops-total=100",
    "-device",
    "nvme,drive=slow,serial=slow,addr=6",
];

/// Its size.
const SIZE: u64 = 32 << 20;

/// The reads that QEMU lets through in each second.
pub(super) const KNOWN: f64 = 400.0;

/// The same for the slower disk.
const KNOWN_SLOWER: f64 = 100.0;

const DISK: Disk = Disk::new("lab-disk", 5);

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("a_measured_disk_has_its_known_speed")
            .built("mini-vmm-bench", vmm::bench)
            .slow()
            .machine(|l1| l1.files = vec![("slow.img", noise())])
            .qemu(&SLOW_DISK)
            .script(known_speed(), check_known_speed),
        Scenario::new("qemu_measures_a_known_speed_in_three_ways")
            .built("mini-vmm-bench", vmm::bench)
            .apart()
            .inner_qemu()
            .limit(600)
            .machine(|l1| l1.files = vec![("slow.img", noise())])
            .qemu(&SLOWER_DISK)
            .script(peers(), check_peers),
        Scenario::new("a_measured_disk_goes_back_however_it_ends")
            .built("mini-vmm-bench", vmm::bench)
            .slow()
            .disk(DISK)
            .script(ends(), check_ends),
    ]
}

/// What the disk has: no block is zero, and no two are alike.
pub(super) fn noise() -> Vec<u8> {
    let words = (1..=SIZE / 8).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    words.flat_map(u64::to_le_bytes).collect()
}

fn known_speed() -> String {
    format!(
        "drivers >/run/drivers\ncd /run\nbench='--guest-kernel /boot/bzImage --memory 256M'\n\
         mini-vmm-bench {SLOW} --dry-run $bench >/run/plan\nstate dry-run\n\
         say plan $(grep -c 'nothing is written' /run/plan) $(ls /run/mini-vmm-bench* | wc -l)\n\
         mini-vmm-bench {SLOW} $bench --guest-cmdline \"$cmdline\" --quick --rounds 1 \
         --measure 1.5 --change mmap,irqfd --output report\nstate measured\n\
         say report $(cat report.json)\n"
    )
}

fn check_known_speed(outcome: &Outcome) -> Result<()> {
    states(outcome, &["dry-run", "measured"])?;
    let plan: Vec<_> = outcome.transcript.lab("plan").collect();
    expect(plan == ["1 0"], || {
        format!("the dry run said or left {plan:?}")
    })?;
    unchanged(outcome)?;
    let report = report(outcome)?;
    all_have_the_known_speed(&report, KNOWN)?;
    check_costs(&report)
}

pub(super) fn unchanged(outcome: &Outcome) -> Result<()> {
    let image = fs::read(outcome.image("slow")).map_err(|e| Error::failed(e.to_string()))?;
    expect(image == noise(), || "the disk has changed".into())
}

pub(super) fn report(outcome: &Outcome) -> Result<Value> {
    let report = outcome.transcript.lab("report").next().unwrap_or_default();
    serde_json::from_str(report).map_err(|e| Error::failed(format!("the report: {e}")))
}

/// Each subject's speed is the known one. One at a time, a disk that is emulated twice is slower.
pub(super) fn all_have_the_known_speed(report: &Value, known: f64) -> Result<()> {
    let rounds = report["rounds"].as_array().cloned().unwrap_or_default();
    expect(rounds.len() == 1, || format!("{} rounds", rounds.len()))?;
    let subjects = report["subjects"].as_array().map_or(0, Vec::len);
    let turns = rounds[0].as_array().cloned().unwrap_or_default();
    expect(turns.len() == subjects && subjects > 1, || {
        format!("{} turns of {subjects} subjects", turns.len())
    })?;
    for (subject, trial) in turns.iter().enumerate() {
        // One at a time, a read that comes late is made up for by QEMU only in part, and not at all
        // if the whole machine is late.
        let name = &report["subjects"][subject]["kind"]["peer"];
        let least = if name == "qemu-nvme" || name == "qemu-virtio" {
            0.0
        } else {
            0.8
        };
        for (work, least, most) in [(0, least, 1.1), (1, 0.98, 1.02)] {
            let speed = trial["samples"][work]["per_second"].as_f64();
            let fits = speed.is_some_and(|speed| (least..=most).contains(&(speed / known)));
            expect(fits, || {
                format!("subject {subject}, work {work}: {speed:?} reads each second")
            })?;
        }
    }
    Ok(())
}

/// The three ways in which QEMU gives a guest a disk, and idle loops without exits.
fn peers() -> String {
    format!(
        "drivers >/run/drivers\ncd /run\n\
         mini-vmm-bench {SLOW} --guest-kernel /boot/bzImage --memory 256M \
         --guest-cmdline \"$cmdline\" --quick --rounds 1 --measure 3 --change idle \
         --peer qemu-vfio,qemu-nvme,qemu-virtio --output report\nstate measured\n\
         say report $(cat report.json)\nsay unequal $(grep -c 'not equal' report.md)\n"
    )
}

fn check_peers(outcome: &Outcome) -> Result<()> {
    states(outcome, &["measured"])?;
    unchanged(outcome)?;
    let report = report(outcome)?;
    let names: Vec<&str> = report["subjects"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|subject| subject["name"].as_str())
        .collect();
    let wanted = [
        "host",
        "mini-vmm",
        "mini-vmm, idle=native",
        "QEMU, vfio-pci",
        "QEMU, vfio-pci, cpu-pm=on",
        "QEMU, emulated NVMe",
        "QEMU, virtio-blk",
        "mini-vmm again",
    ];
    expect(names == wanted, || format!("the subjects are {names:?}"))?;
    let unequal: Vec<_> = outcome.transcript.lab("unequal").collect();
    expect(unequal == ["4"], || format!("notes: {unequal:?}"))?;
    all_have_the_known_speed(&report, KNOWN_SLOWER)?;
    check_kinds(&report)
}

/// KVM's own counters say that a virtual CPU halts for each read that comes alone, unless its idle
/// loop causes no exits, and that each read of an emulated NVMe disk writes two doorbells by exits.
fn check_kinds(report: &Value) -> Result<()> {
    let (halts, none, doorbells) = (0.9..f64::MAX, -0.05..0.05, 1.9..2.1);
    for (subject, halts, mmio) in [
        (1, &halts, &none),
        (2, &none, &none),
        (3, &halts, &none),
        (4, &none, &none),
        (5, &halts, &doorbells),
        (6, &halts, &none),
    ] {
        let count = |work: &str, pointer: &str| {
            let counts = report["counts"].as_array().into_iter().flatten();
            let mut of = counts.filter(|c| c["subject"] == subject && c["work"] == work);
            of.next()?.pointer(pointer)?.as_f64()
        };
        for (name, wanted) in [("halt_exits", halts), ("mmio_exits", mmio)] {
            let pointer = format!("/costs/kvm/{name}");
            let (idle, work) = (count("idle", &pointer), count("read-4k-d1", &pointer));
            let reads = count("read-4k-d1", "/reads");
            let each = work.zip(idle).zip(reads);
            let each = each.map(|((work, idle), reads)| (work - idle) / reads);
            expect(each.is_some_and(|each| wanted.contains(&each)), || {
                format!("subject {subject}: {each:?} {name} for each read, not {wanted:?}")
            })?;
        }
    }
    Ok(())
}

/// Without its map, a read one at a time is at least one exit to mini-vmm, for the doorbell.
/// Without irqfds, a thread wakes for each read. All other guests have neither.
fn check_costs(report: &Value) -> Result<()> {
    for (subject, exits, wakeups) in [(1, false, false), (2, true, false), (3, false, true)] {
        let count = |work: &str, pointer: &str| {
            let counts = report["counts"].as_array().into_iter().flatten();
            let mut of = counts.filter(|c| c["subject"] == subject && c["work"] == work);
            of.next()?.pointer(pointer)?.as_f64()
        };
        let reads = count("read-4k-d1", "/reads").unwrap_or(0.0);
        expect(reads > 100.0, || {
            format!("subject {subject}: {reads} reads were counted")
        })?;
        for (key, wanted) in [("vmm_exits", exits), ("wakeups", wakeups)] {
            let pointer = format!("/costs/{key}");
            let work = count("read-4k-d1", &pointer).unwrap_or(-1.0);
            let each = (work - count("idle", &pointer).unwrap_or(0.0)) / reads;
            let fits = match wanted {
                true => each >= 0.95,
                false => each.abs() <= 0.05,
            };
            expect(fits, || {
                format!("subject {subject}: {each} {key} for each read")
            })?;
        }
    }
    Ok(())
}

/// A mounted disk is refused. SIGKILL comes in the host's turn, while the device is bound, while
/// the guest boots and while it works; SIGINT in a guest's turn.
fn ends() -> String {
    let bdf = DISK.bdf();
    let bench = format!(
        "mini-vmm-bench {bdf} --guest-kernel /boot/bzImage --guest-cmdline \"$cmdline\" \
         --memory 256M --quick --measure 1 --rounds 1 --output /run/report"
    );
    format!(
        "drivers >/run/drivers\nmkdir -p /mnt\n\
         disk=$(disk_of {bdf})\ndd if=$disk of=/run/before bs=1M 2>/dev/null\n\
         mke2fs $disk >/dev/null\nmount -t ext4 $disk /mnt\n\
         status=0\n{bench} >/run/out 2>&1 || status=$?\n\
         say mounted $status $(grep -c 'mounted at /mnt' /run/out)\nstate mounted\n\
         umount /mnt\ndd if=/run/before of=$disk bs=1M 2>/dev/null\nsync\n\
         for moment in 0.5 3 4 6; do\n\
         {bench} >/run/out 2>&1 & pid=$!\nsleep $moment\n\
         say at $moment $(driver_of {bdf})\nkill -KILL $pid\nwait $pid || say killed $?\n\
         for _ in $(seq 100); do pidof mini-vmm >/dev/null || break; sleep 0.1; done\n\
         await_driver {bdf} nvme\n\
         for _ in $(seq 50); do pidof vmm-guardian >/dev/null || break; sleep 0.1; done\n\
         state KILL-$moment\ndisk_of {bdf} >/dev/null\ndone\n\
         {bench} >/run/out 2>&1 & pid=$!\nsleep 5\nkill -INT $pid\n\
         status=0\nwait $pid || status=$?\nsay interrupted $status\nstate INT\n\
         say_back {bdf}\n"
    )
}

fn check_ends(outcome: &Outcome) -> Result<()> {
    let kills = ["KILL-0.5", "KILL-3", "KILL-4", "KILL-6"];
    let wanted = [&["mounted"][..], &kills, &["INT"]].concat();
    states(outcome, &wanted)?;
    for (key, wanted) in [
        ("mounted", &["1 1"][..]),
        ("killed", &["137"; 4]),
        ("interrupted", &["130"]),
    ] {
        let found: Vec<_> = outcome.transcript.lab(key).collect();
        expect(found == wanted, || format!("{key}: {found:?}"))?;
    }
    // At least one SIGKILL must have come while the guest had the device.
    let bound = outcome
        .transcript
        .lab("at")
        .any(|at| at.ends_with("vfio-pci"));
    expect(bound, || {
        "no SIGKILL came while the device was bound".into()
    })?;
    DISK.check_untouched(&outcome.image(DISK.serial))
}

pub(super) fn states(outcome: &Outcome, names: &[&str]) -> Result<()> {
    let states: Vec<_> = outcome.transcript.lab("state").collect();
    let wanted: Vec<_> = names
        .iter()
        .map(|n| format!("{n} same records=0"))
        .collect();
    expect(states == wanted, || format!("L1's drivers were {states:?}"))
}
