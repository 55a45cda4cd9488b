//! What the host may lack: memory, devices, KVM.

use std::fs;
use std::path::Path;
use std::process::Command;

use vmm_sys_util::tempdir::TempDir;

use crate::common::elf::TempFile;
use crate::process::{PROGRAM, as_nobody, check_refusal, command, kernel, refused};
use crate::{kvm, skipped};

fn idle() -> TempFile {
    kernel(|g| {
        g.power_off();
    })
}

#[track_caller]
fn bad_devices(addresses: &[&str], message: &str, hint: &str) {
    let kernel = idle();
    let mut arguments = vec!["--kernel", kernel.path().to_str().unwrap()];
    arguments.extend(addresses.iter().flat_map(|a| ["--vfio", a]));
    refused(&arguments, message, hint);
}

#[test]
fn more_memory_than_the_host_has() {
    let kernel = idle();
    let kernel = kernel.path().to_str().unwrap();
    for memory in ["900T", "16777215T"] {
        let arguments = ["--kernel", kernel, "--memory", memory];
        refused(&arguments, "is more than this host has", "--memory ");
    }
}

/// With `check=off`, a guest that touches little of it has more memory than the host.
#[test]
fn memory_that_is_not_checked() {
    if !kvm() {
        return;
    }
    let kernel = idle();
    let kernel = kernel.path().to_str().unwrap();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.split_whitespace().nth(1).unwrap();
    let more = (total.parse::<u64>().unwrap() >> 10) + 1024;
    let memory = format!("{more}M");
    let unchecked = format!("{memory},check=off");
    let arguments = |memory| ["--kernel", kernel, "--memory", memory];
    let hint = format!("--memory {unchecked}");
    refused(&arguments(&memory), "is more than this host has", &hint);
    let output = Command::new(PROGRAM).args(arguments(&unchecked)).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn addresses_that_are_none() {
    for address in [
        "",
        "nonsense",
        "01:00",
        "0000:01:00.8",
        "0000:01:20.0",
        "1:2:3.4.5",
        "0000:01:00.0 ",
        "-1:00.0",
        "/sys/bus/pci/devices",
    ] {
        let message = format!("`{address}` is not the address of a PCI device");
        bad_devices(&[address], &message, "host list");
    }
}

#[test]
fn devices_that_are_not_there() {
    for address in [
        "fe:1f.7",
        "00fe:fe:1f.7",
        "/sys/bus/pci/devices/00fe:fe:1f.7",
    ] {
        bad_devices(&[address], "there is no PCI device 00", "host list");
    }
}

#[test]
fn mediated_devices_that_are_not_there() {
    let uuid = "0f0e0d0c-0b0a-0908-0706-050403020100";
    for address in [uuid.into(), format!("/sys/bus/mdev/devices/{uuid}")] {
        let message = format!("there is no mediated device {uuid} on this host");
        bad_devices(&[&address], &message, "mdev_supported_types");
    }
}

#[test]
fn more_devices_than_a_bus_has_slots() {
    bad_devices(
        &["01:00.0"; 32],
        "PCI bus has 31 free slots",
        "fewer devices",
    );
}

/// Refused before the device is looked at. The lab tests what depends on the host's devices.
#[test]
fn the_same_device_twice() {
    for twin in ["0000:fe:1f.7", "/sys/bus/pci/devices/0000:fe:1f.7"] {
        bad_devices(
            &["fe:1f.7", twin],
            "PCI device 0000:fe:1f.7 is given twice",
            "--vfio 0000:fe:1f.7 once",
        );
    }
}

/// `host bind` and `host unbind` refuse as a run does. `--dry-run` changes nothing.
#[test]
fn devices_that_cannot_be_bound() {
    for (address, message) in [
        ("nonsense", "`nonsense` is not the address of a PCI device"),
        ("fe:1f.7", "there is no PCI device 0000:fe:1f.7"),
    ] {
        for command in ["bind", "unbind"] {
            refused(
                &["host", command, address, "--dry-run"],
                message,
                "host list",
            );
        }
    }
    let arguments = [
        "host",
        "bind",
        "fe:1f.7",
        "--dry-run",
        "--user",
        "no such user",
    ];
    refused(&arguments, "there is no user `no such user`", "/etc/passwd");
}

#[test]
fn only_root_binds() {
    let bind = |command: &str| {
        let mut program = Command::new(PROGRAM);
        program.args(["host", command, "fe:1f.7"]);
        as_nobody(&mut program)
    };
    for command in ["bind", "unbind"] {
        let Some(output) = bind(command) else {
            return;
        };
        check_refusal(&output, "/run/mini-vmm", "only root may");
    }
    let kernel = idle();
    let mut run = command(&kernel, &["--vfio", "fe:1f.7,managed=on"]);
    if let Some(output) = as_nobody(&mut run) {
        check_refusal(&output, "/run/mini-vmm", "only root may");
    }
}

#[test]
fn no_permission_for_kvm() {
    if !kvm() {
        return;
    }
    let node = fs::metadata("/dev/kvm").unwrap();
    let open_to_all = std::os::unix::fs::MetadataExt::mode(&node) & 0o006 == 0o006;
    let kernel = idle();
    let Some(output) = as_nobody(&mut command(&kernel, &[])) else {
        return;
    };
    if open_to_all {
        return skipped("any user may open /dev/kvm here");
    }
    check_refusal(
        &output,
        "cannot open /dev/kvm: Permission denied",
        "usermod -aG kvm",
    );
}

/// A device control group answers EPERM, file permissions EACCES.
#[test]
fn a_control_group_is_named() {
    if !kvm() {
        return;
    }
    let mount = TempDir::new().unwrap();
    let at = mount.as_path().to_str().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "cgroup", "-o", "devices", "none", at])
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        return skipped("no hierarchy of device control groups can be mounted here");
    }
    let group = mount
        .as_path()
        .join(format!("mini-vmm-test-{}", std::process::id()));
    let denied =
        fs::create_dir(&group).and_then(|()| fs::write(group.join("devices.deny"), "c 10:232 rwm"));
    let kernel = idle();
    let inside = |arguments: &[&str]| {
        let script = "echo $$ >\"$0/cgroup.procs\" && exec \"$@\"";
        let mut command = Command::new("sh");
        command
            .args(["-c", script])
            .arg(&group)
            .arg(PROGRAM)
            .args(arguments);
        command.output().unwrap()
    };
    let path = kernel.path().to_str().unwrap();
    let outputs = denied.map(|()| (inside(&["--kernel", path]), inside(&["host", "check"])));
    let _ = fs::remove_dir(&group);
    let _ = Command::new("umount").arg(at).status();
    let Ok((run, check)) = outputs else {
        return skipped("no device control group can be made here");
    };
    let cause = "the device control group of this process forbids it";
    check_refusal(
        &run,
        &format!("cannot open /dev/kvm: {cause}"),
        "DeviceAllow=/dev/kvm rw",
    );
    let check = String::from_utf8_lossy(&check.stdout).replace("\n                          ", " ");
    assert!(
        check.contains(&format!("/dev/kvm may not be used: {cause}")),
        "{check}"
    );
}

/// In a mount namespace with a /dev of its own, as a container has. The kernel's KVM is known by
/// /sys, unless /sys is hidden too.
#[test]
fn no_kvm() {
    match Command::new("unshare").args(["--mount", "true"]).output() {
        Ok(output) if output.status.success() => {}
        _ => return skipped("no mount namespace can be made here"),
    }
    let has_kvm = Path::new("/sys/class/misc/kvm/dev").exists();
    let kernel = idle();
    let run = |prepare: &str| {
        let script = format!("{prepare} && exec \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script, "sh", PROGRAM, "--kernel"]);
        command.arg(kernel.path()).output().unwrap()
    };
    check_refusal(
        &run("mount -t tmpfs none /dev && mount -t tmpfs none /sys/class/misc"),
        "cannot open /dev/kvm: No such file",
        "modprobe kvm_intel",
    );
    if has_kvm {
        check_refusal(
            &run("mount -t tmpfs none /dev"),
            "cannot open /dev/kvm: the kernel has the device, but this /dev does not have the node",
            "mknod /dev/kvm c 10 232",
        );
        check_refusal(
            &run("mount -t tmpfs -o nodev none /dev && mknod /dev/kvm c 10 232"),
            "the node is on a file system that is mounted with nodev: Permission denied",
            "from the host's /dev",
        );
    }
    // No driver has this number.
    check_refusal(
        &run("mount -t tmpfs none /dev && mknod /dev/kvm c 10 254"),
        "cannot open /dev/kvm: no driver is behind the node",
        "modprobe kvm_intel",
    );
}
