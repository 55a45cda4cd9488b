//! Killed commands, running runs, and records that cannot be read.

use std::fs;

use super::*;

/// The command is killed after each of its changes, once for each. The next command recovers, and
/// so does the end of any run.
#[test]
fn a_killed_bind_is_taken_back() {
    for (make, request) in cases() {
        for change in 1.. {
            let fake = make();
            let before = fake.snapshot();
            let host = fake.host();
            fake.kernel.set_fault(Fault::Killed(change));
            let outcome = until_killed(|| bind(&host, &request));
            fake.kernel.set_fault(Fault::Never);
            if let Some(outcome) = outcome {
                outcome.unwrap();
                assert!(change > 1);
                break;
            }
            assert_ne!(fake.snapshot(), before, "change {change}");
            if change % 2 == 0 {
                release_run(&host, Process::this().unwrap()).unwrap();
            } else {
                bind(&host, &BindRequest::default()).unwrap();
            }
            assert_eq!(fake.snapshot(), before, "change {change}");
            assert_eq!(host.records.all().unwrap(), []);
            assert_eq!(host.records.begun().unwrap(), []);
        }
    }
}

/// The next command, which may be killed too, finishes the unbind.
#[test]
fn a_killed_unbind_is_brought_to_its_end() {
    for (make, request) in cases() {
        for change in 1.. {
            let fake = make();
            let before = fake.snapshot();
            let host = fake.host();
            bind(&host, &request).unwrap();
            let addresses: Vec<_> = request.addresses.iter().map(String::as_str).collect();
            fake.kernel.set_fault(Fault::Killed(change));
            let outcome = until_killed(|| unbind(&host, &back(&addresses)));
            if let Some(outcome) = outcome {
                assert!(outcome.unwrap().1.is_empty() && change > 1);
                break;
            }
            while until_killed(|| {
                fake.kernel.set_fault(Fault::Killed(1));
                bind(&host, &BindRequest::default())
            })
            .is_none()
            {}
            fake.kernel.set_fault(Fault::Never);
            assert_eq!(fake.snapshot(), before, "change {change}");
            assert_eq!(host.records.all().unwrap(), []);
        }
    }
}

/// If a guest has opened the device since, the guest keeps it; an unbind gives the device back.
#[test]
fn what_is_open_by_now_stays() {
    let fake = one_disk();
    let before = fake.snapshot();
    let host = fake.host();
    fake.kernel.set_fault(Fault::Killed(3));
    assert!(until_killed(|| bind(&host, &request(&[DISK]))).is_none());
    fake.kernel.set_fault(Fault::Never);
    fake.open("dev/vfio/1");
    bind(&host, &BindRequest::default()).unwrap();
    assert_eq!(fake.driver(DISK).as_deref(), Some("vfio-pci"));
    fake.close_all();
    bind(&host, &BindRequest::default()).unwrap();
    assert_eq!(fake.driver(DISK).as_deref(), Some("vfio-pci"));
    unbind(&host, &back(&[DISK])).unwrap();
    assert_eq!(fake.snapshot(), before);
}

#[test]
fn a_note_of_a_killed_command_that_is_none_stops_nobody() {
    let fake = one_disk();
    let host = fake.host();
    bind(&host, &request(&[DISK])).unwrap();
    let note = fake.dir.as_path().join("run/under-way");
    fs::write(&note, "nonsense").unwrap();
    let error = host.records.begun().unwrap_err();
    assert!(
        error.hint().unwrap().contains("mini-vmm host list"),
        "{error}"
    );
    let (_, errors) = unbind(&host, &back(&[DISK])).unwrap();
    assert!(errors.is_empty() && !note.exists());
}

/// A later program can still finish what its journal says, so this one must not remove the file.
/// What a run has bound itself goes back all the same.
#[test]
fn a_journal_of_a_later_version_is_left_alone() {
    let fake = one_disk();
    let before = fake.snapshot();
    let host = fake.host();
    let run = Process::this().unwrap();
    let ours = BindRequest {
        owner: Some(run),
        ..request(&[DISK])
    };
    bind(&host, &ours).unwrap();
    let journal = fake.dir.as_path().join("run/under-way");
    let text = r#"{"version": 3, "devices": [{"device": "0000:09:00.0"}]}"#;
    fs::write(&journal, text).unwrap();
    for error in [
        bind(&host, &request(&[DISK])).unwrap_err(),
        unbind(&host, &back(&[DISK])).unwrap_err(),
    ] {
        assert!(error.to_string().contains("has version 3"), "{error}");
        assert!(error.hint().unwrap().contains("rm "), "{error}");
        assert_eq!(fs::read_to_string(&journal).unwrap(), text);
    }
    assert_eq!(fake.driver(DISK).as_deref(), Some("vfio-pci"));
    let (lines, errors) = release_run(&host, run).unwrap();
    assert!(matches!(errors[..], [BindError::UnknownJournal { .. }]));
    assert_eq!(lines.len(), 1);
    assert_eq!(fs::read_to_string(&journal).unwrap(), text);
    // What the hint says.
    fs::remove_file(journal).unwrap();
    bind(&host, &BindRequest::default()).unwrap();
    assert_eq!(fake.snapshot(), before);
}

/// Two runs, or a run and a command: the device belongs to the first run until that run ends.
#[test]
fn nobody_takes_what_a_living_run_has() {
    let fake = shared_group();
    let before = fake.snapshot();
    let run = Process::this().unwrap();
    let theirs = BindRequest {
        owner: Some(run),
        group: true,
        ..request(&["02:00.0"])
    };
    bind(&fake.host(), &theirs).unwrap();
    // The third device of the group is given back, as if the run had not bound it.
    unbind(
        &fake.host(),
        &UnbindRequest {
            force: true,
            ..back(&["02:00.2"])
        },
    )
    .unwrap();
    let bound = fake.snapshot();
    let other = Process {
        started: run.started + 1,
        ..run
    };
    let user = Some("65534".to_owned());
    for again in [
        request(&["02:00.0"]),
        request(&["02:00.2"]),
        BindRequest {
            owner: Some(other),
            ..request(&["02:00.1"])
        },
        BindRequest {
            user,
            force: true,
            ..request(&["02:00.0"])
        },
        BindRequest {
            dry_run: true,
            ..request(&["02:00.0"])
        },
    ] {
        let error = bind(&fake.host(), &again).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&format!("belongs to the run of process {}", run.pid)),
            "{text}"
        );
        assert!(error.hint().unwrap().contains("wait until that run ends"));
        assert_eq!(fake.snapshot(), bound);
    }
    let error = unbind(&fake.host(), &back(&["02:00.0"])).unwrap_err();
    assert!(matches!(error, BindError::Owned { .. }), "{error}");
    assert_eq!(fake.snapshot(), bound);
    // The run itself may bind twice.
    bind(
        &fake.host(),
        &BindRequest {
            group: false,
            ..theirs
        },
    )
    .unwrap();
    assert_eq!(fake.snapshot(), bound);
    let (_, errors) = release_run(&fake.host(), run).unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(fake.snapshot(), before);
}

#[test]
fn a_damaged_record_concerns_its_device_alone() {
    let fake = one_disk().device("0000:04:00.0", NVME, Some("nvme"), Some(4));
    let host = fake.host();
    let before = fake.snapshot();
    bind(&host, &request(&[DISK, "04:00.0"])).unwrap();
    let record = fake.dir.as_path().join("run/0000:04:00.0");
    for (text, says) in [
        ("nonsense", "is not a record of mini-vmm"),
        (
            r#"{"version": 3}"#,
            "has version 3, which this mini-vmm does not know",
        ),
    ] {
        fs::write(&record, text).unwrap();
        // The other device can be given back and bound again.
        unbind(&host, &back(&[DISK])).unwrap();
        bind(&host, &request(&[DISK])).unwrap();
        assert_eq!(fake.driver(DISK).as_deref(), Some("vfio-pci"));
        release_run(&host, Process::this().unwrap()).unwrap();
        for error in [
            unbind(&host, &back(&["04:00.0"])).unwrap_err(),
            bind(&host, &request(&["04:00.0"])).unwrap_err(),
        ] {
            assert!(error.to_string().contains(says), "{error}");
            assert!(error.hint().unwrap().contains("rm "));
        }
    }
    unbind(&host, &back(&[DISK])).unwrap();
    assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
    // What the hint says.
    fs::remove_file(record).unwrap();
    unbind(&host, &back(&["04:00.0"])).unwrap();
    assert_eq!(fake.snapshot(), before);
}

#[test]
fn one_with_nothing_to_give_back_keeps_no_other() {
    let fake = one_disk().device("0000:04:00.0", NVME, Some("nvme"), Some(4));
    let before = fake.snapshot();
    for order in [[DISK, "04:00.0"], ["04:00.0", DISK]] {
        bind(&fake.host(), &request(&[DISK])).unwrap();
        for dry_run in [true, false] {
            let request = UnbindRequest {
                dry_run,
                ..back(&order)
            };
            let (lines, errors) = unbind(&fake.host(), &request).unwrap();
            assert!(
                lines.iter().all(|line| line.contains(DISK)) && !lines.is_empty(),
                "{lines:?}"
            );
            let [error @ BindError::NotBound(_)] = &errors[..] else {
                panic!("{errors:?}");
            };
            assert!(
                error.to_string().contains("nothing to give back"),
                "{error}"
            );
        }
        assert_eq!(fake.snapshot(), before);
    }
}

/// Each reason why a device cannot be given back: open, owned by a run, a damaged record, gone.
#[test]
fn one_that_cannot_go_keeps_no_other() {
    const OTHER: &str = "0000:04:00.0";
    type Spoil = fn(&FakeHost);
    let spoils: [(Spoil, &str); 4] = [
        (|fake| fake.open("dev/vfio/4"), "has it open"),
        (
            |fake| {
                let records = fake.host().records;
                let mut record = records.load(OTHER.parse().unwrap()).unwrap().unwrap();
                record.owner = Some(Process::this().unwrap());
                records.save(&record).unwrap();
            },
            "belongs to the run",
        ),
        (
            |fake| fs::write(fake.dir.as_path().join("run").join(OTHER), "x").unwrap(),
            "is not a record",
        ),
        (
            |fake| fake.kernel.remove_device(OTHER.parse().unwrap()),
            "there is no PCI device 0000:04:00.0",
        ),
    ];
    for (spoil, says) in spoils {
        for order in [[DISK, OTHER], [OTHER, DISK]] {
            let fake = one_disk().device(OTHER, NVME, Some("nvme"), Some(4));
            bind(&fake.host(), &request(&order)).unwrap();
            spoil(&fake);
            let alone = unbind(&fake.host(), &back(&[OTHER, OTHER])).unwrap_err();
            assert!(alone.to_string().contains(says), "{alone}");
            for dry_run in [true, false] {
                let request = UnbindRequest {
                    dry_run,
                    ..back(&order)
                };
                let (lines, errors) = unbind(&fake.host(), &request).unwrap();
                assert!(!lines.is_empty() && lines.iter().all(|line| line.contains(DISK)));
                assert!(
                    errors.len() == 1 && errors[0].to_string().contains(says),
                    "{errors:?}"
                );
                assert_eq!(errors[0].hint(), alone.hint());
            }
            assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
        }
    }
}
