//! `host bind --persist` on Debian: udev and the initramfs keep the device from the host's driver
//! at the next boot. L1's own script only fills the disk with Debian's root; then the machine is
//! switched on once for each step, with the kernel and the initramfs of that disk.

use std::path::Path;
use std::time::Duration;

use lab::disk::Disk;
use lab::expect::expect;
use lab::host::Host;
use lab::machine::Machine;
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::{Error, Result, debian};

const DISK: Disk = Disk::new("lab-disk", 5);
/// The same kind of disk, which stays with the host.
const TWIN: Disk = Disk::new("twin", 6);
/// The device number of the disk with Debian's root file system. The NVMe driver is needed before
/// that file system is mounted.
const DEBIAN: u8 = 7;
/// A disk of another maker at the first disk's address.
const OTHER: [&str; 4] = [
    "-drive",
    "if=none,id=other,format=raw,file={dir}/lab-disk.img",
    "-device",
    "nvme,drive=other,serial=other,use-intel-id=on,addr=5",
];

const INSTALL: &str = include_str!("persist/install.sh");
const STEPS: &str = include_str!("persist/steps.sh");

/// A boot takes some 30 s, and a new initramfs a minute more.
const LIMIT: Duration = Duration::from_secs(900);

/// A boot of Debian, the machine's difference, and the facts that the step must print.
struct Step {
    /// The emulated processor has AVX and no XSAVE, on which the module of AES fails.
    parameters: &'static str,
    has_other: bool,
    facts: &'static [(&'static str, &'static str)],
}

const STEPS_OF_TEST: [Step; 4] = [
    Step {
        parameters: " root=LABEL=root rw module_blacklist=aesni_intel lab.step=bind",
        has_other: false,
        facts: &[
            ("before", "disk=nvme twin=nvme"),
            ("dry-run", "0 files=0"),
            ("bind", "0"),
            ("after", "disk=vfio-pci twin=nvme"),
            ("told", "0 missing=0"),
        ],
    },
    Step {
        parameters: " root=LABEL=root rw module_blacklist=aesni_intel lab.step=look",
        has_other: false,
        facts: &[
            ("drivers", "disk=vfio-pci twin=nvme"),
            ("met", "disk=0 twin=1"),
            ("listed", "same=true"),
        ],
    },
    Step {
        parameters: " root=LABEL=root rw module_blacklist=aesni_intel lab.step=other",
        has_other: true,
        facts: &[
            ("drivers", "disk=nvme twin=nvme"),
            ("listed", "same=false"),
            ("refused", "1"),
            ("unbind", "0 files=0"),
        ],
    },
    Step {
        parameters: " root=LABEL=root rw module_blacklist=aesni_intel lab.step=look",
        has_other: false,
        facts: &[
            ("drivers", "disk=nvme twin=nvme"),
            ("met", "disk=1 twin=1"),
            ("listed", "same="),
        ],
    },
];

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("a_persistent_device_meets_no_other_driver_at_boot")
            .machine(|l1| l1.debian = Some((DEBIAN, debian::HOST)))
            .disk(DISK)
            .disk(TWIN)
            .apart()
            .script(script(), check),
    ]
}

fn script() -> String {
    format!(
        "mkdir /mnt\nmount -t ext4 $(disk_of 0000:00:{DEBIAN:02x}.0) /mnt\nmkdir /mnt/lab\n\
         cat >/mnt/lab/steps.sh <<'END'\n{STEPS}END\n{INSTALL}"
    )
}

fn check(outcome: &Outcome) -> Result<()> {
    let host = Host::find()?;
    let version = outcome.transcript.lab("kernel").next();
    let version = version.ok_or_else(|| Error::failed("L1 never said \"kernel\""))?;
    for (number, step) in STEPS_OF_TEST.iter().enumerate() {
        boot(&host, outcome, version, (number + 1, step))?;
    }
    debian::check_clean(&outcome.image("debian"))
}

/// Switches the machine on, with the kernel and the initramfs that its disk has now.
fn boot(
    host: &Host,
    outcome: &Outcome,
    version: &str,
    (number, step): (usize, &Step),
) -> Result<()> {
    let image = outcome.image("debian");
    let dir = &outcome.dir;
    let kernel = dir.join("vmlinuz");
    debian::copy_out(&image, &format!("/boot/vmlinuz-{version}"), &kernel)?;
    let initramfs = format!("/boot/initrd.img-{version}");
    debian::copy_out(&image, &initramfs, &dir.join("l1.cpio"))?;
    let disks: &[Disk] = if step.has_other {
        &[TWIN]
    } else {
        &[DISK, TWIN]
    };
    let mut machine = Machine::with_disks(disks);
    machine.parameters = step.parameters;
    machine.debian = Some((DEBIAN, debian::HOST));
    if step.has_other {
        machine.extra = OTHER.map(String::from).into();
    }
    let ended = machine.run(host, dir, &kernel, LIMIT, &mut |_| ())?;
    keep_logs(dir, number)?;
    let what = format!("boot {number} ({})", step.parameters.trim());
    expect(!ended.timed_out, || {
        format!("{what} was still running after {} s", LIMIT.as_secs())
    })?;
    for (key, wanted) in step.facts {
        let seen = ended.transcript.lab(key).next().unwrap_or_default();
        expect(seen == *wanted, || {
            format!("{what}: {key}: {seen:?} instead of {wanted:?}")
        })?;
    }
    Ok(())
}

/// Each boot writes logs of the same names.
fn keep_logs(dir: &Path, number: usize) -> Result<()> {
    for name in ["transcript.log", "l1-kernel.log"] {
        let kept = dir.join(format!("boot-{number}-{name}"));
        std::fs::copy(dir.join(name), &kept)
            .map_err(|e| Error::failed(format!("{} cannot be kept: {e}", kept.display())))?;
    }
    Ok(())
}
