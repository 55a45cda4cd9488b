//! With the devices of a made-up host.

use std::fs::create_dir_all;
use std::os::unix::fs::symlink;

use super::*;
use crate::broker::fake::{DISK, NET, PHYSICAL, PORT, VIRTUAL, host};
use crate::broker::named::Device;

fn named(devices: &[&str]) -> Named {
    let device = |name: &&str| Device {
        name: name.parse().unwrap(),
        right: Right::Open,
    };
    Named::only(devices.iter().map(device))
}

#[test]
fn nodes_have_one_form() {
    for path in [
        "/dev/iommu",
        "/dev/vfio/vfio",
        "/dev/vfio/7",
        "/dev/vfio/devices/vfio12",
    ] {
        assert_eq!(Node::parse(path).unwrap().path(), path);
    }
    for path in [
        "",
        "/dev/null",
        "/dev/vfio",
        "/dev/vfio/",
        "/dev/vfio/07",
        "/dev/vfio/+7",
        "/dev/vfio/-1",
        "/dev/vfio/4294967296",
        "/dev/vfio/7 ",
        "/dev/vfio/7/",
        "/dev/vfio/../vfio/7",
        "/dev/vfio/./7",
        "/dev//vfio/7",
        "/dev/vfio/noiommu-7",
        "/dev/vfio/devices/vfio",
        "/dev/vfio/devices/vfio01",
        "/dev/vfio/devices/../7",
        "/dev/vfio/devices/7",
        "/dev/iommu/x",
        "/proc/self/root/dev/vfio/7",
    ] {
        assert_eq!(Node::parse(path), None, "{path}");
    }
}

#[test]
fn a_run_has_the_nodes_of_its_devices_alone() {
    let (_root, sysfs) = host();
    let named = named(&[DISK, "0000:0f:00.0"]);
    let right = |path: &str| Node::parse(path).unwrap().right(&sysfs, &named);
    let own = |path: &str| right(path) == Some(Right::Open);
    for path in [
        "/dev/iommu",
        "/dev/vfio/vfio",
        "/dev/vfio/7",
        "/dev/vfio/devices/vfio0",
    ] {
        assert!(own(path), "{path}");
    }
    for path in [
        "/dev/vfio/8",
        "/dev/vfio/1",
        "/dev/vfio/devices/vfio1",
        "/dev/vfio/devices/vfio7",
    ] {
        assert_eq!(right(path), None, "{path}");
    }
    // The highest right of the devices behind a node counts.
    for (added, group) in [(Right::AsUser, Right::AsUser), (Right::Bind, Right::Bind)] {
        named.add(Device {
            name: NET.parse().unwrap(),
            right: added,
        });
        for path in ["/dev/vfio/8", "/dev/vfio/devices/vfio1"] {
            assert_eq!(right(path), Some(group), "{path}");
        }
    }
}

/// /dev/null has the number that the made-up host gives to /dev/iommu.
#[test]
fn an_open_file_is_the_nodes_by_its_number() {
    let (_root, sysfs) = host();
    let [null, zero] = ["/dev/null", "/dev/zero"].map(|path| File::open(path).unwrap());
    assert!(Node::Iommufd.is_behind(&sysfs, &null));
    assert!(!Node::Iommufd.is_behind(&sysfs, &zero));
    assert!(!Node::Container.is_behind(&sysfs, &null));
    assert!(!Node::Group(7).is_behind(&sysfs, &null));
    check_kind(&sysfs, &null, Kind::Iommufd).unwrap();
    for kind in [Kind::Device, Kind::Group, Kind::Iommufd] {
        let plain = File::open("/proc/version").unwrap();
        for file in [&zero, &plain] {
            let e = check_kind(&sysfs, file, kind).unwrap_err();
            assert_eq!(e.raw_os_error(), Some(libc::EACCES), "{kind:?}");
        }
    }
}

/// The numbers of /dev/zero and /dev/full lead to a device and to a group.
#[test]
fn descriptors_are_devices_and_groups_by_their_numbers() {
    let (root, sysfs) = host();
    let chars = root.as_path().join("dev/char");
    create_dir_all(&chars).unwrap();
    for (number, dir, class, device) in [
        ("1:5", "devices/x/vfio-dev/vfio0", "vfio-dev", Some(DISK)),
        ("1:7", "devices/virtual/vfio/7", "vfio", None),
    ] {
        let dir = root.as_path().join(dir);
        create_dir_all(&dir).unwrap();
        symlink(format!("../class/{class}"), dir.join("subsystem")).unwrap();
        if let Some(device) = device {
            symlink(format!("../../../{device}"), dir.join("device")).unwrap();
        }
        symlink(&dir, chars.join(number)).unwrap();
    }
    let open = |path: &str| File::open(path).unwrap();
    let (device, group) = (open("/dev/zero"), open("/dev/full"));
    for (file, own) in [(device, Kind::Device), (group, Kind::Group)] {
        for kind in [Kind::Device, Kind::Group, Kind::Iommufd] {
            let fits = check_kind(&sysfs, &file, kind).is_ok();
            assert_eq!(fits, kind == own, "{kind:?}");
        }
    }
}

#[test]
fn facts_are_of_the_devices_of_the_run_and_of_their_links() {
    let (root, sysfs) = host();
    let named = named(&[DISK, VIRTUAL]);
    let devices = root.as_path().join("bus/pci/devices");
    let fact = |path: &str| fact(&sysfs, &named, path);
    for (name, attribute) in [
        (DISK, "config"),
        (DISK, "resource0_resize"),
        (DISK, "max_link_width"),
        (VIRTUAL, "config"),
        (PORT, "current_link_speed"),
        (PHYSICAL, "current_link_width"),
    ] {
        let expected = devices.join(name).join(attribute);
        for folder in ["/sys/bus/pci/devices", "/sys/devices/pci0000:00"] {
            let found = fact(&format!("{folder}/{name}/{attribute}")).unwrap();
            assert_eq!(found, expected);
        }
    }
    for path in [
        format!("/sys/bus/pci/devices/{NET}/config"),
        format!("/sys/bus/pci/devices/{NET}/current_link_speed"),
        format!("/sys/bus/pci/devices/{PORT}/config"),
        format!("/sys/bus/pci/devices/{PHYSICAL}/config"),
        format!("/sys/bus/pci/devices/{DISK}/rom"),
        format!("/sys/bus/pci/devices/{DISK}/resource0"),
        format!("/sys/bus/pci/devices/{DISK}/resource6_resize"),
        format!("/sys/bus/pci/devices/{DISK}/resource00_resize"),
        format!("/sys/bus/pci/devices/{DISK}/driver/unbind"),
        format!("/sys/bus/pci/devices/{DISK}/.."),
        format!("/sys/bus/pci/devices/{DISK}/../{NET}/config"),
        "/sys/kernel/profiling".into(),
        "config".into(),
        "".into(),
    ] {
        let e = fact(&path).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::EACCES), "{path}");
    }
}

#[test]
fn a_device_of_a_group_has_its_whole_name() {
    let named = named(&[DISK]);
    let token = "bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3";
    for text in [DISK.into(), format!("{DISK} vf_token={token}")] {
        check_name(&named, &text).unwrap();
    }
    for text in [
        NET.into(),
        "01:00.0".into(),
        String::new(),
        format!("{NET} vf_token={token}"),
        format!("{NET} {DISK}"),
        format!(" vf_token={DISK}"),
        format!("{DISK} "),
    ] {
        assert!(check_name(&named, &text).is_err(), "{text}");
    }
}
