//! Refused requests, and dry runs.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

#[test]
fn mistakes_are_refused_before_anything_is_done() {
    let fake = shared_group()
        .device("0000:05:00.0", NVME, Some("nvme"), None)
        .device("0000:06:00.0", NVME, Some("nvme"), Some(6))
        .device("0000:06:01.0", 0x06_0100, Some("e1000e"), Some(6))
        .bridge("0000:06:01.0", true);
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
            "behind the bridge",
        ),
        (request(&["05:00.0"]), "in no IOMMU group", "intel_iommu=on"),
        (
            request(&["06:00.0"]),
            "the bridge 0000:06:01.0 keeps guests from using IOMMU group 6",
            "another slot",
        ),
        (
            request(&["02:00.0"]),
            "host drivers have 0000:02:00.1 (driver e1000e) of its IOMMU group 2",
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
    let (lines, errors) = unbind(&fake.host(), &back(&["02:00.0"])).unwrap();
    assert_eq!(lines, [""; 0]);
    assert!(matches!(errors[..], [BindError::NotBound(_)]), "{errors:?}");
    assert!(unbind(&fake.host(), &back(&["09:00.0"])).is_err());
    assert_eq!(fake.snapshot(), before);
    // With all devices of the group named, the bind succeeds.
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
    assert_eq!(
        error.hint().unwrap(),
        "as root: umount '/srv'; or force it, as root: the same command with --force"
    );
    assert_eq!(fake.snapshot(), before);
    // The command of a run has no --force.
    let run = BindRequest {
        owner: Some(Process::this().unwrap()),
        ..request(&[DISK])
    };
    let hint = bind(&fake.host(), &run).unwrap_err().hint().unwrap();
    assert!(
        hint.ends_with("mini-vmm host bind 0000:01:00.0 --force"),
        "{hint}"
    );
    // There is no remedy if the root file system is on the device, even if other uses have one.
    let root_too = format!("{mounts}32 1 259:0 / / rw - ext4 /dev/nvme0n1 rw\n");
    fs::write(root.join("proc/self/mountinfo"), root_too).unwrap();
    let error = bind(&fake.host(), &request(&[DISK])).unwrap_err();
    assert!(error.to_string().contains("mounted at /srv"), "{error}");
    assert_eq!(
        error.hint().unwrap(),
        "bind another device: the host needs this one"
    );
    let force = BindRequest {
        force: true,
        ..request(&[DISK])
    };
    bind(&fake.host(), &force).unwrap();
    assert_eq!(fake.driver(DISK).as_deref(), Some("vfio-pci"));
}

#[test]
fn the_parent_of_mediated_devices_stays() {
    const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
    let fake = one_disk();
    let root = fake.dir.as_path();
    let made = fake
        .host()
        .sysfs
        .device_path(DISK.parse().unwrap())
        .join(UUID);
    fs::create_dir_all(&made).unwrap();
    let bus = root.join("sys/bus/mdev/devices");
    fs::create_dir_all(&bus).unwrap();
    symlink(&made, bus.join(UUID)).unwrap();
    // A mediated device of another parent.
    let other = "93b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
    fs::create_dir_all(root.join("sys/devices/other")).unwrap();
    symlink(root.join("sys/devices/other"), bus.join(other)).unwrap();
    let before = fake.snapshot();
    for (force, dry_run) in [(false, false), (true, false), (false, true)] {
        let take = BindRequest {
            force,
            dry_run,
            ..request(&[DISK])
        };
        let error = bind(&fake.host(), &take).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("PCI device {DISK} would lose its mediated devices {UUID}")
        );
        let remove = format!("echo 1 > /sys/bus/mdev/devices/{UUID}/remove");
        assert!(error.hint().unwrap().ends_with(&remove));
        assert_eq!(fake.snapshot(), before);
    }
    fs::remove_file(bus.join(UUID)).unwrap();
    bind(&fake.host(), &request(&[DISK])).unwrap();
}

#[test]
fn a_dry_run_prints_and_does_nothing() {
    let fake = shared_group();
    let before = fake.snapshot();
    let dry = BindRequest {
        group: true,
        dry_run: true,
        user: Some("65534".into()),
        ..request(&["02:00.0"])
    };
    let lines = bind(&fake.host(), &dry).unwrap();
    assert_eq!(
        lines[..4],
        [
            "echo vfio-pci > /sys/bus/pci/devices/0000:02:00.0/driver_override",
            "echo 0000:02:00.0 > /sys/bus/pci/drivers/nvme/unbind",
            "echo 0000:02:00.0 > /sys/bus/pci/drivers_probe",
            "chown 65534 /dev/vfio/2",
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

/// A dry run prints the changes of a real run, in order.
#[test]
fn a_dry_run_prints_every_step() {
    for (make, request) in cases() {
        let fake = make();
        let before = fake.snapshot();
        fake.kernel.loadable("vfio-pci");
        if fake.driver(&request.addresses[0]).as_deref() != Some("vfio-pci") {
            fake.kernel.remove_driver("vfio-pci");
        }
        let dry = BindRequest {
            dry_run: true,
            ..request.clone()
        };
        let printed = bind(&fake.host(), &dry).unwrap();
        fake.kernel.log();
        bind(&fake.host(), &request).unwrap();
        assert_eq!(run_by_hand(&printed), fake.kernel.log(), "{printed:?}");
        // The same for a bound device that another user gets.
        let again = BindRequest {
            user: Some("4000000002".into()),
            functions: None,
            ..request.clone()
        };
        if request.functions.is_none() {
            let dry = BindRequest {
                dry_run: true,
                ..again.clone()
            };
            let printed = bind(&fake.host(), &dry).unwrap();
            bind(&fake.host(), &again).unwrap();
            assert_eq!(run_by_hand(&printed), fake.kernel.log(), "{printed:?}");
        }
        let addresses: Vec<_> = request.addresses.iter().map(String::as_str).collect();
        let dry = UnbindRequest {
            dry_run: true,
            ..back(&addresses)
        };
        let (printed, _) = unbind(&fake.host(), &dry).unwrap();
        let root = fake.dir.as_path().to_str().unwrap();
        let printed: Vec<_> = printed.iter().map(|line| line.replace(root, "")).collect();
        unbind(&fake.host(), &back(&addresses)).unwrap();
        let done = fake.kernel.log();
        // A group's node is passed on between devices, which the plan of one device does not show.
        assert!(
            printed
                .iter()
                .all(|line| line.starts_with("chown ") || done.contains(line))
        );
        assert!(
            done.iter().all(|line| printed.contains(line)),
            "{printed:?} {done:?}"
        );
        if fake.driver(&request.addresses[0]).as_deref() != Some("vfio-pci") {
            // The driver was there before the test.
            fs::create_dir_all(fake.host().driver_path("vfio-pci")).unwrap();
        }
        assert_eq!(fake.snapshot(), before);
    }
}

/// Expands as a shell would: the name of a device's own node, which the made-up kernel derives from
/// the address, and the loop over virtual functions, whose groups are numbered from 100.
fn run_by_hand(lines: &[String]) -> Vec<String> {
    let node = |line: &str, bdf: &str| {
        let (_, chown) = line.split_once("|| ")?;
        let (chown, _) = chown.split_once("$(ls ")?;
        let bdf: pci::Bdf = bdf.parse().ok()?;
        Some(format!("{chown}vfio{:02x}{:x}", bdf.bus, bdf.function))
    };
    let devices = "/sys/bus/pci/devices";
    let mut commands = Vec::new();
    for line in lines {
        if let Some(dir) = line.strip_prefix(&format!("[ ! -d {devices}/")) {
            commands.push(node(line, dir.split('/').next().unwrap()).unwrap());
        } else if line.starts_with("for vf in ") {
            let (_, body) = line
                .split_once("; do vf=$(basename $(readlink $vf)); ")
                .unwrap();
            let body = body.strip_suffix("; done").unwrap();
            for n in 0..3 {
                let bdf = format!("0000:03:00.{}", n + 1);
                let group = format!("$(basename $(readlink {devices}/$vf/iommu_group))");
                for command in body.split("; ") {
                    let command = command.replace(&group, &(100 + n).to_string());
                    let command = command.replace("$vf", &bdf);
                    commands.push(node(&command, &bdf).unwrap_or(command));
                }
            }
        } else if !line.starts_with('#') {
            commands.push(line.clone());
        }
    }
    commands
}
