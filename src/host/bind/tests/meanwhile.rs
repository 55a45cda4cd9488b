//! Other commands that work while a call of this command has given the lock away.

use std::fs;
use std::process::{Child, Command};

use super::*;

const OTHER: &str = "0000:04:00.0";

fn two_disks() -> FakeHost {
    one_disk().device(OTHER, NVME, Some("nvme"), Some(4))
}

/// Another command that goes on until the value is dropped.
pub(super) struct Another(Child);

impl Another {
    pub(super) fn new() -> Self {
        Self(Command::new("sleep").arg("60").spawn().unwrap())
    }

    pub(super) fn process(&self) -> Process {
        Process::of(self.0.id()).unwrap()
    }
}

impl Drop for Another {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Adds an entry of another command to the journal.
pub(super) fn change(host: &Host, bdf: &str, command: Process) {
    let mut entries = host.records.readable().unwrap();
    entries.push(Entry {
        command: Some(command),
        ..Entry::new(bdf.parse().unwrap(), None)
    });
    host.records.write_journal(&entries).unwrap();
}

/// A command that is killed after it has bound both disks.
fn killed() -> FakeHost {
    let fake = two_disks();
    fake.kernel.set_fault(Fault::Killed(6));
    assert!(until_killed(|| bind(&fake.host(), &request(&[DISK, OTHER]))).is_none());
    assert_eq!(fake.host().records.begun().unwrap().len(), 2);
    fake.kernel.set_fault(Fault::Never);
    fake.kernel.log();
    fake
}

/// The last device is recovered first. Meanwhile another command recovers the first device and
/// binds it.
#[test]
fn what_another_command_has_bound_meanwhile_stays_bound() {
    let fake = killed();
    let host = fake.host();
    fake.kernel.meanwhile(1, move || {
        let _lock = host.records.lock().unwrap();
        host.records.end(&[DISK.parse().unwrap()]).unwrap();
    });
    bind(&fake.host(), &BindRequest::default()).unwrap();
    assert_eq!(fake.driver(DISK).as_deref(), Some("vfio-pci"));
    assert_eq!(fake.driver(OTHER).as_deref(), Some("nvme"));
    assert_eq!(fake.host().records.all().unwrap().len(), 1);
    assert_eq!(fake.host().records.begun().unwrap(), []);
}

/// While the first device is recovered, another command begins with the last device.
#[test]
fn an_entry_of_another_command_is_not_ended() {
    let fake = killed();
    bind(&fake.host(), &BindRequest::default()).unwrap();
    // The recovery of each disk has the same changes.
    let half = fake.kernel.log().len() / 2;
    let fake = killed();
    let another = Another::new();
    let (host, command) = (fake.host(), another.process());
    fake.kernel.meanwhile(half + 1, move || {
        let _lock = host.records.lock().unwrap();
        change(&host, OTHER, command);
    });
    bind(&fake.host(), &BindRequest::default()).unwrap();
    let entries = fake.host().records.begun().unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].command, Some(another.process()));
}

/// What a command names may be taken by another command during the recovery.
#[test]
fn a_device_that_is_taken_during_the_recovery_is_refused() {
    let fake = two_disks();
    fake.kernel.set_fault(Fault::Killed(3));
    assert!(until_killed(|| bind(&fake.host(), &request(&[OTHER]))).is_none());
    let another = Another::new();
    let (host, command) = (fake.host(), another.process());
    fake.kernel.meanwhile(1, move || {
        let _lock = host.records.lock().unwrap();
        change(&host, DISK, command);
    });
    let error = bind(&fake.host(), &request(&[DISK])).unwrap_err();
    assert!(matches!(error, BindError::Changing { .. }), "{error}");
    assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
    assert_eq!(fake.driver(OTHER).as_deref(), Some("nvme"));
}

/// While the one device of an ended run is given back, something happens to its other device.
#[test]
fn the_other_device_of_an_ended_run_is_looked_at_again() {
    type Spoil = fn(&Host, &str, Process);
    let spoils: [Spoil; 4] = [
        |host, bdf, living| {
            let bdf = bdf.parse().unwrap();
            let mut record = host.records.load(bdf).unwrap().unwrap();
            record.owner = Some(living);
            host.records.save(&record).unwrap();
        },
        |host, bdf, _| {
            let bdf = bdf.parse().unwrap();
            let mut record = host.records.load(bdf).unwrap().unwrap();
            record.owner = None;
            host.records.save(&record).unwrap();
        },
        |host, bdf, living| change(host, bdf, living),
        |host, bdf, _| fs::write(host.records.file(bdf), "nonsense").unwrap(),
    ];
    let run = Process {
        pid: std::process::id(),
        started: 1,
    };
    let another = Another::new();
    for (at, spoil) in spoils.into_iter().enumerate() {
        for by_run in [false, true] {
            let fake = two_disks();
            let owned = BindRequest {
                owner: Some(run),
                ..request(&[DISK, OTHER])
            };
            bind(&fake.host(), &owned).unwrap();
            // A run gives back the last device first.
            let (first, then) = if by_run { (OTHER, DISK) } else { (DISK, OTHER) };
            let (host, living) = (fake.host(), another.process());
            fake.kernel.meanwhile(1, move || {
                let _lock = host.records.lock().unwrap();
                spoil(&host, then, living);
            });
            if by_run {
                let (lines, errors) = release_run(&fake.host(), run).unwrap();
                assert_eq!(lines.len(), 1, "{at}: {lines:?}");
                assert_eq!(errors.len(), usize::from(at == 2), "{at}: {errors:?}");
            } else {
                bind(&fake.host(), &BindRequest::default()).unwrap();
            }
            assert_eq!(fake.driver(first).as_deref(), Some("nvme"), "{at}");
            assert_eq!(fake.driver(then).as_deref(), Some("vfio-pci"), "{at}");
        }
    }
}

/// A journal of a later version, which appears meanwhile, does not keep a run's devices from the
/// host.
#[test]
fn a_run_gives_back_its_devices_whatever_the_journal_becomes() {
    let fake = two_disks();
    let before = fake.snapshot();
    let run = Process::this().unwrap();
    let owned = BindRequest {
        owner: Some(run),
        ..request(&[DISK, OTHER])
    };
    bind(&fake.host(), &owned).unwrap();
    let journal = fake.dir.as_path().join("run/under-way");
    fake.kernel.meanwhile(1, move || {
        fs::write(journal, r#"{"version": 3, "devices": []}"#).unwrap();
    });
    let (lines, errors) = release_run(&fake.host(), run).unwrap();
    assert_eq!((lines.len(), errors.len()), (2, 0), "{errors:?}");
    assert_eq!(fake.snapshot(), before);
}
