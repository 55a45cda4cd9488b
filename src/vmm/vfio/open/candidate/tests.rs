use std::fs;
use std::os::unix::fs::symlink;

use vmm_sys_util::tempdir::TempDir;

use super::*;

struct Host(TempDir);

impl Host {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn add(self, bdf: &str, driver: Option<&str>, group: Option<u32>) -> Self {
        let root = self.0.as_path();
        let dir = root.join("bus/pci/devices").join(bdf);
        fs::create_dir_all(&dir).unwrap();
        if let Some(driver) = driver {
            symlink(format!("drivers/{driver}"), dir.join("driver")).unwrap();
            if driver == "vfio-pci" {
                fs::create_dir_all(dir.join("vfio-dev/vfio0")).unwrap();
            }
        }
        if let Some(group) = group {
            symlink(format!("groups/{group}"), dir.join("iommu_group")).unwrap();
            let members = root.join(format!("kernel/iommu_groups/{group}/devices"));
            fs::create_dir_all(&members).unwrap();
            symlink(&dir, members.join(bdf)).unwrap();
        }
        self
    }

    /// A mediated device, below a parent and on its bus, as the kernel shows it.
    fn add_mediated(self, uuid: &str, api: &str, group: Option<u32>) -> Self {
        let root = self.0.as_path();
        let parent = root.join("devices/virtual/mtty/mtty");
        let dir = parent.join(uuid);
        let kind = parent.join(format!("mdev_supported_types/{api}"));
        let bus = root.join("bus/mdev/devices");
        for dir in [&dir, &kind, &bus] {
            fs::create_dir_all(dir).unwrap();
        }
        fs::write(kind.join("device_api"), format!("{api}\n")).unwrap();
        symlink(&kind, dir.join("mdev_type")).unwrap();
        symlink(&dir, bus.join(uuid)).unwrap();
        if let Some(group) = group {
            symlink(format!("groups/{group}"), dir.join("iommu_group")).unwrap();
        }
        self
    }

    /// Makes a function a virtual function.
    fn virtual_of(self, bdf: &str, physical: &str) -> Self {
        let devices = self.0.as_path().join("bus/pci/devices");
        symlink(format!("../{physical}"), devices.join(bdf).join("physfn")).unwrap();
        fs::write(devices.join(physical).join("sriov_totalvfs"), "2").unwrap();
        self
    }

    /// Makes a device a bridge.
    fn bridge(self, bdf: &str) -> Self {
        let dir = self.0.as_path().join("bus/pci/devices").join(bdf);
        fs::write(dir.join("secondary_bus_number"), "2").unwrap();
        self
    }

    /// Adds a file or, without text, a directory.
    fn with(self, name: &str, text: Option<&str>) -> Self {
        let path = self.0.as_path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match text {
            Some(text) => fs::write(path, text).unwrap(),
            None => fs::create_dir_all(path).unwrap(),
        }
        self
    }

    fn find(&self, addresses: &[&str]) -> Result<Vec<Candidate>, VfioError> {
        let configs: Vec<_> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        find(&Sysfs::at(self.0.as_path()), &configs)
    }
}

#[test]
fn addresses_in_every_form() {
    let host = Host::new().add("0000:01:00.0", Some("vfio-pci"), Some(3));
    let path = host.0.as_path().join("bus/pci/devices/0000:01:00.0");
    for address in ["01:00.0", "0000:01:00.0", path.to_str().unwrap()] {
        let found = host.find(&[address]).unwrap();
        assert_eq!(found[0].name().to_string(), "0000:01:00.0");
        assert_eq!(found[0].group, 3);
    }
}

#[test]
fn each_mistake_is_named() {
    let host = Host::new()
        .add("0000:01:00.0", Some("vfio-pci"), Some(3))
        .add("0000:02:00.0", Some("nvme"), Some(4))
        .add("0000:03:00.0", Some("vfio-pci"), None)
        .add("0000:04:00.0", Some("vfio-pci"), Some(5))
        .add("0000:04:00.1", Some("e1000e"), Some(5))
        .add("0000:04:00.2", None, Some(5))
        .add("0000:05:00.0", None, Some(6));
    let many: Vec<_> = (0..32).map(|i| format!("{i:02x}:00.0")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let cases: [(&[&str], &str); 11] = [
        (&many, "32 devices are too many"),
        (
            &["nonsense"],
            "`nonsense` is not the address of a PCI device",
        ),
        (&["/no/such/dir"], "`/no/such/dir` is not the address"),
        (&["01:00.1"], "no PCI device 0000:01:00.1"),
        (&["01:00.0", "0000:01:00.0"], "0000:01:00.0 is given twice"),
        (&["02:00.0"], "bound to the driver nvme, not to vfio-pci"),
        (&["05:00.0"], "bound to no driver, not to vfio-pci"),
        (&["03:00.0"], "in no IOMMU group"),
        (&["04:00.0"], "0000:04:00.1 (driver e1000e)"),
        (
            &["01:00.0,slot=4", "02:00.0,slot=4"],
            "the guest's PCI address 04.0 is given twice",
        ),
        (
            &["01:00.0,slot=4.1"],
            "PCI address 04.1, because its slot has no function 0",
        ),
    ];
    for (addresses, text) in cases {
        let error = host.find(addresses).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        assert!(error.hint().is_some(), "{error}");
    }
    let hint = host.find(&["04:00.0"]).unwrap_err().hint().unwrap();
    assert!(
        hint.contains("mini-vmm host bind 0000:04:00.0 --group"),
        "{hint}"
    );
}

/// A kernel may register devices without making nodes for them.
#[test]
fn a_node_is_there_if_it_has_a_number() {
    let device = "bus/pci/devices/0000:01:00.0";
    let host = Host::new().add("0000:01:00.0", Some("vfio-pci"), Some(3));
    assert_eq!(host.find(&["01:00.0"]).unwrap()[0].cdev(), None);
    let host = host.with(&format!("{device}/vfio-dev/vfio0/dev"), Some("511:0\n"));
    let node = host.find(&["01:00.0"]).unwrap()[0].cdev();
    assert_eq!(node.as_deref(), Some("/dev/vfio/devices/vfio0"));
}

/// Neither a driver's name nor a class decides.
#[test]
fn what_the_kernel_says_decides() {
    let devices = "bus/pci/devices";
    let host = Host::new()
        .add("0000:01:00.0", Some("gpu"), Some(3))
        .with(&format!("{devices}/0000:01:00.0/vfio-dev/vfio1"), None)
        .add("0000:01:00.1", Some("gpu"), Some(4))
        .with(
            &format!("{devices}/0000:01:00.1/nvidia/current_vgpu_type"),
            Some("0\n"),
        )
        .add("0000:02:00.0", Some("vfio-x"), Some(5))
        .add("0000:03:00.0", Some("pcieport"), Some(6))
        .bridge("0000:03:00.0")
        .add("0000:04:00.0", Some("vfio-pci"), Some(7))
        .with("kernel/iommu_groups/7/name", Some("vfio-noiommu\n"))
        .add("0000:05:00.0", Some("vfio-pci"), Some(8))
        .with(&format!("{devices}/0000:05:00.0/class"), Some("0x068000\n"));
    for address in ["01:00.0", "05:00.0"] {
        host.find(&[address]).unwrap();
    }
    for (address, text, hint) in [
        ("01:00.1", "the driver gpu", "current_vgpu_type"),
        ("02:00.0", "the driver vfio-x", "mini-vmm host bind"),
        ("03:00.0", "is a bridge", "host list"),
        ("04:00.0", "no-IOMMU mode", "turn the IOMMU on"),
    ] {
        let error = host.find(&[address]).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        let said = error.hint().unwrap();
        assert!(said.contains(hint), "{said}");
        let binds = said.contains("host bind");
        assert_eq!(binds, address == "02:00.0", "{said}");
    }
}

const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
const TOKEN: &str = "bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3";

#[test]
fn mediated_devices_in_every_form() {
    let host = Host::new().add_mediated(UUID, "vfio-pci", Some(3));
    let root = host.0.as_path();
    let on_bus = root.join("bus/mdev/devices").join(UUID);
    let below = root.join("devices/virtual/mtty/mtty").join(UUID);
    let loud = UUID.to_uppercase();
    for address in [
        UUID,
        &loud,
        on_bus.to_str().unwrap(),
        below.to_str().unwrap(),
    ] {
        let found = host.find(&[address]).unwrap();
        assert_eq!(found[0].name().to_string(), UUID);
        assert_eq!((found[0].group, &found[0].path), (3, &on_bus));
    }
}

#[test]
fn mistakes_with_mediated_devices_are_named() {
    let other = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002";
    let alone = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1003";
    let host = Host::new()
        .add_mediated(UUID, "vfio-pci", Some(3))
        .add_mediated(other, "vfio-ccw", Some(4))
        .add_mediated(alone, "vfio-pci", None);
    let tokened = format!("{UUID},vf-token={TOKEN}");
    let cases: [(&[&str], &str, &str); 6] = [
        (&[TOKEN], "no mediated device bd8d", "mdev_supported_types"),
        (
            &[UUID, UUID],
            "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 is given twice",
            "once",
        ),
        (
            &[other],
            "is used by `vfio-ccw`, not as a PCI device",
            "device_api",
        ),
        (&[alone], "has no driver", "remove"),
        (&[&tokened], "takes no VF token", "leave vf-token= out"),
        (&["/sys/bus/mdev/devices/x"], "is not the address", "UUID"),
    ];
    for (addresses, text, hint) in cases {
        let error = host.find(addresses).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        assert!(
            error.hint().unwrap().contains(hint),
            "{error}: {:?}",
            error.hint()
        );
    }
}

#[test]
fn tokens_are_for_functions_that_take_one() {
    let host = Host::new()
        .add("0000:01:00.0", Some("vfio-pci"), Some(1))
        .add("0000:01:00.1", Some("vfio-pci"), Some(2))
        .virtual_of("0000:01:00.1", "0000:01:00.0")
        .add("0000:02:00.0", Some("nvme"), Some(3))
        .add("0000:02:00.1", Some("vfio-pci"), Some(4))
        .virtual_of("0000:02:00.1", "0000:02:00.0")
        .add("0000:03:00.0", Some("vfio-pci"), Some(5));
    for (address, takes, physical) in [
        ("01:00.0", true, None),
        ("01:00.1", true, Some("0000:01:00.0")),
        ("02:00.1", false, Some("0000:02:00.0")),
        ("03:00.0", false, None),
    ] {
        let found = host.find(&[address]).unwrap();
        let named = found[0].physical.map(|bdf| bdf.to_string());
        assert_eq!(
            (found[0].token, named.as_deref()),
            (None, physical),
            "{address}"
        );
        let outcome = host.find(&[&format!("{address},vf-token={TOKEN}")]);
        match outcome {
            Ok(found) => assert!(takes && found[0].token == TOKEN.parse().ok(), "{address}"),
            Err(e) => assert!(!takes && matches!(e, VfioError::TokenUnused(_)), "{e}"),
        }
    }
}

#[test]
fn the_token_follows_the_name() {
    let mut candidate = Candidate {
        name: "0000:01:00.1".parse().map(HostName::Pci).unwrap(),
        path: "/nowhere".into(),
        group: 7,
        token: None,
        physical: None,
        given: None,
    };
    assert_eq!(candidate.name_and_token(), "0000:01:00.1");
    candidate.token = "BD8D9D2B-5A5F-4F5A-A211-F591514BA1F3".parse().ok();
    assert_eq!(
        candidate.name_and_token(),
        "0000:01:00.1 vf_token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3"
    );
}
