//! What is refused, and what is only said.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

#[test]
fn mistakes_are_refused_before_anything_is_done() {
    let fake = shared_group()
        .device("0000:05:00.0", NVME, Some("nvme"), None)
        .device("0000:06:00.0", NVME, Some("nvme"), Some(6))
        .device("0000:06:01.0", 0x06_0100, Some("e1000e"), Some(6));
    fake.set("0000:05:00.0", "sriov_totalvfs", "0\n");
    let before = fake.snapshot();
    let functions = |count| BindRequest {
        functions: Some(count),
        ..request(&["0000:02:00.0"])
    };
    for (request, says, hints) in [
        (
            request(&["nonsense"]),
            "`nonsense` is not the address",
            "host list",
        ),
        (
            request(&["09:00.0"]),
            "no PCI device 0000:09:00.0",
            "host list",
        ),
        (
            request(&["00:1c.0"]),
            "0000:00:1c.0 is a bridge",
            "behind it",
        ),
        (request(&["05:00.0"]), "in no IOMMU group", "intel_iommu=on"),
        (
            request(&["06:00.0"]),
            "the bridge 0000:06:01.0 keeps IOMMU group 6",
            "another slot",
        ),
        (
            request(&["02:00.0"]),
            "the host keeps 0000:02:00.1 (driver e1000e) of its IOMMU group 2",
            "mini-vmm host bind 0000:02:00.0 --group",
        ),
        (functions(1), "cannot have virtual functions", "--vfs"),
        (
            BindRequest {
                user: Some("no such user".into()),
                ..request(&["02:00.0"])
            },
            "no user `no such user`",
            "/etc/passwd",
        ),
    ] {
        let error = bind(&fake.host(), &request).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert!(error.hint().unwrap().contains(hints), "{:?}", error.hint());
    }
    let unbound = unbind(&fake.host(), &back(&["02:00.0"])).unwrap_err();
    assert!(matches!(unbound, BindError::NotBound(_)));
    assert!(unbind(&fake.host(), &back(&["09:00.0"])).is_err());
    assert_eq!(fake.snapshot(), before);
    // All that keep the group named, it is theirs.
    bind(
        &fake.host(),
        &request(&["02:00.0", "02:00.1", "0000:02:00.0"]),
    )
    .unwrap();
    assert_eq!(fake.driver("0000:02:00.2"), None);
}

#[test]
fn a_device_in_use_stays_unless_it_is_forced() {
    let fake = one_disk();
    let root = fake.dir.as_path();
    let disk = fake
        .host()
        .sysfs
        .device_path(DISK.parse().unwrap())
        .join("nvme/nvme0/nvme0n1");
    fs::create_dir_all(&disk).unwrap();
    fs::write(disk.join("dev"), "259:0\n").unwrap();
    let block = root.join("sys/class/block");
    fs::create_dir_all(&block).unwrap();
    symlink(&disk, block.join("nvme0n1")).unwrap();
    fs::create_dir_all(root.join("proc/self")).unwrap();
    let mounts = "31 1 259:0 / /srv rw - ext4 /dev/nvme0n1 rw\n";
    fs::write(root.join("proc/self/mountinfo"), mounts).unwrap();
    let before = fake.snapshot();
    let error = bind(&fake.host(), &request(&[DISK])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "PCI device 0000:01:00.0 is in use: /dev/nvme0n1 is mounted at /srv"
    );
    let hint = error.hint().unwrap();
    assert!(
        hint.contains("umount '/srv'") && hint.contains("--force"),
        "{hint}"
    );
    assert_eq!(fake.snapshot(), before);
    let force = BindRequest {
        force: true,
        ..request(&[DISK])
    };
    bind(&fake.host(), &force).unwrap();
    assert_eq!(fake.driver(DISK).as_deref(), Some("vfio-pci"));
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
    // It is not taken itself while it has them.
    let error = bind(&fake.host(), &request(&["03:00.0"])).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("would lose its 2 virtual functions"),
        "{error}"
    );
    // One goes back on its own, the other with the physical function.
    unbind(&fake.host(), &back(&["03:00.1"])).unwrap();
    assert_eq!(fake.driver("0000:03:00.1"), None);
    assert_eq!(fake.driver("0000:03:00.2").as_deref(), Some("vfio-pci"));
    unbind(&fake.host(), &back(&["03:00.0"])).unwrap();
    assert_eq!(fake.snapshot(), physical_function_with_same_dir(&fake));
}

/// What [`physical_function`] is before anything was done, in the directory of another.
fn physical_function_with_same_dir(fake: &FakeHost) -> Vec<String> {
    let fresh = physical_function();
    let (from, to) = (fresh.dir.as_path(), fake.dir.as_path());
    let renamed = |line: String| line.replace(from.to_str().unwrap(), to.to_str().unwrap());
    fresh.snapshot().into_iter().map(renamed).collect()
}

#[test]
fn a_dry_run_prints_and_does_nothing() {
    let fake = shared_group();
    let before = fake.snapshot();
    let dry = BindRequest {
        group: true,
        dry_run: true,
        user: Some("4000000001".into()),
        ..request(&["02:00.0"])
    };
    let lines = bind(&fake.host(), &dry).unwrap();
    assert_eq!(
        lines[..4],
        [
            "echo vfio-pci > /sys/bus/pci/devices/0000:02:00.0/driver_override",
            "echo 0000:02:00.0 > /sys/bus/pci/drivers/nvme/unbind",
            "echo 0000:02:00.0 > /sys/bus/pci/drivers_probe",
            "chown 4000000001 /dev/vfio/2",
        ]
    );
    fake.kernel.remove_driver("vfio-pci");
    let lines = bind(&fake.host(), &dry).unwrap();
    assert_eq!(lines[0], "modprobe vfio-pci");
    fake.kernel.loadable("vfio-pci");
    let dry = BindRequest {
        dry_run: false,
        user: None,
        ..dry
    };
    bind(&fake.host(), &dry).unwrap();
    let bound = fake.snapshot();
    let lines = unbind(
        &fake.host(),
        &UnbindRequest {
            dry_run: true,
            ..back(&["02:00.0"])
        },
    );
    let (lines, _) = lines.unwrap();
    assert!(
        lines.ends_with(&[
            "echo > /sys/bus/pci/devices/0000:02:00.0/driver_override".to_owned(),
            "echo 0000:02:00.0 > /sys/bus/pci/drivers/vfio-pci/unbind".to_owned(),
            "echo 0000:02:00.0 > /sys/bus/pci/drivers/nvme/bind".to_owned(),
        ]),
        "{lines:?}"
    );
    assert_eq!(fake.snapshot(), bound);
    unbind(&fake.host(), &back(&["02:00.0"])).unwrap();
    assert_eq!(fake.snapshot(), before);
}
