//! Virtual functions: made, used, and removed.

use std::fs;
use std::os::unix::fs::symlink;

use super::meanwhile::{Another, change};
use super::*;

const PF: &str = "0000:03:00.0";
const VF: [&str; 3] = ["0000:03:00.1", "0000:03:00.2", "0000:03:00.3"];

fn make(count: u32) -> BindRequest {
    BindRequest {
        functions: Some(count),
        ..request(&[PF])
    }
}

fn force(addresses: &[&str]) -> UnbindRequest {
    UnbindRequest {
        force: true,
        ..back(addresses)
    }
}

#[test]
fn virtual_functions_have_their_own_mistakes() {
    let fake = physical_function();
    let ask = |count| BindRequest {
        functions: Some(count),
        ..request(&["03:00.0"])
    };
    let error = bind(&fake.host(), &ask(5)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("4 virtual functions at most, not 5"),
        "{error}"
    );
    bind(&fake.host(), &ask(2)).unwrap();
    let error = bind(&fake.host(), &ask(2)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("has 2 virtual functions already"),
        "{error}"
    );
    // The physical function is not bound itself while it has virtual functions.
    let before = fake.snapshot();
    for force in [false, true] {
        let take = BindRequest {
            force,
            ..request(&["03:00.0"])
        };
        let error = bind(&fake.host(), &take).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("would lose its 2 virtual functions"),
            "{text}"
        );
        assert!(!error.hint().unwrap().contains("--force"));
        assert_eq!(fake.snapshot(), before);
    }
    // One function is given back alone, the other with the physical function.
    unbind(&fake.host(), &back(&["03:00.1"])).unwrap();
    assert_eq!(fake.driver("0000:03:00.1"), None);
    assert_eq!(fake.driver("0000:03:00.2").as_deref(), Some("vfio-pci"));
    unbind(&fake.host(), &back(&["03:00.0"])).unwrap();
    assert_eq!(fake.snapshot(), physical_function_with_same_dir(&fake));
}

/// The snapshot of a new [`physical_function`] with the directory name of another host.
fn physical_function_with_same_dir(fake: &FakeHost) -> Vec<String> {
    let fresh = physical_function();
    let (from, to) = (fresh.dir.as_path(), fake.dir.as_path());
    let renamed = |line: String| line.replace(from.to_str().unwrap(), to.to_str().unwrap());
    fresh.snapshot().into_iter().map(renamed).collect()
}

/// In both cases: a bind made the functions, or another program made them.
#[test]
fn a_function_that_is_used_keeps_them_all() {
    for by_physical in [true, false] {
        let fake = physical_function();
        if by_physical {
            bind(&fake.host(), &make(2)).unwrap();
        } else {
            // The physical function is bound for a guest, and another program made its functions.
            bind(&fake.host(), &request(&[PF])).unwrap();
            let numvfs = fake.host().sysfs.device_path(PF.parse().unwrap());
            let write = |name: &str, text| fake.kernel.write(&numvfs.join(name), text).unwrap();
            write("sriov_drivers_autoprobe", "0");
            write("sriov_numvfs", "2");
            write("sriov_drivers_autoprobe", "1");
            bind(&fake.host(), &request(&VF[..2])).unwrap();
        }
        // Bound again, the function has a record of its own without `along`.
        unbind(&fake.host(), &back(&[VF[1]])).unwrap();
        bind(&fake.host(), &request(&[VF[1]])).unwrap();
        fake.open("dev/vfio/101");
        let bound = fake.snapshot();
        for dry_run in [true, false] {
            let request = UnbindRequest {
                dry_run,
                ..back(&[PF])
            };
            let error = unbind(&fake.host(), &request).unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains("functions of 0000:03:00.0 would be removed"),
                "{text}"
            );
            assert!(
                text.contains("0000:03:00.2 is in use: qemu (process 4711)"),
                "{text}"
            );
            let hint = error.hint().unwrap();
            assert!(
                hint.contains("mini-vmm host unbind 0000:03:00.0 --force"),
                "{hint}"
            );
        }
        assert_eq!(fake.snapshot(), bound);
        // The other function may be given back, and with --force all. Their records are removed.
        unbind(&fake.host(), &back(&[VF[0]])).unwrap();
        let (_, errors) = unbind(&fake.host(), &force(&[PF])).unwrap();
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(fake.snapshot(), physical_function_with_same_dir(&fake));
        assert_eq!(fake.host().records.all().unwrap(), []);
    }
}

#[test]
fn a_function_that_the_host_uses_keeps_them_all() {
    let fake = physical_function();
    bind(&fake.host(), &make(2)).unwrap();
    unbind(&fake.host(), &back(&[VF[0]])).unwrap();
    let driver = fake.host().driver_path("nvme");
    let function = fake.host().sysfs.device_path(VF[0].parse().unwrap());
    symlink(driver, function.join("driver")).unwrap();
    fs::write(function.join("boot_vga"), "1\n").unwrap();
    let error = unbind(&fake.host(), &back(&[PF])).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("0000:03:00.1 is in use: it is the display"),
        "{error}"
    );
    assert!(
        error
            .hint()
            .unwrap()
            .contains("host unbind 0000:03:00.0 --force")
    );
    fs::write(function.join("boot_vga"), "0\n").unwrap();
    unbind(&fake.host(), &back(&[PF])).unwrap();
    assert_eq!(fake.snapshot(), physical_function_with_same_dir(&fake));
}

/// The end of a run does not remove a function that another guest uses. A later recovery removes
/// it.
#[test]
fn a_function_outlives_the_run_of_its_physical_function() {
    let fake = physical_function();
    let run = Process {
        pid: std::process::id(),
        started: 1,
    };
    let owned = BindRequest {
        owner: Some(run),
        ..request(&[PF])
    };
    bind(&fake.host(), &owned).unwrap();
    let physical = fake.host().sysfs.device_path(PF.parse().unwrap());
    fake.kernel
        .write(&physical.join("sriov_drivers_autoprobe"), "0")
        .unwrap();
    fake.kernel
        .write(&physical.join("sriov_numvfs"), "1")
        .unwrap();
    fake.kernel
        .write(&physical.join("sriov_drivers_autoprobe"), "1")
        .unwrap();
    let function = fake.host().sysfs.device_path(VF[0].parse().unwrap());
    fake.kernel
        .write(&function.join("driver_override"), "vfio-pci\n")
        .unwrap();
    fake.kernel
        .write(&fake.host().sysfs.path("bus/pci/drivers_probe"), VF[0])
        .unwrap();
    fake.open("dev/vfio/100");
    let bound = fake.snapshot();
    let (lines, errors) = release_run(&fake.host(), run).unwrap();
    assert!(
        lines.is_empty() && errors.len() == 1,
        "{lines:?} {errors:?}"
    );
    bind(&fake.host(), &BindRequest::default()).unwrap();
    assert_eq!(fake.snapshot(), bound);
    fake.close_all();
    bind(&fake.host(), &BindRequest::default()).unwrap();
    assert_eq!(fake.snapshot(), physical_function_with_same_dir(&fake));
}

/// A physical function that has a record: it is bound, or its earlier functions are gone.
#[test]
fn a_failure_leaves_a_bound_physical_function_as_it_was() {
    for earlier in [false, true] {
        for change in 1.. {
            let fake = physical_function();
            bind(&fake.host(), &request(&[PF])).unwrap();
            if earlier {
                bind(&fake.host(), &make(2)).unwrap();
                fake.kernel.forget_functions(PF);
            }
            let before = fake.snapshot();
            fake.kernel.set_fault(if earlier {
                Fault::Killed(change)
            } else {
                Fault::At(change)
            });
            let host = fake.host();
            let outcome = until_killed(|| bind(&host, &make(3)));
            fake.kernel.set_fault(Fault::Never);
            if matches!(outcome, Some(Ok(_))) {
                assert!(change > 1);
                break;
            }
            bind(&host, &BindRequest::default()).unwrap();
            assert_eq!(fake.snapshot(), before, "{earlier} change {change}");
            let records = host.records.all().unwrap();
            assert_eq!(records.len(), 1, "{records:?}");
            assert_eq!((records[0].functions, records[0].autoprobe), (None, false));
            let (_, errors) = unbind(&host, &back(&[PF])).unwrap();
            assert!(errors.is_empty(), "{errors:?}");
            assert_eq!(fake.snapshot(), physical_function_with_same_dir(&fake));
        }
    }
}

/// While the physical function has a host driver, a guest cannot use functions in the same group.
#[test]
fn functions_that_share_a_group_with_a_host_driver_are_unmade() {
    let fake = physical_function();
    fake.set(PF, "no_acs", "");
    let before = fake.snapshot();
    let error = bind(&fake.host(), &make(2)).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("the virtual functions of 0000:03:00.0 cannot be passed through")
            && text.contains("host drivers have 0000:03:00.0 (driver nvme) of its IOMMU group 3")
            && text.ends_with("; all changes were undone"),
        "{text}"
    );
    assert!(error.hint().unwrap().contains("ACS"));
    assert_eq!(fake.snapshot(), before);
    assert_eq!(fake.host().records.all().unwrap(), []);
}

/// The VF Device ID of the physical function decides the driver of its functions.
#[test]
fn functions_have_a_number_of_their_own() {
    let fake = physical_function();
    fake.set(PF, "sriov_vf_device", "101e\n");
    let aliases = "alias vfio_pci:v00001B36d0000101Esv*sd*bc*sc*i* special_vfio_pci\n";
    fs::write(
        fake.dir.as_path().join("modules/6.1.0/modules.alias"),
        aliases,
    )
    .unwrap();
    let dry = BindRequest {
        dry_run: true,
        ..make(2)
    };
    let lines = bind(&fake.host(), &dry).unwrap();
    assert_eq!(lines[0], "modprobe special_vfio_pci");
    let takes = |line: &String| line.contains("echo special_vfio_pci > ");
    assert!(lines.iter().any(takes), "{lines:?}");
}

/// The device's driver makes fewer, or none with an errno: nothing stays changed.
#[test]
fn functions_that_are_not_made_are_told() {
    let fake = physical_function();
    let dir = fake.host().sysfs.device_path(PF.parse().unwrap());
    let before = fake.snapshot();
    let refused = |makes: String| {
        fs::write(dir.join("makes"), makes).unwrap();
        let error = bind(&fake.host(), &make(3)).unwrap_err();
        fs::remove_file(dir.join("makes")).unwrap();
        assert_eq!(fake.snapshot(), before);
        assert_eq!(fake.host().records.all().unwrap(), []);
        (error.to_string(), error.hint().unwrap())
    };
    let (text, hint) = refused("2".into());
    assert!(
        text.contains("made 2 virtual functions, not 3; all changes were undone"),
        "{text}"
    );
    assert!(hint.contains("--vfs 2"), "{hint}");
    for (errno, says, remedy) in [
        (
            libc::ENOENT,
            "a driver that makes none",
            "host unbind 0000:03:00.0",
        ),
        (
            libc::ENOSPC,
            "no queues or interrupts left",
            "smaller --vfs",
        ),
        (libc::ENOMEM, "no addresses or bus numbers", "pci=realloc"),
    ] {
        let (text, hint) = refused(format!("-{errno}"));
        assert!(
            text.contains(says) && hint.contains(remedy),
            "{text} {hint}"
        );
    }
}

#[test]
fn a_network_cards_functions_need_addresses() {
    let fake = physical_function();
    let dir = fake.host().sysfs.device_path(PF.parse().unwrap());
    fs::create_dir_all(dir.join("net/enp3s0f0")).unwrap();
    let lines = bind(&fake.host(), &make(2)).unwrap();
    let note = lines
        .iter()
        .find(|line| line.starts_with("note: "))
        .unwrap();
    assert!(
        note.contains("ip link set enp3s0f0 vf N mac") && note.contains("0 to 1"),
        "{note}"
    );
    let other = physical_function();
    let lines = bind(&other.host(), &make(2)).unwrap();
    assert!(
        lines.iter().all(|line| !line.contains("ip link")),
        "{lines:?}"
    );
}

/// The kernel removes the functions, and waits for one of them.
#[test]
fn functions_that_are_being_removed_are_left_alone() {
    let fake = physical_function();
    bind(&fake.host(), &make(2)).unwrap();
    fake.kernel.log();
    unbind(&fake.host(), &back(&[PF])).unwrap();
    let log = fake.kernel.log();
    let removal = log.iter().position(|line| line.contains("sriov_numvfs"));
    let before = fake.snapshot();
    bind(&fake.host(), &make(2)).unwrap();
    fake.kernel.set_fault(Fault::Sleeps(removal.unwrap() + 1));
    let (_, errors) = unbind(&fake.host(), &back(&[PF])).unwrap();
    assert!(
        matches!(errors[..], [BindError::UnderWay(..)]),
        "{errors:?}"
    );
    let asleep = fake.snapshot();
    for error in [
        unbind(&fake.host(), &back(&[VF[0]])).unwrap_err(),
        bind(&fake.host(), &request(&[VF[1]])).unwrap_err(),
    ] {
        let by_physical = matches!(&error, BindError::UnderWay(bdf, _) if bdf.to_string() == PF);
        assert!(by_physical, "{error}");
        assert_eq!(fake.snapshot(), asleep);
    }
    fake.kernel.wake();
    bind(&fake.host(), &BindRequest::default()).unwrap();
    assert_eq!(fake.snapshot(), before);
    assert_eq!(fake.host().records.begun().unwrap(), []);
}

/// Another command changes the physical function or one of its functions.
#[test]
fn a_function_and_its_physical_function_are_changed_by_one_command_alone() {
    let fake = physical_function();
    bind(&fake.host(), &make(2)).unwrap();
    let bound = fake.snapshot();
    let another = Another::new();
    for (theirs, ours, group) in [
        (PF, VF[0], false),
        (PF, VF[1], true),
        (VF[0], PF, false),
        (VF[1], PF, true),
    ] {
        let host = fake.host();
        change(&host, theirs, another.process());
        for error in [
            unbind(&host, &back(&[ours])).unwrap_err(),
            bind(
                &host,
                &BindRequest {
                    group,
                    ..request(&[ours])
                },
            )
            .unwrap_err(),
        ] {
            let is_theirs =
                matches!(&error, BindError::Changing { bdf, .. } if bdf.to_string() == theirs);
            assert!(is_theirs, "{error}");
        }
        assert_eq!(fake.snapshot(), bound);
        host.records.end(&[theirs.parse().unwrap()]).unwrap();
    }
    // Another function of the same device can be changed.
    change(&fake.host(), VF[0], another.process());
    unbind(&fake.host(), &back(&[VF[1]])).unwrap();
    assert_eq!(fake.driver(VF[1]), None);
}
