use super::*;
use crate::transcript::{Line, Transcript};

fn outcome(lines: &[&str]) -> Outcome {
    let lines = lines.iter().map(|raw| Line::new(Duration::ZERO, raw));
    Outcome {
        transcript: Transcript {
            lines: lines.collect(),
        },
        dir: "/nowhere".into(),
    }
}

#[test]
fn a_plain_scenario_binds_runs_and_gives_back() {
    let scenario = Scenario::new("unit")
        .disk(Disk::new("unit", 5))
        .disk_with(Disk::new("other", 6), ",slot=7")
        .before("first")
        .vmm("--memory 512M")
        .l1("last");
    assert_eq!(
        scenario.l1_script("quiet panic=-1"),
        "boot='--kernel bzImage --initrd initrd'\ncmdline='quiet panic=-1'\nfirst\n\
         bind_vfio 0000:00:05.0\nbind_vfio 0000:00:06.0\n\
         run_vmm $boot --memory 512M --cmdline \"$cmdline\" --vfio 0000:00:05.0 \
         --vfio 0000:00:06.0,slot=7\nlast\n\
         give_back 0000:00:05.0\ngive_back 0000:00:06.0\n"
    );
}

#[test]
fn a_run_that_ends_otherwise_than_expected_is_an_error() {
    let good = [
        "LAB: run mini-vmm",
        "L2| L2: init 6.1",
        "L2| L2: done poweroff",
        "LAB: exit 0",
    ];
    let scenario = Scenario::new("unit").vmm("");
    scenario.verify(&outcome(&good)).unwrap();
    for (index, other) in [
        (0, "LAB: other"),
        (1, "L2| L2: trouble WARNING"),
        (2, "L2| L2: init 6.1"),
        (3, "LAB: exit 1"),
    ] {
        let mut lines = good;
        lines[index] = other;
        let error = scenario.verify(&outcome(&lines)).unwrap_err();
        assert!(error.to_string().starts_with("run 1: "), "{error}");
    }
    let twice = Scenario::new("unit").vmm(Vmm::new("").boots(2));
    assert!(twice.verify(&outcome(&good)).is_err());
    let with_disk = Scenario::new("unit").disk(Disk::new("unit", 5)).vmm("");
    assert!(with_disk.verify(&outcome(&good)).is_err());
    let by = Scenario::new("unit").vmm(Vmm::new("").by("iommufd"));
    assert!(by.verify(&outcome(&good)).is_err());
}

#[test]
fn the_checks_of_a_scenario_are_asked_and_there_must_be_one() {
    let lines = outcome(&["LAB: fact 1"]);
    assert!(Scenario::new("unit").l1("x").verify(&lines).is_err());
    let refuse = |_: &Outcome| Err(Error::failed("no"));
    let own = Scenario::new("unit").script("x", refuse);
    assert_eq!(own.verify(&lines).unwrap_err().to_string(), "no");
    assert!(own.l1_script("quiet").ends_with("cmdline='quiet'\nx"));
    let added = Scenario::new("unit").l1("x").check(|_| Ok(()));
    added.verify(&lines).unwrap();
}

#[test]
fn a_loss_that_the_scenario_does_not_name_is_an_error() {
    let warning = "VMM| WARN 0000:00:05.0: not reset: why [no-reset]; hint: none";
    let quiet = ["LAB: run mini-vmm", "LAB: run mini-vmm"];
    let told = ["LAB: run mini-vmm", "LAB: run mini-vmm", warning];
    let scenario = || Scenario::new("unit").script("x", |_| Ok(()));
    scenario().verify(&outcome(&quiet)).unwrap();
    assert!(scenario().verify(&outcome(&told)).is_err());
    let second = || scenario().degraded(&[&[], &["no-reset"]]);
    second().verify(&outcome(&told)).unwrap();
    assert!(second().verify(&outcome(&quiet)).is_err());
    assert!(second().verify(&outcome(&told[..1])).is_err());
    let first = scenario().degraded(&[&["no-reset"]]);
    assert!(first.verify(&outcome(&told)).is_err());
}

#[test]
fn a_disk_must_come_back_with_what_the_guest_wrote() {
    let back = "LAB: back 0000:00:05.0 driver=nvme text=this is disk unit, as the lab wrote it";
    let wrote = "LAB: guest-wrote 0000:00:05.0 written by the guest to unit";
    let scenario = || {
        let scenario = Scenario::new("unit").disk(Disk::new("unit", 5));
        scenario.l1("x").check(|_| Ok(()))
    };
    assert!(scenario().verify(&outcome(&[back])).is_err());
    scenario().verify(&outcome(&[back, wrote])).unwrap();
    let without = scenario().guests_leave_no_text();
    without.verify(&outcome(&[back])).unwrap();
    assert!(without.verify(&outcome(&[])).is_err());
}

#[test]
fn every_thread_of_a_confined_run_is_looked_at() {
    let good = [
        "LAB: run mini-vmm --kernel k",
        "L2| L2: init 6.1",
        "LAB: sandbox init threads=9 lacks=0",
        "LAB: sandbox plugged threads=9 lacks=0",
        "L2| L2: done poweroff",
        "LAB: exit 0",
    ];
    let scenario = Scenario::new("unit").vmm("");
    scenario.verify(&outcome(&good)).unwrap();
    for (index, other) in [
        // A thread that is not confined, a boot and a device at which nobody looked, no process.
        (2, "LAB: sandbox init threads=9 lacks=1"),
        (2, "LAB: sandbox unplugged threads=9 lacks=0"),
        (2, "LAB: sandbox init threads=0 lacks=0"),
        (3, "LAB: sandbox plugged threads=9 lacks=3"),
        (
            3,
            "VMM| mini-vmm: sandbox: getppid is not in the list of vcpu",
        ),
    ] {
        let mut lines = good;
        lines[index] = other;
        if index == 2 {
            lines[3] = "";
        }
        assert!(scenario.verify(&outcome(&lines)).is_err(), "{other}");
    }
    // Only runs with the sandbox.
    for (command, is_confined) in [
        ("LAB: run mini-vmm --kernel k --sandbox on", true),
        ("LAB: run mini-vmm --config /etc/a.toml", true),
        ("LAB: run mini-vmm --kernel k --sandbox off", false),
        ("LAB: run mini-vmm --sandbox log --kernel k", false),
        ("LAB: run mini-vmm trace -- mini-vmm --kernel k", false),
        ("LAB: run qemu-system-x86_64 --kernel k", false),
    ] {
        let mut without = good;
        (without[0], without[2], without[3]) = (command, "", "");
        let verified = scenario.verify(&outcome(&without));
        assert_eq!(verified.is_err(), is_confined, "{command}");
    }
}
