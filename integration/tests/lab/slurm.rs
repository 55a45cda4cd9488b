//! Jobs of Slurm run guests with real devices: slurmctld, slurmd and munge in a Debian root below
//! L1, with the files of `host slurm`. However a job ends, its device is root's again and reset,
//! and the next job has the device.

use lab::disk::Disk;
use lab::expect::{back_with_guest_text, expect};
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::{Result, debian};

/// Two devices of one node.
const DISKS: [Disk; 2] = [Disk::new("first", 5), Disk::new("second", 6)];
/// The device number of the disk with Debian's root file system.
const DEBIAN: u8 = 7;

const MARKER: &str = include_str!("slurm/marker.sh");
const INSTALL: &str = include_str!("slurm/install.sh");
const STEPS: &str = include_str!("slurm/steps.sh");

/// The register that tells a reset, after a reset.
const CLEAR: &str = "0x00000000";

/// How the jobs of one device end, in order.
const WAYS: [&str; 5] = [
    "scancel",
    "kill",
    "vmm-and-guardian",
    "slurmd",
    "while-slurmd-is-gone",
];

pub fn all() -> Vec<Scenario> {
    let [first, second] = DISKS;
    vec![
        Scenario::new("slurm_gives_devices_to_jobs_and_takes_them_back")
            .machine(|l1| {
                l1.debian = Some((DEBIAN, debian::SLURM));
                l1.memory = 2048;
            })
            .disk(first)
            .disk(second)
            .limit(600)
            .apart()
            .script(script(), check),
    ]
}

fn script() -> String {
    let devices = DISKS.map(|disk| disk.bdf()).join(" ");
    format!(
        "devices='{devices}'\nmkdir /mnt\n\
         mount -t ext4 $(disk_of 0000:00:{DEBIAN:02x}.0) /mnt\nmkdir /mnt/lab\n\
         cat >/mnt/lab/marker.sh <<'SH'\n{MARKER}SH\n\
         cat >/mnt/lab/steps.sh <<'SH'\n{STEPS}SH\n{INSTALL}"
    )
}

fn check(outcome: &Outcome) -> Result<()> {
    let facts = |key: &'static str| outcome.transcript.lab(key).collect::<Vec<_>>();
    let [first, second] = DISKS.map(|disk| disk.bdf());
    let ends = WAYS.into_iter().chain(["other"]);
    let given = format!("{first} owner=65534");
    for (key, wanted) in [
        // While two jobs run, the third one waits.
        ("other", vec![second]),
        ("third", vec!["PD".into()]),
        ("foreign", vec!["refused".into()]),
        ("same-user", vec!["Device or resource busy".into()]),
        ("given", vec![given; WAYS.len()]),
        (
            "end",
            ends.map(|way| {
                format!(
                    "{way} owner=0 mode=600 closed={CLEAR} marked=0x00460000 marker={CLEAR} \
                     driver=vfio-pci"
                )
            })
            .collect(),
        ),
    ] {
        let seen = facts(key);
        expect(seen == wanted, || {
            format!("{key}: {seen:?} instead of {wanted:?}")
        })?;
    }
    // The guest's driver had set the register that tells a reset.
    let markers = facts("marker");
    let is_set = |marker: &&str| marker.starts_with("0x") && *marker != CLEAR;
    expect(
        markers.len() == WAYS.len() && markers.iter().all(is_set),
        || format!("the jobs left the markers {markers:?}"),
    )?;
    // Jobs are ordinary users, whose guests are in the sandbox.
    let looks = facts("sandbox");
    let is_confined = |look: &&str| !look.contains(" threads=0 ") && look.ends_with(" lacks=0");
    expect(
        looks.len() == WAYS.len() && looks.iter().all(is_confined),
        || format!("not every thread was confined: {looks:?}"),
    )?;
    let killed = facts("killed");
    let several = |count: &&str| count.parse::<u32>().is_ok_and(|count| count >= 2);
    expect(killed.len() == 1 && killed.iter().all(several), || {
        format!("{killed:?} processes were killed, not the VMM and its guardian")
    })?;
    DISKS
        .iter()
        .try_for_each(|disk| back_with_guest_text(outcome, disk))
}
