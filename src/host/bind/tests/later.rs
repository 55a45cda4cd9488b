//! Changes between a bind and a later command: other drivers, users, devices and processes.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

#[test]
fn drivers_are_loaded_or_said_to_be_missing() {
    let fake = FakeHost::new(&["nvme"]).device(DISK, NVME, Some("nvme"), Some(1));
    let before = fake.snapshot();
    let error = bind(&fake.host(), &request(&[DISK])).unwrap_err();
    assert!(error.to_string().contains("no driver vfio-pci"), "{error}");
    assert!(error.hint().unwrap().contains("modprobe vfio-pci"));
    assert_eq!(fake.snapshot(), before);
    // If a variant driver cannot be loaded, vfio-pci is bound. A variant driver that can be loaded
    // is used.
    fake.kernel.loadable("vfio-pci");
    let aliases = "alias vfio_pci:v00001B36d*sv*sd*bc*sc*i* special_vfio_pci\n";
    fs::write(
        fake.dir.as_path().join("modules/6.1.0/modules.alias"),
        aliases,
    )
    .unwrap();
    bind(&fake.host(), &request(&[DISK])).unwrap();
    assert_eq!(fake.driver(DISK).as_deref(), Some("vfio-pci"));
    unbind(&fake.host(), &back(&[DISK])).unwrap();
    fake.kernel.loadable("special_vfio_pci");
    bind(&fake.host(), &request(&[DISK])).unwrap();
    assert_eq!(fake.driver(DISK).as_deref(), Some("special_vfio_pci"));
    unbind(&fake.host(), &back(&[DISK])).unwrap();
    assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
}

#[test]
fn a_group_stays_its_users_until_the_last_device_goes() {
    let fake = shared_group();
    let ours = BindRequest {
        user: Some("65534".into()),
        ..request(&["02:00.0", "02:00.1"])
    };
    bind(&fake.host(), &ours).unwrap();
    let uid = |node| fake.kernel.owner_of(node).map(|(uid, _)| uid);
    assert_eq!(uid("dev/vfio/2"), Some(65_534));
    assert_eq!(uid("dev/vfio/devices/vfio021"), Some(65_534));
    // Bound without a user: the node remains when the others are given back.
    bind(&fake.host(), &request(&["02:00.2"])).unwrap();
    let chowns = |addresses: &[&str]| {
        let dry = UnbindRequest {
            dry_run: true,
            ..back(addresses)
        };
        let (lines, _) = unbind(&fake.host(), &dry).unwrap();
        let of_group = |line: &&String| line.starts_with("chown") && line.ends_with("/vfio/2");
        lines.iter().filter(of_group).count()
    };
    assert_eq!(chowns(&["02:00.0"]), 0);
    assert_eq!(chowns(&["02:00.0", "02:00.1"]), 1);
    unbind(&fake.host(), &back(&["02:00.0"])).unwrap();
    assert_eq!(uid("dev/vfio/2"), Some(65_534));
    unbind(&fake.host(), &back(&["02:00.1"])).unwrap();
    assert_eq!(uid("dev/vfio/2"), Some(0));
    assert_eq!(uid("dev/vfio/devices/vfio021"), None);
    // From one user to another, and back to root.
    let others = BindRequest {
        user: Some("4000000002".into()),
        ..ours.clone()
    };
    bind(&fake.host(), &ours).unwrap();
    bind(&fake.host(), &others).unwrap();
    assert_eq!(uid("dev/vfio/2"), Some(4_000_000_002));
    unbind(&fake.host(), &back(&["02:00.0"])).unwrap();
    assert_eq!(uid("dev/vfio/2"), Some(4_000_000_002));
    unbind(&fake.host(), &back(&["02:00.1"])).unwrap();
    assert_eq!(uid("dev/vfio/2"), Some(0));
    // With two devices in one unbind, the second device has the node that the first device passed
    // on.
    bind(&fake.host(), &ours).unwrap();
    unbind(&fake.host(), &back(&["02:00.0", "02:00.1"])).unwrap();
    assert_eq!(uid("dev/vfio/2"), Some(0));
}

/// The kernel reuses the names of nodes.
#[test]
fn a_node_that_is_another_devices_by_now_stays_with_its_user() {
    const NODE: &str = "dev/vfio/devices/vfio010";
    for again in [false, true] {
        let fake = one_disk();
        let device = fake.host().sysfs.device_path(DISK.parse().unwrap());
        let ours = BindRequest {
            user: Some("65534".into()),
            ..request(&[DISK])
        };
        bind(&fake.host(), &ours).unwrap();
        let write = |path: PathBuf, text| fake.kernel.write(&path, text).unwrap();
        write(device.join("driver_override"), "\n");
        write(fake.host().driver_path("vfio-pci").join("unbind"), DISK);
        write(fake.host().sysfs.path("bus/pci/drivers_probe"), DISK);
        let theirs = fake.dir.as_path().join(NODE);
        let come = || {
            fs::create_dir_all(theirs.parent().unwrap()).unwrap();
            fs::write(&theirs, "").unwrap();
            fake.kernel.chown(&theirs, 4_000_000_002, None).unwrap();
        };
        if again {
            // Bound again, the device has new nodes.
            bind(&fake.host(), &request(&[DISK])).unwrap();
            let record = fake.host().records.load(DISK.parse().unwrap()).unwrap();
            assert_eq!(record.unwrap().nodes, []);
        } else {
            come();
        }
        unbind(&fake.host(), &back(&[DISK])).unwrap();
        assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
        if !again {
            assert_eq!(fake.kernel.owner_of(NODE), Some((4_000_000_002, 0)));
        }
    }
}

/// A failure undoes the owner changes of its own bind, and keeps earlier owner changes.
#[test]
fn a_failure_leaves_the_nodes_with_the_user_before() {
    let user = |name: &str| BindRequest {
        user: Some(name.into()),
        ..request(&[DISK, "04:00.0"])
    };
    for change in 1..=5 {
        let fake = one_disk().device("0000:04:00.0", NVME, Some("nvme"), Some(4));
        bind(&fake.host(), &user("65534")).unwrap();
        let before = fake.snapshot();
        fake.kernel.set_fault(Fault::At(change));
        let outcome = bind(&fake.host(), &user("4000000002"));
        assert_eq!(outcome.is_err(), change <= 4, "change {change}");
        assert_eq!(fake.snapshot() == before, change <= 4, "change {change}");
    }
}

/// If two users have devices of a group, the later user keeps the node until that user's device is
/// given back.
#[test]
fn a_groups_node_stays_with_the_user_who_got_it_last() {
    let fake = shared_group();
    let user = |name: &str, address: &str| BindRequest {
        user: Some(name.into()),
        ..request(&[address])
    };
    let all = ["02:00.0", "02:00.1", "02:00.2"];
    bind(&fake.host(), &request(&all)).unwrap();
    bind(&fake.host(), &user("65534", "02:00.0")).unwrap();
    bind(&fake.host(), &user("4000000002", "02:00.1")).unwrap();
    unbind(&fake.host(), &back(&["02:00.0"])).unwrap();
    let owner = || fake.kernel.owner_of("dev/vfio/2").map(|(uid, _)| uid);
    assert_eq!(owner(), Some(4_000_000_002));
    unbind(&fake.host(), &back(&["02:00.1"])).unwrap();
    assert_eq!(owner(), Some(0));
}

#[test]
fn a_record_of_a_device_that_is_gone_or_another_is_forgotten() {
    let fake = one_disk();
    bind(&fake.host(), &request(&[DISK])).unwrap();
    fake.kernel.remove_device(DISK.parse().unwrap());
    let gone = unbind(&fake.host(), &back(&[DISK])).unwrap_err();
    assert!(matches!(gone, BindError::NoDevice(_)), "{gone}");
    assert_eq!(fake.host().records.all().unwrap(), []);

    let fake = one_disk();
    bind(&fake.host(), &request(&[DISK])).unwrap();
    fake.set(DISK, "modalias", "pci:v00008086d00001533\n");
    // Another device that has vfio-pci goes to any driver that matches it.
    unbind(&fake.host(), &back(&[DISK])).unwrap();
    assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
    assert_eq!(fake.host().records.all().unwrap(), []);
}

#[test]
fn what_was_bound_by_hand_goes_to_the_user_who_asks() {
    let fake = one_disk();
    let before = fake.snapshot();
    let kernel = &fake.kernel;
    let device = fake.host().sysfs.device_path(DISK.parse().unwrap());
    kernel
        .write(&device.join("driver_override"), "vfio-pci\n")
        .unwrap();
    kernel
        .write(&fake.host().driver_path("nvme").join("unbind"), DISK)
        .unwrap();
    kernel
        .write(&fake.host().sysfs.path("bus/pci/drivers_probe"), DISK)
        .unwrap();
    assert_eq!(fake.driver(DISK).as_deref(), Some("vfio-pci"));
    unbind(&fake.host(), &back(&[DISK])).unwrap();
    assert_eq!(fake.snapshot(), before);
    // A device that was bound here and given back by hand can be bound again.
    bind(&fake.host(), &request(&[DISK])).unwrap();
    kernel.write(&device.join("driver_override"), "\n").unwrap();
    kernel
        .write(&fake.host().driver_path("vfio-pci").join("unbind"), DISK)
        .unwrap();
    kernel
        .write(&fake.host().sysfs.path("bus/pci/drivers_probe"), DISK)
        .unwrap();
    bind(&fake.host(), &request(&[DISK])).unwrap();
    unbind(&fake.host(), &back(&[DISK])).unwrap();
    assert_eq!(fake.snapshot(), before);
}

/// Another program was killed after it had unbound the driver, and there is no record.
#[test]
fn a_device_without_a_driver_goes_to_the_user_who_asks() {
    let fake = one_disk();
    let before = fake.snapshot();
    let host = fake.host();
    let device = host.sysfs.device_path(DISK.parse().unwrap());
    let write = |path: PathBuf, text| fake.kernel.write(&path, text).unwrap();
    write(device.join("driver_override"), "vfio-pci\n");
    write(host.driver_path("nvme").join("unbind"), DISK);
    let (lines, errors) = unbind(&host, &back(&[DISK])).unwrap();
    assert_eq!(lines, [format!("{DISK}: back with nvme")]);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(fake.snapshot(), before);
}

#[test]
fn what_vfio_had_already_stays_there_when_its_nodes_go_back() {
    let fake = FakeHost::new(&["vfio-pci"]).device(DISK, NVME, Some("vfio-pci"), Some(1));
    let ours = BindRequest {
        user: Some("65534".into()),
        ..request(&[DISK])
    };
    bind(&fake.host(), &ours).unwrap();
    fake.kernel.log();
    unbind(&fake.host(), &back(&[DISK])).unwrap();
    let log = fake.kernel.log();
    assert!(
        log.len() == 2 && log.iter().all(|line| line.starts_with("chown 0:0 ")),
        "{log:?}"
    );
    unbind(&fake.host(), &back(&[DISK])).unwrap();
    let probe = format!("echo {DISK} > /sys/bus/pci/drivers_probe");
    assert!(fake.kernel.log().contains(&probe));
}

#[test]
fn what_somebody_else_has_made_of_a_device_is_left() {
    let fake =
        FakeHost::new(&["nvme", "vfio-pci", "uio"]).device(DISK, NVME, Some("nvme"), Some(1));
    bind(&fake.host(), &request(&[DISK])).unwrap();
    let device = fake.host().sysfs.device_path(DISK.parse().unwrap());
    let write = |path: PathBuf, text| fake.kernel.write(&path, text).unwrap();
    write(device.join("driver_override"), "uio\n");
    write(fake.host().driver_path("vfio-pci").join("unbind"), DISK);
    write(fake.host().sysfs.path("bus/pci/drivers_probe"), DISK);
    let theirs = fake.snapshot();
    let (lines, errors) = unbind(&fake.host(), &back(&[DISK])).unwrap();
    assert_eq!(
        (lines, errors.len()),
        (vec![format!("{DISK}: back with uio")], 0)
    );
    assert_eq!(fake.snapshot(), theirs);
    assert_eq!(fake.host().records.all().unwrap(), []);
}

#[test]
fn a_device_that_a_process_has_open_stays() {
    let fake = one_disk();
    bind(&fake.host(), &request(&[DISK])).unwrap();
    fake.open("dev/vfio/1");
    let error = unbind(&fake.host(), &back(&[DISK])).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("qemu (process 4711) has it open"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("--force"));
    assert_eq!(fake.driver(DISK).as_deref(), Some("vfio-pci"));
    // Recovery does not give the device back either, although its run has ended.
    let mut record = fake
        .host()
        .records
        .load(DISK.parse().unwrap())
        .unwrap()
        .unwrap();
    record.owner = Some(Process {
        pid: 1,
        started: 1 << 60,
    });
    fake.host().records.save(&record).unwrap();
    bind(&fake.host(), &BindRequest::default()).unwrap();
    assert_eq!(fake.driver(DISK).as_deref(), Some("vfio-pci"));
    let force = UnbindRequest {
        force: true,
        ..back(&[DISK])
    };
    unbind(&fake.host(), &force).unwrap();
    assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_sysfs_says(
        attributes in proptest::collection::vec(
            (
                "(class|modalias|driver_override|sriov_numvfs|sriov_totalvfs|\
                 sriov_drivers_autoprobe|virtfn0|vfio-dev)",
                proptest::collection::vec(any::<u8>(), 0..40),
            ),
            0..6,
        ),
        functions in proptest::option::of(0u32..3),
    ) {
        let fake = one_disk();
        for (name, text) in &attributes {
            fake.set(DISK, name, text);
        }
        // The made-up kernel reads these itself.
        let read = |name: &str| {
            name.starts_with("sriov") || name == "driver_override" || name == "vfio-dev"
        };
        for dry_run in [true, false] {
            let request = BindRequest { functions, dry_run, ..request(&[DISK]) };
            if dry_run || !attributes.iter().any(|(name, _)| read(name)) {
                let _ = bind(&fake.host(), &request);
                let _ = unbind(&fake.host(), &UnbindRequest { dry_run, ..back(&[DISK]) });
            }
        }
    }
}
