//! A guest as a service of systemd: L1 goes on as Debian with systemd, and the unit of the Debian
//! package starts guests with a passed-through disk.

use lab::disk::Disk;
use lab::expect::{back_with_guest_text, expect};
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::{Error, Result, debian};

const DISK: Disk = Disk::new("lab-disk", 5);
/// The device number of the disk with Debian's root file system.
const DEBIAN: u8 = 6;

const UNIT: &str = include_str!("../../../resources/package/mini-vmm@.service");
const INSTALL: &str = include_str!("service/install.sh");
const STEPS: &str = include_str!("service/steps.sh");

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("systemd_starts_and_stops_guests_as_services")
            .machine(|l1| l1.debian = Some((DEBIAN, debian::GUEST)))
            .disk(DISK)
            .limit(600)
            .apart()
            .script(script(), check),
    ]
}

fn script() -> String {
    format!(
        "mkdir /mnt\nmount -t ext4 $(disk_of 0000:00:{DEBIAN:02x}.0) /mnt\n\
         cat >'/mnt/lib/systemd/system/mini-vmm@.service' <<'END'\n{UNIT}END\n\
         mkdir /mnt/lab\ncat >/mnt/lab/steps.sh <<'END'\n{STEPS}END\n{INSTALL}"
    )
}

fn check(outcome: &Outcome) -> Result<()> {
    let fact = |key: &'static str| outcome.transcript.lab(key).next().unwrap_or_default();
    for (key, wanted) in [
        // A guest that cannot start is never active.
        ("bad", "unit=failed result=exit-code driver=nvme records=0"),
        ("bad-start", "1"),
        (
            "started",
            "unit=active result=success driver=vfio-pci records=1",
        ),
        ("ran", "1"),
        // The power button, which the guest hears.
        (
            "stopped",
            "unit=inactive result=success driver=nvme records=0",
        ),
        ("pressed", "1"),
        // A guest that does not listen is ended after a minute.
        ("deaf", "unit=inactive result=success driver=nvme records=0"),
        // Nobody of the run is left to give the disk back.
        ("killed", "unit=failed result=signal driver=nvme records=0"),
        ("left", "0"),
    ] {
        let seen = fact(key);
        expect(seen == wanted, || {
            format!("{key}: {seen:?} instead of {wanted:?}")
        })?;
    }
    let number = |key| {
        let text = fact(key);
        let number = text.parse::<u64>();
        number.map_err(|_| Error::failed(format!("{key} is no number, but {text:?}")))
    };
    let processes = number("processes")?;
    expect(processes >= 2, || {
        format!("the unit had {processes} processes, not a guardian too")
    })?;
    let waited = number("waited")?;
    expect((60..90).contains(&waited), || {
        format!("the deaf guest was stopped after {waited} s")
    })?;
    back_with_guest_text(outcome, &DISK)
}
