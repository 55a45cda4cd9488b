//! Tests of bind and unbind on a made-up host: both ways, with and without failures.

mod functions;
mod kills;
mod kinds;
mod lasting;
mod later;
mod meanwhile;
mod old_form;
mod refusals;
mod waiting;

use vmm::sys::process::Process;

use super::*;
use crate::bind::fake::{FakeHost, Fault};

const NVME: u32 = 0x01_0802;
const BRIDGE: u32 = 0x06_0400;
const DISK: &str = "0000:01:00.0";

fn one_disk() -> FakeHost {
    FakeHost::new(&["nvme", "vfio-pci"]).device(DISK, NVME, Some("nvme"), Some(1))
}

/// Three functions, one of them without a driver, and their bridge, all in one group.
fn shared_group() -> FakeHost {
    FakeHost::new(&["nvme", "e1000e", "pcieport", "vfio-pci"])
        .device("0000:00:1c.0", BRIDGE, Some("pcieport"), Some(2))
        .device("0000:02:00.0", NVME, Some("nvme"), Some(2))
        .device("0000:02:00.1", 0x02_0000, Some("e1000e"), Some(2))
        .device("0000:02:00.2", 0x03_0000, None, Some(2))
}

fn physical_function() -> FakeHost {
    let host =
        FakeHost::new(&["nvme", "vfio-pci"]).device("0000:03:00.0", NVME, Some("nvme"), Some(3));
    host.set("0000:03:00.0", "sriov_numvfs", "0\n");
    host.set("0000:03:00.0", "sriov_totalvfs", "4\n");
    host.set("0000:03:00.0", "sriov_drivers_autoprobe", "1\n");
    host
}

fn request(addresses: &[&str]) -> BindRequest {
    BindRequest {
        addresses: addresses.iter().map(|a| (*a).into()).collect(),
        ..BindRequest::default()
    }
}

fn back(addresses: &[&str]) -> UnbindRequest {
    UnbindRequest {
        addresses: addresses.iter().map(|a| (*a).into()).collect(),
        ..UnbindRequest::default()
    }
}

/// Runs a command; `None` if it was killed.
fn until_killed<T>(work: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).ok()
}

/// Hosts of each kind, with a bind.
fn cases() -> Vec<(fn() -> FakeHost, BindRequest)> {
    // The user `nobody`, which is in /etc/passwd: getent(1) is not needed.
    let user = Some("65534".to_owned());
    vec![
        (one_disk, request(&[DISK])),
        (
            || {
                let host = one_disk();
                host.set(DISK, "driver_override", "nvme\n");
                host
            },
            request(&[DISK]),
        ),
        // The override was set after the driver was bound, and names another driver.
        (
            || {
                let host = one_disk();
                host.set(DISK, "driver_override", "vfio-pci\n");
                host
            },
            request(&[DISK]),
        ),
        (
            || {
                let host = one_disk();
                host.set(DISK, "driver_override", "uio\n");
                host
            },
            request(&[DISK]),
        ),
        (
            || FakeHost::new(&["vfio-pci"]).device(DISK, NVME, None, Some(1)),
            request(&[DISK]),
        ),
        (
            shared_group,
            BindRequest {
                group: true,
                user: user.clone(),
                ..request(&["0000:02:00.0"])
            },
        ),
        (
            physical_function,
            BindRequest {
                functions: Some(3),
                user: user.clone(),
                ..request(&["0000:03:00.0"])
            },
        ),
        (
            || FakeHost::new(&["vfio-pci"]).device(DISK, NVME, Some("vfio-pci"), Some(1)),
            BindRequest {
                user,
                ..request(&[DISK])
            },
        ),
    ]
}

#[test]
fn there_and_back() {
    for (make, request) in cases() {
        let fake = make();
        let before = fake.snapshot();
        let host = fake.host();
        let lines = bind(&host, &request).unwrap();
        assert!(!lines.is_empty());
        let bound = fake.snapshot();
        assert_ne!(bound, before);
        let records = host.records.all().unwrap().len();
        assert!(records > 0);
        // A second bind changes nothing. With virtual functions it is refused.
        if request.functions.is_none() {
            bind(&host, &request).unwrap();
            assert_eq!(fake.snapshot(), bound);
            assert_eq!(host.records.all().unwrap().len(), records);
        }
        let addresses: Vec<_> = request.addresses.iter().map(String::as_str).collect();
        let (lines, errors) = unbind(&fake.host(), &back(&addresses)).unwrap();
        assert!(
            errors.is_empty() && lines.len() == records,
            "{lines:?} {errors:?}"
        );
        assert_eq!(fake.snapshot(), before);
        assert_eq!(host.records.all().unwrap(), []);
    }
}

#[test]
fn a_failure_at_any_change_leaves_the_host_as_it_was() {
    for (make, request) in cases() {
        for change in 1.. {
            let fake = make();
            let before = fake.snapshot();
            let host = fake.host();
            fake.kernel.set_fault(Fault::At(change));
            match bind(&host, &request) {
                Err(e) => {
                    assert!(
                        matches!(&e, BindError::Undone { left, .. } if left.is_empty()),
                        "{e}"
                    );
                    assert!(e.to_string().ends_with("; all changes were undone"), "{e}");
                    assert_eq!(fake.snapshot(), before, "change {change}: {e}");
                    assert_eq!(host.records.all().unwrap(), [], "change {change}");
                }
                Ok(_) => {
                    assert!(change > 1);
                    break;
                }
            }
        }
    }
}

/// The record is enough to give the device back after any failure.
#[test]
fn a_bind_that_is_broken_off_can_be_taken_back() {
    for (make, request) in cases() {
        for again in [false, true] {
            for change in 1.. {
                let fake = make();
                let before = fake.snapshot();
                fake.kernel.set_fault(Fault::From(change));
                let outcome = bind(&fake.host(), &request);
                fake.kernel.set_fault(Fault::Never);
                if outcome.is_ok() {
                    assert!(change > 1);
                    break;
                }
                let host = fake.host();
                if again && request.functions.is_none() {
                    // A second bind does the steps that are missing.
                    bind(&host, &request).unwrap();
                }
                let addresses: Vec<_> = request.addresses.iter().map(String::as_str).collect();
                if host.records.all().unwrap().is_empty() {
                    continue;
                }
                let (_, errors) = unbind(&host, &back(&addresses)).unwrap();
                assert!(errors.is_empty(), "change {change}: {errors:?}");
                assert_eq!(fake.snapshot(), before, "change {change}");
                assert_eq!(host.records.all().unwrap(), []);
            }
        }
    }
}

#[test]
fn what_a_killed_run_had_goes_back_at_the_next_command() {
    let ended = Process {
        pid: std::process::id(),
        started: 1,
    };
    for (make, request) in cases() {
        let fake = make();
        let before = fake.snapshot();
        let owned = BindRequest {
            owner: Some(ended),
            ..request.clone()
        };
        bind(&fake.host(), &owned).unwrap();
        if fake
            .host()
            .records
            .all()
            .unwrap()
            .iter()
            .any(|r| r.owner.is_none())
        {
            // A run neither makes virtual functions nor gives nodes to a user.
            continue;
        }
        let nothing = BindRequest::default();
        bind(&fake.host(), &nothing).unwrap();
        assert_eq!(fake.snapshot(), before);
        // The same if the unbind names that device.
        bind(&fake.host(), &owned).unwrap();
        let addresses: Vec<_> = request.addresses.iter().map(String::as_str).collect();
        let (lines, errors) = unbind(&fake.host(), &back(&addresses)).unwrap();
        assert!(!lines.is_empty() && errors.is_empty());
        assert_eq!(fake.snapshot(), before);
        // The run's guardian gives them back in the same way.
        bind(&fake.host(), &owned).unwrap();
        let (lines, errors) = release_run(&fake.host(), ended).unwrap();
        assert!(!lines.is_empty() && errors.is_empty());
        assert_eq!(fake.snapshot(), before);
    }
    // A running run keeps its devices.
    let fake = one_disk();
    let living = BindRequest {
        owner: Some(Process::this().unwrap()),
        ..request(&[DISK])
    };
    bind(&fake.host(), &living).unwrap();
    bind(&fake.host(), &BindRequest::default()).unwrap();
    assert_eq!(fake.driver(DISK).as_deref(), Some("vfio-pci"));
}

#[test]
fn what_cannot_be_undone_is_named_and_can_be_tried_again() {
    let fake = one_disk();
    let before = fake.snapshot();
    fake.kernel.refuse("vfio-pci", DISK);
    fake.kernel.refuse("nvme", DISK);
    let error = bind(&fake.host(), &request(&[DISK])).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("vfio-pci did not bind PCI device 0000:01:00.0"),
        "{text}"
    );
    assert!(
        text.contains("not all changes could be undone") && text.contains("nvme/bind"),
        "{text}"
    );
    assert!(error.hint().unwrap().contains("dmesg"));
    fake.kernel.accept_all();
    unbind(&fake.host(), &back(&[DISK])).unwrap();
    assert_eq!(fake.snapshot(), before);
}

#[test]
fn one_of_a_group_that_cannot_be_bound_frees_them_all() {
    let fake = shared_group();
    let before = fake.snapshot();
    fake.kernel.refuse("vfio-pci", "0000:02:00.1");
    let group = BindRequest {
        group: true,
        ..request(&["0000:02:00.0"])
    };
    let error = bind(&fake.host(), &group).unwrap_err();
    assert!(error.to_string().contains("0000:02:00.1"), "{error}");
    assert_eq!(fake.snapshot(), before);
}
