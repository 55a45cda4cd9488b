//! The rule of `host bind --persist` as udev understands it: the program writes the rule of a
//! made-up host, and udevadm handles events of that host's devices.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use vmm_sys_util::tempdir::TempDir;

use crate::{can_run, in_namespace, text_of, write};

const DISK: &str = "pci0000:00/0000:00:1c.0/0000:01:00.0";
const TWIN: &str = "pci0000:00/0000:00:1d.0/0000:02:00.0";
const MODALIAS: &str = "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02";

/// A host with a disk and its twin, without drivers, as at the beginning of a boot.
fn host(root: &Path) {
    for (number, path) in [DISK, TWIN].into_iter().enumerate() {
        let (_, address) = path.rsplit_once('/').unwrap();
        let home = root.join("sys/devices").join(path);
        write(&home.join("driver_override"), "(null)\n");
        write(&home.join("modalias"), &format!("{MODALIAS}\n"));
        write(&home.join("class"), "0x010802\n");
        let slot = format!("MODALIAS={MODALIAS}\nPCI_SLOT_NAME={address}\n");
        write(&home.join("uevent"), &slot);
        fs::write(home.join("config"), [0; 64]).unwrap();
        symlink("/sys/bus/pci", home.join("subsystem")).unwrap();
        let link = root.join("sys/bus/pci/devices").join(address);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(format!("../../../devices/{path}"), link).unwrap();
        let group = root.join(format!("sys/kernel/iommu_groups/{number}/devices"));
        fs::create_dir_all(&group).unwrap();
        symlink(&home, group.join(address)).unwrap();
        symlink(
            format!("/sys/kernel/iommu_groups/{number}"),
            home.join("iommu_group"),
        )
        .unwrap();
    }
    write(&root.join("sys/bus/pci/drivers_probe"), "");
    for folder in ["sys/class", "dev"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::create_dir_all(root.join("etc/udev/rules.d")).unwrap();
}

/// Writes the rule that `--dry-run` shows, and handles one event of each device in order. Prints
/// what the event of each left.
const SCRIPT: &str = r#"
export SYSTEMD_DEVICE_VERIFY_SYSFS=0
cp /etc/passwd /etc/group "$1/etc"
mount --bind "$1/sys" /sys
mount --bind "$1/etc" /etc
mount -t tmpfs none /run
# udev changes the owners of nodes.
mount -t tmpfs -o mode=755 none "$1/dev"
mknod "$1/dev/null" c 1 3
mknod "$1/dev/made-up" c 1 3
mount --bind "$1/dev" /dev
if [ ! -e /etc/rule ]; then
	"$PROGRAM" host bind 01:00.0 --dry-run --persist --user 1234 |
		sed -n '/^cat > .*\.rules/,/^EOF/p' | sed '1d;$d' >/etc/rule
fi
cp /etc/rule /etc/udev/rules.d/05-mini-vmm-0000:01:00.0.rules
event() {
	echo "== $1"
	udevadm test --action="$2" "/sys/devices/$1" 2>&1 |
		grep -E '05-mini-vmm|^run:|^MINI_VMM|rror|nvalid' || true
	echo "override $(cat /sys/bus/pci/devices/0000:01:00.0/driver_override)"
	echo "twin $(cat /sys/bus/pci/devices/0000:02:00.0/driver_override)"
	echo "probe $(cat /sys/bus/pci/drivers_probe)"
}
"#;

fn run(root: &Path, events: &str) -> Vec<String> {
    let text = text_of(in_namespace(&format!("{SCRIPT}{events}"), root));
    text.lines().map(String::from).collect()
}

fn has(lines: &[String], part: &str) -> bool {
    lines.iter().any(|line| line.contains(part))
}

#[test]
fn the_override_is_set_before_a_twin_loads_a_driver() {
    if !can_run(&["udevadm"]) {
        return;
    }
    let dir = TempDir::new().unwrap();
    host(dir.as_path());
    // The twin's event comes first.
    let lines = run(dir.as_path(), &format!("event {TWIN} add"));
    assert!(has(&lines, "override vfio-pci"), "{lines:#?}");
    assert!(has(&lines, "twin (null)"), "{lines:#?}");
    assert!(lines.iter().any(|line| line == "probe "), "{lines:#?}");
    assert!(!has(&lines, "run: 'kmod load vfio-pci'"), "{lines:#?}");
    // The device's own event loads the driver, or finds it loaded.
    let lines = run(dir.as_path(), &format!("event {DISK} add"));
    assert!(has(&lines, "probe 0000:01:00.0"), "{lines:#?}");
    assert!(has(&lines, "run: 'kmod load vfio-pci'"), "{lines:#?}");
    assert!(!has(&lines, "rror") && !has(&lines, "nvalid"), "{lines:#?}");
}

#[test]
fn another_device_stays_with_the_host() {
    if !can_run(&["udevadm"]) {
        return;
    }
    // Another kind of device, and the same kind at another path.
    for change in [
        format!("echo pci:v0000 >/sys/devices/{DISK}/modalias"),
        "mv /sys/devices/pci0000:00/0000:00:1c.0 /sys/devices/pci0000:00/0000:00:1e.0
		 ln -sf ../../../devices/pci0000:00/0000:00:1e.0/0000:01:00.0 /sys/bus/pci/devices/"
            .into(),
    ] {
        let dir = TempDir::new().unwrap();
        host(dir.as_path());
        let own = "event \"$(readlink -f /sys/bus/pci/devices/0000:01:00.0 | cut -d/ -f4-)\" add";
        let lines = run(dir.as_path(), &format!("{change}\nevent {TWIN} add\n{own}"));
        assert!(!has(&lines, "vfio-pci"), "{lines:#?}");
        assert!(has(&lines, "MINI_VMM_REFUSED=another device"), "{lines:#?}");
        assert!(
            has(&lines, "another device is at 0000:01:00.0, it stays"),
            "{lines:#?}"
        );
    }
}

#[test]
fn a_device_with_a_driver_keeps_it() {
    if !can_run(&["udevadm"]) {
        return;
    }
    let dir = TempDir::new().unwrap();
    host(dir.as_path());
    // The rule is written before the device has the driver.
    run(dir.as_path(), "");
    let driver = format!(
        "mkdir -p /sys/bus/pci/drivers/nvme
		ln -s /sys/bus/pci/drivers/nvme /sys/devices/{DISK}/driver"
    );
    let lines = run(
        dir.as_path(),
        &format!("{driver}\nevent {TWIN} add\nevent {DISK} add"),
    );
    assert!(!has(&lines, "vfio-pci"), "{lines:#?}");
    // Nor does another kind of event change anything.
    let lines = run(
        dir.as_path(),
        &format!("rm /sys/devices/{DISK}/driver; event {DISK} change"),
    );
    assert!(!has(&lines, "vfio-pci"), "{lines:#?}");
}

#[test]
fn the_nodes_are_the_users() {
    if !can_run(&["udevadm"]) {
        return;
    }
    let dir = TempDir::new().unwrap();
    host(dir.as_path());
    let root = dir.as_path();
    // The group's node, the device's node, and those of the twin.
    for (home, subsystem) in [
        ("devices/virtual/vfio/0".to_owned(), "vfio"),
        ("devices/virtual/vfio/1".to_owned(), "vfio"),
        (format!("devices/{DISK}/vfio-dev/vfio0"), "vfio-dev"),
        (format!("devices/{TWIN}/vfio-dev/vfio1"), "vfio-dev"),
    ] {
        let home = root.join("sys").join(home);
        write(&home.join("uevent"), "MAJOR=1\nMINOR=3\nDEVNAME=made-up\n");
        let class = format!("sys/class/{subsystem}");
        fs::create_dir_all(root.join(&class)).unwrap();
        symlink(Path::new("/").join(&class), home.join("subsystem")).unwrap();
    }
    let owners = |path: &str| {
        let test = format!("udevadm test --action=add /sys/{path} 2>&1 | grep OWNER || true");
        run(root, &test)
    };
    for mine in [
        "devices/virtual/vfio/0",
        &format!("devices/{DISK}/vfio-dev/vfio0"),
    ] {
        let lines = owners(mine);
        assert!(
            has(&lines, "05-mini-vmm") && has(&lines, "OWNER 1234"),
            "{mine}: {lines:#?}"
        );
    }
    for other in [
        "devices/virtual/vfio/1",
        &format!("devices/{TWIN}/vfio-dev/vfio1"),
    ] {
        assert!(!has(&owners(other), "05-mini-vmm"), "{other}");
    }
}
