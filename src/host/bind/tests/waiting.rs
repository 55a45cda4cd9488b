//! Calls of the kernel that do not end, and calls in which the kernel fails.

use std::process::Command;

use super::*;

const OTHER: &str = "0000:04:00.0";

fn two_disks() -> FakeHost {
    one_disk().device(OTHER, NVME, Some("nvme"), Some(4))
}

fn under_way(fake: &FakeHost) -> Vec<(String, bool)> {
    let entries = fake.host().records.begun().unwrap().into_iter();
    let calls = entries.map(|entry| (entry.bdf.to_string(), entry.under_way.is_some()));
    calls.collect()
}

/// Whichever change sleeps: the command ends, nothing else is written for the device, other devices
/// can be bound and given back, and after the sleep the next command puts the device right.
#[test]
fn a_bind_that_sleeps_is_given_up_and_put_right_later() {
    let mut slept = 0;
    for (make, request) in cases() {
        for change in 1.. {
            let fake = make().device(OTHER, NVME, None, Some(4));
            let before = fake.snapshot();
            let host = fake.host();
            fake.kernel.set_fault(Fault::Sleeps(change));
            let outcome = bind(&host, &request);
            if outcome.is_ok() {
                break;
            }
            slept += 1;
            let error = outcome.unwrap_err();
            let text = error.to_string();
            let says = "is under way: the kernel has not ended `echo ";
            assert!(text.contains(says), "change {change}: {text}");
            assert!(error.hint().unwrap().contains("mini-vmm host unbind"));
            let asleep = fake.snapshot();
            fake.kernel.log();
            // The device stays as it is, whatever is asked of it.
            let addresses: Vec<_> = request.addresses.iter().map(String::as_str).collect();
            for again in [
                bind(&host, &request).map(drop),
                unbind(&host, &back(&addresses)).map(drop),
                release_run(&host, Process::this().unwrap()).map(drop),
            ] {
                if let Err(e) = again {
                    assert!(e.to_string().contains("has not ended"), "{e}");
                }
            }
            assert_eq!(fake.kernel.log(), [""; 0], "change {change}");
            assert_eq!(fake.snapshot(), asleep);
            // Another device is free.
            bind(&host, &super::request(&[OTHER])).unwrap();
            assert_eq!(fake.driver(OTHER).as_deref(), Some("vfio-pci"));
            unbind(&host, &back(&[OTHER])).unwrap();
            assert_eq!(fake.snapshot(), asleep);
            assert!(under_way(&fake).iter().any(|(_, call)| *call));
            fake.kernel.wake();
            bind(&host, &BindRequest::default()).unwrap();
            assert_eq!(fake.snapshot(), before, "change {change}");
            assert_eq!(host.records.all().unwrap(), []);
            assert_eq!(host.records.begun().unwrap(), []);
        }
    }
    assert!(slept > 10, "{slept}");
}

#[test]
fn an_unbind_that_sleeps_is_finished_later() {
    let mut slept = 0;
    for (make, request) in cases() {
        for change in 1.. {
            let fake = make();
            let before = fake.snapshot();
            let host = fake.host();
            bind(&host, &request).unwrap();
            let addresses: Vec<_> = request.addresses.iter().map(String::as_str).collect();
            fake.kernel.set_fault(Fault::Sleeps(change));
            let (_, errors) = unbind(&host, &back(&addresses)).unwrap();
            let [BindError::UnderWay(bdf, _)] = &errors[..] else {
                assert!(errors.is_empty(), "{errors:?}");
                break;
            };
            slept += 1;
            let asleep = fake.snapshot();
            assert!(fake.kernel.is_locked(*bdf));
            let alone = unbind(&host, &back(&[&bdf.to_string()])).unwrap_err();
            assert!(matches!(alone, BindError::UnderWay(..)), "{alone}");
            assert_eq!(fake.snapshot(), asleep);
            fake.kernel.wake();
            bind(&host, &BindRequest::default()).unwrap();
            assert_eq!(fake.snapshot(), before, "change {change}");
            assert_eq!(host.records.all().unwrap(), []);
            assert_eq!(host.records.begun().unwrap(), []);
        }
    }
    assert!(slept > 10, "{slept}");
}

/// The kernel fails in a driver and ends the writing process. The lock of the device is never
/// released, so nothing is ever written for the device again.
#[test]
fn a_call_that_the_kernel_lost_is_not_made_again() {
    let fake = two_disks();
    let host = fake.host();
    // The override is the first change, the unbind the second.
    fake.kernel.set_fault(Fault::Oops(2));
    let error = bind(&host, &request(&[DISK])).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("locked until the host is restarted") && text.contains("signal 11"),
        "{text}"
    );
    assert!(error.hint().unwrap().contains("dmesg"));
    fake.kernel.set_fault(Fault::Never);
    fake.kernel.log();
    for _ in 0..3 {
        bind(&host, &BindRequest::default()).unwrap();
        let error = bind(&host, &request(&[DISK])).unwrap_err();
        assert!(error.to_string().contains("is locked"), "{error}");
        let error = unbind(&host, &back(&[DISK])).unwrap_err();
        assert!(error.to_string().contains("is locked"), "{error}");
        let request = UnbindRequest {
            force: true,
            ..back(&[DISK])
        };
        unbind(&host, &request).unwrap_err();
    }
    assert_eq!(fake.kernel.log(), [""; 0]);
    bind(&host, &request(&[OTHER])).unwrap();
    unbind(&host, &back(&[OTHER])).unwrap();
}

/// Another command that waits in a call has given the lock away. It still has its device, and the
/// others of the group.
#[test]
fn what_another_command_changes_is_left_alone() {
    let fake = shared_group().device(OTHER, NVME, Some("nvme"), Some(4));
    let host = fake.host();
    let mut other = Command::new("sleep").arg("60").spawn().unwrap();
    let command = Process::of(other.id());
    let bdf = "0000:02:00.0".parse().unwrap();
    drop(host.records.lock().unwrap());
    host.records.begin(&[Entry::new(bdf, None)]).unwrap();
    let path = fake.dir.as_path().join("run/under-way");
    let text = std::fs::read_to_string(&path).unwrap();
    let ours = Process::this().unwrap();
    let text = text
        .replace(
            &format!("\"pid\": {}", ours.pid),
            &format!("\"pid\": {}", other.id()),
        )
        .replace(
            &format!("\"started\": {}", ours.started),
            &format!("\"started\": {}", command.unwrap().started),
        );
    std::fs::write(&path, text).unwrap();
    let before = fake.snapshot();
    for named in ["02:00.0", "02:00.1"] {
        for error in [
            bind(&host, &request(&[named])).unwrap_err(),
            unbind(&host, &back(&[named])).unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(
                text.contains(&format!("process {}, another mini-vmm", other.id())),
                "{text}"
            );
            assert!(error.hint().unwrap().contains("ps -p "));
        }
        assert_eq!(fake.snapshot(), before);
    }
    bind(&host, &request(&[OTHER])).unwrap();
    unbind(&host, &back(&[OTHER])).unwrap();
    assert_eq!(host.records.begun().unwrap().len(), 1);
    other.kill().unwrap();
    other.wait().unwrap();
    bind(&host, &BindRequest::default()).unwrap();
    assert_eq!(host.records.begun().unwrap(), []);
}

/// A command that was killed while its call slept: the call is not interrupted by recovery if no
/// signal can end it. A call that a signal can end is ended, and undone.
#[test]
fn a_call_of_a_killed_command_is_ended_if_a_signal_can() {
    let fake = one_disk();
    let before = fake.snapshot();
    let host = fake.host();
    fake.kernel.set_fault(Fault::Sleeps(2));
    bind(&host, &request(&[DISK])).unwrap_err();
    // As if the command had been killed before it gave up.
    let path = fake.dir.as_path().join("run/under-way");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("\"given_up\": true", "\"given_up\": false");
    std::fs::write(&path, text).unwrap();
    fake.kernel.set_fault(Fault::Never);
    // The process of the call is a child of this test and sleeps interruptibly.
    let reaper = fake.kernel.clone();
    let thread = std::thread::spawn(move || reaper.reap());
    bind(&host, &BindRequest::default()).unwrap();
    thread.join().unwrap();
    assert_eq!(fake.snapshot(), before);
    assert_eq!(host.records.begun().unwrap(), []);
}

/// The command that recovers may be a run, which goes on for days. What it could not give back does
/// not wait for the end of that run.
#[test]
fn what_a_recovery_left_is_nobodys() {
    let ended = Process {
        pid: std::process::id(),
        started: 1,
    };
    let owned = BindRequest {
        owner: Some(ended),
        ..request(&[DISK])
    };
    // A killed command, and an ended run.
    for killed in [true, false] {
        let fake = one_disk();
        let before = fake.snapshot();
        let host = fake.host();
        if killed {
            fake.kernel.set_fault(Fault::Killed(3));
            assert!(until_killed(|| bind(&host, &request(&[DISK]))).is_none());
        } else {
            bind(&host, &owned).unwrap();
        }
        fake.kernel.set_fault(Fault::Sleeps(2));
        bind(&host, &BindRequest::default()).unwrap();
        let entries = host.records.begun().unwrap();
        assert!(matches!(&entries[..], [e] if e.is_blocked() && e.command.is_none()));
        fake.kernel.wake();
        bind(&host, &BindRequest::default()).unwrap();
        assert_eq!(fake.snapshot(), before);
        assert_eq!(host.records.begun().unwrap(), []);
    }
    // A failure without a sleep leaves no entry.
    let fake = one_disk();
    let before = fake.snapshot();
    let host = fake.host();
    bind(&host, &owned).unwrap();
    fake.kernel.refuse("nvme", DISK);
    bind(&host, &BindRequest::default()).unwrap();
    assert_eq!(host.records.begun().unwrap(), []);
    assert_eq!(host.records.all().unwrap().len(), 1);
    fake.kernel.accept_all();
    unbind(&host, &back(&[DISK])).unwrap();
    assert_eq!(fake.snapshot(), before);
}

/// The devices of one command, with whether the command still has them.
fn claims(fake: &FakeHost) -> Vec<(String, bool)> {
    let entries = fake.host().records.begun().unwrap().into_iter();
    let claims = entries.map(|entry| (entry.bdf.to_string(), entry.command.is_some()));
    claims.collect()
}

/// While a call for the first device sleeps, the lock is free. No other command may take the second
/// device meanwhile, and at the end nothing but the sleeping call is left in the journal.
#[test]
fn all_devices_of_a_command_are_claimed_before_the_first_call() {
    let fake = two_disks();
    let before = fake.snapshot();
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let (host, noted) = (fake.host(), seen.clone());
    fake.kernel.meanwhile(1, move || {
        let entries = host.records.begun().unwrap().into_iter();
        let ours = Process::this().ok();
        *noted.lock().unwrap() = entries
            .map(|entry| (entry.bdf.to_string(), entry.command == ours))
            .collect();
    });
    let both = request(&[DISK, OTHER]);
    bind(&fake.host(), &both).unwrap();
    let all = [DISK, OTHER].map(|bdf| (bdf.to_owned(), true));
    let mut found = seen.lock().unwrap().clone();
    found.sort();
    assert_eq!(found, all);
    assert_eq!(claims(&fake), []);
    unbind(&fake.host(), &back(&[DISK, OTHER])).unwrap();
    assert_eq!(fake.snapshot(), before);

    // The first device's unbind sleeps, or the second one's.
    for (change, asleep) in [(2, DISK), (5, OTHER)] {
        let fake = two_disks();
        let before = fake.snapshot();
        fake.kernel.set_fault(Fault::Sleeps(change));
        let error = bind(&fake.host(), &both).unwrap_err();
        assert!(error.to_string().contains("has not ended"), "{error}");
        assert_eq!(claims(&fake), [(asleep.to_owned(), false)], "{change}");
        // The other device is as it was, and free.
        let other = if asleep == DISK { OTHER } else { DISK };
        assert_eq!(fake.driver(other).as_deref(), Some("nvme"));
        bind(&fake.host(), &request(&[other])).unwrap();
        unbind(&fake.host(), &back(&[other])).unwrap();
        fake.kernel.wake();
        bind(&fake.host(), &BindRequest::default()).unwrap();
        assert_eq!(fake.snapshot(), before, "{change}");
        assert_eq!(claims(&fake), []);
    }
}

/// A command that is killed between the claim and its first change has changed nothing.
#[test]
fn a_claim_without_a_change_is_forgotten() {
    let fake = two_disks();
    let before = fake.snapshot();
    fake.kernel.set_fault(Fault::Killed(1));
    assert!(until_killed(|| bind(&fake.host(), &request(&[DISK, OTHER]))).is_none());
    assert_eq!(claims(&fake).len(), 2);
    fake.kernel.set_fault(Fault::Never);
    fake.kernel.log();
    bind(&fake.host(), &BindRequest::default()).unwrap();
    assert_eq!(fake.snapshot(), before);
    assert!(fake.kernel.log().iter().all(|line| !line.contains(OTHER)));
    assert_eq!(claims(&fake), []);
}

/// The call of a run that resets a device goes on after the run. Nothing is done for the device
/// until it has ended, and then nothing is undone.
/// As for a user who may not write to /run.
#[test]
fn a_call_of_a_run_that_cannot_be_noted_is_told() {
    let fake = two_disks();
    let mut host = fake.host();
    host.records = Records::at("/dev/null/mini-vmm");
    let process = Process::of(std::process::id()).unwrap();
    let said = note_call_or_say(&host, DISK, "close", process).unwrap();
    let who = format!(
        "{DISK}: no record tells later commands of this call, which process {}",
        process.pid
    );
    assert!(
        said.starts_with(&who) && said.contains("/dev/null/mini-vmm"),
        "{said}"
    );
}

#[test]
fn the_call_of_a_run_is_waited_for_and_changes_nothing() {
    let fake = two_disks();
    let host = fake.host();
    bind(&host, &request(&[DISK])).unwrap();
    let bound = fake.snapshot();
    let devices = [OTHER, DISK];
    check_calls(&host, devices).unwrap();
    let mut caller = Command::new("sleep").arg("60").spawn().unwrap();
    let process = Process::of(caller.id()).unwrap();
    for _ in 0..2 {
        let said = note_call_or_say(&host, DISK, "VFIO_DEVICE_RESET", process);
        assert_eq!(said, None);
    }
    for error in [
        check_calls(&host, devices).unwrap_err(),
        unbind(&host, &back(&[DISK])).unwrap_err(),
        bind(&host, &request(&[DISK])).unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(
            text.contains("has not ended `VFIO_DEVICE_RESET`")
                && text.contains("for a run that has ended"),
            "{text}"
        );
        assert!(error.hint().unwrap().contains("can be used again"));
    }
    assert_eq!(fake.snapshot(), bound);
    caller.kill().unwrap();
    caller.wait().unwrap();
    check_calls(&host, devices).unwrap();
    fake.kernel.log();
    bind(&host, &BindRequest::default()).unwrap();
    assert_eq!(fake.kernel.log(), [""; 0]);
    assert_eq!(fake.snapshot(), bound);
    assert_eq!(claims(&fake), []);
    assert_eq!(host.records.all().unwrap().len(), 1);
}
