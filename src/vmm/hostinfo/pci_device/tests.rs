//! Trees in sysfs whose names and classes lie: only the kernel's facts count.

use std::os::unix::fs::symlink;

use vmm_sys_util::tempdir::TempDir;

use super::*;

/// A made-up /sys.
struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// A kernel that shows registered devices one by one.
    fn new_kernel() -> Self {
        Self::new().dir("class/vfio-dev")
    }

    fn dir(self, name: &str) -> Self {
        fs::create_dir_all(self.0.as_path().join(name)).unwrap();
        self
    }

    fn file(self, name: &str, text: impl AsRef<[u8]>) -> Self {
        let path = self.0.as_path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// A device with a class and a header type. The kernel gives the bus numbers of headers of type
    /// 1 and 2.
    fn device(self, bdf: &str, class: &str, header: u8) -> Self {
        let mut config = [0; 64];
        config[0x0e] = header;
        let home = format!("bus/pci/devices/{bdf}");
        let tree = self
            .file(&format!("{home}/config"), config)
            .file(&format!("{home}/class"), class);
        match header & 0x7f {
            0 => tree,
            _ => tree.file(&format!("{home}/secondary_bus_number"), "2\n"),
        }
    }

    /// Binds a device of group 7 to a driver.
    fn bound(self, bdf: &str, driver: &str) -> Self {
        let root = self.0.as_path().to_owned();
        let dir = root.join("bus/pci/devices").join(bdf);
        fs::create_dir_all(root.join(format!("bus/pci/drivers/{driver}"))).unwrap();
        symlink(
            root.join(format!("bus/pci/drivers/{driver}")),
            dir.join("driver"),
        )
        .unwrap();
        self.grouped(bdf)
    }

    fn grouped(self, bdf: &str) -> Self {
        let root = self.0.as_path();
        let dir = root.join("bus/pci/devices").join(bdf);
        symlink("../../../kernel/iommu_groups/7", dir.join("iommu_group")).unwrap();
        let members = root.join("kernel/iommu_groups/7/devices");
        fs::create_dir_all(&members).unwrap();
        symlink(&dir, members.join(bdf)).unwrap();
        self
    }

    /// The kernel registers a device, as Linux 6.1 and later show it.
    fn registered(self, bdf: &str) -> Self {
        self.dir(&format!("bus/pci/devices/{bdf}/vfio-dev/vfio0"))
    }

    fn module(self, driver: &str, module: &str) -> Self {
        let root = self.0.as_path();
        let link = root.join(format!("bus/pci/drivers/{driver}/module"));
        symlink(root.join("module").join(module), link).unwrap();
        self
    }

    fn find(&self, bdf: &str) -> PciDevice {
        let sysfs = Sysfs::at(self.0.as_path());
        sysfs.device(bdf.parse().unwrap()).unwrap().unwrap()
    }
}

const A: &str = "0000:01:00.0";
const B: &str = "0000:01:00.1";
const PORT: &str = "0000:00:1c.0";

#[test]
fn the_header_says_what_a_bridge_is_and_the_class_does_not() {
    for (class, header, bridge) in [
        ("0x068000", 0x00, false), // an NVSwitch
        ("0x068000", 0x80, false), // a non-transparent bridge, one of several functions
        ("0x060000", 0x00, false),
        ("0x060100", 0x80, false),
        ("0x060400", 0x00, false),
        ("0x060400", 0x01, true),
        ("0x068000", 0x01, true),
        ("0x060700", 0x02, true), // CardBus
        ("0x010802", 0x81, true),
    ] {
        let tree = Tree::new().device(A, class, header);
        assert_eq!(tree.find(A).is_bridge(), bridge, "{class} {header:#x}");
    }
}

#[test]
fn no_register_is_read() {
    let home = format!("bus/pci/devices/{A}");
    // A read would wake the device. Whatever it found, the kernel's own view of the header counts.
    let mut bridge = [0; 64];
    bridge[0x0e] = 1;
    for config in [&bridge[..], &[0xff; 64], &[0; 4]] {
        let tree = Tree::new().file(&format!("{home}/config"), config);
        let tree = tree.file(&format!("{home}/class"), "0x060400");
        assert!(!tree.find(A).is_bridge());
        let tree = tree.file(&format!("{home}/secondary_bus_number"), "1\n");
        assert!(tree.find(A).is_bridge());
    }
}

#[test]
fn only_the_kernel_says_who_is_registered() {
    // A driver whose name says VFIO, and a GPU's driver that gives a virtual function to guests.
    let tree = Tree::new_kernel()
        .device(A, "0x030000", 0)
        .bound(A, "vfio-x")
        .device(B, "0x030000", 0)
        .bound(B, "gpu")
        .registered(B)
        .dir("class/vfio/7");
    let (liar, function) = (tree.find(A), tree.find(B));
    assert!(!liar.is_vfio() && liar.blocks_group());
    assert!(function.is_vfio() && !function.blocks_group());
    // The kernel shows that vfio-pci has not registered this device, whatever its group has.
    let tree = Tree::new_kernel()
        .device(A, "0x010802", 0)
        .bound(A, "vfio-pci")
        .dir("class/vfio/7");
    assert!(!tree.find(A).is_vfio());
}

/// Linux before 6.1: the node of a group proves nothing about one of several devices.
#[test]
fn an_older_kernel_shows_groups_only() {
    let pair = |first: &str, second: &str| {
        let tree = Tree::new().device(A, "0x010802", 0).bound(A, first);
        tree.device(B, "0x010802", 0).bound(B, second)
    };
    // No node: nobody is registered.
    let tree = pair("vfio-pci", "nvme");
    assert!(!tree.find(A).is_vfio());
    // A sibling made the node.
    let tree = tree.dir("class/vfio/7");
    assert!(tree.find(A).is_vfio() && !tree.find(B).is_vfio());
    let tree = pair("vfio-x", "vfio-y").dir("class/vfio/7");
    assert!(!tree.find(A).is_vfio() && !tree.find(B).is_vfio());
    // The module of a variant driver uses vfio_pci_core; the other driver's does not.
    let tree = pair("mlx5_vfio_pci", "vfio-y")
        .dir("class/vfio/7")
        .dir("module/vfio_pci_core/holders/mlx5_vfio_pci")
        .module("mlx5_vfio_pci", "mlx5_vfio_pci")
        .module("vfio-y", "vfio_y");
    assert!(tree.find(A).is_vfio() && !tree.find(B).is_vfio());
    // The only device that can be registered. Its bridge cannot.
    let tree = Tree::new()
        .device(A, "0x030000", 0)
        .bound(A, "gpu")
        .device(PORT, "0x060400", 1)
        .bound(PORT, "pcieport")
        .dir("class/vfio/7");
    assert!(tree.find(A).is_vfio() && !tree.find(PORT).is_vfio());
    let tree = Tree::new()
        .device(A, "0x030000", 0)
        .grouped(A)
        .dir("class/vfio/7");
    assert!(!tree.find(A).is_vfio());
}

#[test]
fn drivers_that_block_a_group() {
    let on =
        |tree: Tree, header, driver| tree.device(A, "0x060400", header).bound(A, driver).find(A);
    for (header, driver, older, newer) in [
        (0, "nvme", true, true),
        (0, "pci-stub", false, false),
        // A name of the bridge's driver does not make an endpoint neutral.
        (0, "pcieport", true, true),
        (1, "pcieport", false, false),
        (1, "shpchp", false, true),
        (1, "pci-stub", false, false),
    ] {
        assert_eq!(
            on(Tree::new(), header, driver).blocks_group(),
            older,
            "{driver}"
        );
        assert_eq!(
            on(Tree::new_kernel(), header, driver).blocks_group(),
            newer,
            "{driver}"
        );
    }
    let free = Tree::new().device(A, "0x010802", 0).find(A);
    assert!(!free.blocks_group() && free.group.is_none());
}

#[test]
fn the_no_iommu_mode_names_its_groups() {
    let tree = Tree::new_kernel()
        .device(A, "0x010802", 0)
        .bound(A, "vfio-pci")
        .registered(A);
    assert!(!tree.find(A).no_iommu);
    let tree = tree
        .file("kernel/iommu_groups/7/name", "vfio-noiommu\n")
        .dir("class/vfio/noiommu-7");
    assert!(tree.find(A).no_iommu);
    // An emulated IOMMU has the same name, but a plain node.
    assert!(!tree.dir("class/vfio/7").find(A).no_iommu);
}

#[test]
fn members_are_in_order() {
    let tree = Tree::new_kernel()
        .device(B, "0x010802", 0)
        .bound(B, "vfio-pci")
        .registered(B)
        .device(A, "0x010802", 0)
        .bound(A, "nvme")
        .device(PORT, "0x060400", 1)
        .bound(PORT, "pcieport");
    let sysfs = Sysfs::at(tree.0.as_path());
    let members = sysfs.group_members(7).unwrap();
    let names: Vec<_> = members.iter().map(|m| m.bdf.to_string()).collect();
    assert_eq!(names, [PORT, A, B]);
    assert_eq!(members.iter().filter(|m| m.blocks_group()).count(), 1);
    assert!(sysfs.group_members(8).is_err());
    assert_eq!(sysfs.device("03:00.0".parse().unwrap()).unwrap(), None);
}
