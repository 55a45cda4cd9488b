//! A guest in a container: podman with runc, in a Debian root below L1, starts the project's image
//! with the nodes that `host cdi` has written, by both interfaces. The guest has the disk.

use lab::disk::Disk;
use lab::expect::{back_with_guest_text, exit, expect, run, used, worked};
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::transcript::number;
use lab::{Result, debian, vmm};

const DISK: Disk = Disk::new("lab-disk", 5);
/// The device number of the disk with Debian's root file system.
const DEBIAN: u8 = 6;

const INSTALL: &str = include_str!("containers/install.sh");
const ENGINE: &str = include_str!("containers/engine.sh");

/// The interfaces, in the order of the runs.
const INTERFACES: [&str; 2] = ["container", "iommufd"];

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("a_guest_in_a_container_has_the_disk")
            .built("mini-vmm.oci.tar", vmm::image)
            .machine(|l1| {
                l1.debian = Some((DEBIAN, debian::CONTAINERS));
                l1.memory = 2048;
            })
            .disk(DISK)
            .limit(600)
            .apart()
            .script(script(), check),
    ]
}

fn script() -> String {
    format!(
        "device={}\nmkdir /mnt\nmount -t ext4 $(disk_of 0000:00:{DEBIAN:02x}.0) /mnt\n\
         mkdir /mnt/lab\ncat >/mnt/lab/engine.sh <<'SH'\n{ENGINE}SH\n{INSTALL}",
        DISK.bdf()
    )
}

/// Each interface has two runs: with too low a limit of locked memory, and with the one that the
/// message about that names.
fn check(outcome: &Outcome) -> Result<()> {
    let facts = |key: &'static str| outcome.transcript.lab(key).collect::<Vec<_>>();
    let group = facts("group").concat();
    let nodes = [
        format!("/dev/kvm /dev/vfio /dev/vfio/{group} /dev/vfio/vfio"),
        "/dev/iommu /dev/kvm /dev/vfio /dev/vfio/devices /dev/vfio/devices/vfio0".into(),
    ];
    let seen = facts("nodes");
    expect(seen == nodes, || format!("the containers' nodes: {seen:?}"))?;
    let told = facts("host-out").into_iter().chain(facts("host-err"));
    let notes = told.filter(|line| line.contains("--ulimit memlock=-1:-1"));
    expect(notes.count() == INTERFACES.len(), || {
        "`host cdi` did not tell the limit of locked memory".into()
    })?;
    for (index, interface) in INTERFACES.into_iter().enumerate() {
        let limited = run(outcome, 2 * index)?;
        exit(&limited, 1)?;
        let told = |line: &&str| line.contains("RLIMIT_MEMLOCK");
        expect(limited.messages().any(|line| told(&line)), || {
            format!("{interface}: the limit of locked memory was not named")
        })?;
        let ran = run(outcome, 2 * index + 1)?;
        exit(&ran, 0)?;
        used(&ran, interface)?;
        worked(outcome, &ran, &DISK)?;
    }
    let looks = facts("sandbox");
    let is_confined =
        |look: &&str| number(look, "threads") > Some(2) && number(look, "lacks") == Some(0);
    expect(
        looks.len() == INTERFACES.len() && looks.iter().all(is_confined),
        || format!("not every thread was confined: {looks:?}"),
    )?;
    let state = facts("state");
    expect(state == ["unbound same records=0"], || format!("{state:?}"))?;
    back_with_guest_text(outcome, &DISK)
}
