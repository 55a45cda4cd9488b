//! A made-up sysfs: a disk with its own node behind a port, a network card that is not the run's,
//! and a virtual function.

use std::fs::{create_dir_all, write};
use std::os::unix::fs::symlink;

use vmm_sys_util::tempdir::TempDir;

use crate::hostinfo::sysfs::Sysfs;

pub const PORT: &str = "0000:00:1c.0";
pub const DISK: &str = "0000:01:00.0";
pub const NET: &str = "0000:02:00.0";
pub const VIRTUAL: &str = "0000:03:00.1";
pub const PHYSICAL: &str = "0000:03:00.0";

/// The host.
pub fn host() -> (TempDir, Sysfs) {
    let root = TempDir::new().unwrap();
    let at = |path: &str| root.as_path().join(path);
    let below = |name: &str| match name {
        DISK => format!("devices/pci0000:00/{PORT}/{name}"),
        name => format!("devices/pci0000:00/{name}"),
    };
    create_dir_all(at("bus/pci/devices")).unwrap();
    for (name, group, node) in [
        (PORT, None, None),
        (DISK, Some(7), Some(0)),
        (NET, Some(8), Some(1)),
        (PHYSICAL, Some(9), None),
        (VIRTUAL, Some(10), None),
    ] {
        let home = at(&below(name));
        create_dir_all(&home).unwrap();
        symlink(&home, at("bus/pci/devices").join(name)).unwrap();
        if let Some(group) = group {
            let target = at(&format!("kernel/iommu_groups/{group}"));
            create_dir_all(&target).unwrap();
            symlink(target, home.join("iommu_group")).unwrap();
        }
        if let Some(node) = node {
            let dir = home.join(format!("vfio-dev/vfio{node}"));
            create_dir_all(&dir).unwrap();
            write(dir.join("dev"), format!("511:{node}\n")).unwrap();
        }
    }
    let physical = at(&below(PHYSICAL));
    symlink(physical, at(&below(VIRTUAL)).join("physfn")).unwrap();
    for (class, number) in [("misc/iommu", "1:3"), ("misc/vfio", "10:196")] {
        create_dir_all(at("class").join(class)).unwrap();
        write(at("class").join(class).join("dev"), number).unwrap();
    }
    let sysfs = Sysfs::at(root.as_path());
    (root, sysfs)
}
