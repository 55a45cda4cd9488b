//! Devices whose class or driver's name lies: the header type and the kernel's registration decide.

use super::*;

const SWITCH: &str = "0000:07:00.0";
const BEHIND: &str = "0000:07:00.1";
const PORT: &str = "0000:00:1c.0";

/// An endpoint with the class of a bridge, and a bridge with the class of a disk, in one group.
fn liars() -> FakeHost {
    FakeHost::new(&["nvswitch", "e1000e", "pcieport", "vfio-pci"])
        .device(SWITCH, 0x06_8000, Some("nvswitch"), Some(7))
        .device(BEHIND, 0x06_0400, Some("e1000e"), Some(7))
        .bridge(BEHIND, false)
        .device(PORT, NVME, Some("pcieport"), Some(7))
        .bridge(PORT, true)
}

#[test]
fn an_endpoint_of_any_class_is_bound() {
    let fake = liars();
    let before = fake.snapshot();
    let alone = bind(&fake.host(), &request(&[SWITCH])).unwrap_err();
    assert!(
        alone.to_string().contains("0000:07:00.1 (driver e1000e)"),
        "{alone}"
    );
    let bridge = bind(&fake.host(), &request(&[PORT])).unwrap_err();
    assert!(matches!(bridge, BindError::Bridge(_)), "{bridge}");
    let group = BindRequest {
        group: true,
        ..request(&[SWITCH])
    };
    bind(&fake.host(), &group).unwrap();
    for (bdf, driver) in [
        (SWITCH, "vfio-pci"),
        (BEHIND, "vfio-pci"),
        (PORT, "pcieport"),
    ] {
        assert_eq!(fake.driver(bdf).as_deref(), Some(driver), "{bdf}");
    }
    unbind(&fake.host(), &back(&[SWITCH])).unwrap();
    assert_eq!(fake.snapshot(), before);
}

/// A bridge's driver that may do DMA: the kernel refuses the group.
#[test]
fn a_bridge_whose_driver_owns_the_group() {
    let fake = FakeHost::new(&["nvme", "shpchp", "vfio-pci"])
        .device(DISK, NVME, Some("nvme"), Some(1))
        .device(PORT, BRIDGE, Some("shpchp"), Some(1));
    let error = bind(&fake.host(), &request(&[DISK])).unwrap_err();
    assert!(matches!(error, BindError::BridgeInGroup { .. }), "{error}");
}

/// A driver whose name says VFIO without being registered is a host's driver.
#[test]
fn a_driver_that_only_sounds_like_vfio() {
    let fake = FakeHost::new(&["vfio-x", "vfio-pci"]).device(DISK, NVME, Some("vfio-x"), Some(1));
    let before = fake.snapshot();
    bind(&fake.host(), &request(&[DISK])).unwrap();
    assert_eq!(fake.driver(DISK).as_deref(), Some("vfio-pci"));
    unbind(&fake.host(), &back(&[DISK])).unwrap();
    assert_eq!(fake.snapshot(), before);
    let (lines, errors) = unbind(&fake.host(), &back(&[DISK])).unwrap();
    assert!(lines.is_empty(), "{lines:?}");
    assert!(matches!(errors[..], [BindError::NotBound(_)]), "{errors:?}");
}

/// A virtual function that its GPU's driver gives to guests: it is bound already, and nothing takes
/// it from that driver, which would end the vGPU.
#[test]
fn a_vgpu_stays_with_its_driver() {
    let fake = FakeHost::new(&["gpu", "vfio-pci"]).device(DISK, 0x03_0000, Some("gpu"), Some(1));
    std::fs::create_dir_all(
        fake.host()
            .sysfs
            .device_path(DISK.parse().unwrap())
            .join("vfio-dev/vfio9"),
    )
    .unwrap();
    let before = fake.snapshot();
    let lines = bind(&fake.host(), &request(&[DISK])).unwrap();
    assert_eq!(
        lines,
        [format!("{DISK}: bound to gpu already, IOMMU group 1")]
    );
    assert_eq!(fake.snapshot(), before);
    let (lines, errors) = unbind(&fake.host(), &back(&[DISK])).unwrap();
    assert!(lines.is_empty(), "{lines:?}");
    assert!(matches!(errors[..], [BindError::NotBound(_)]), "{errors:?}");
    assert_eq!(fake.snapshot(), before);
}

#[test]
fn the_no_iommu_mode_gives_no_device_to_a_guest() {
    let fake = FakeHost::new(&["vfio-pci"]).device(DISK, NVME, Some("vfio-pci"), Some(1));
    let name = fake.dir.as_path().join("sys/kernel/iommu_groups/1/name");
    std::fs::write(name, "vfio-noiommu\n").unwrap();
    let error = bind(&fake.host(), &request(&[DISK])).unwrap_err();
    assert!(matches!(error, BindError::NoIommuMode(_)), "{error}");
    assert!(error.hint().unwrap().contains("turn the IOMMU on"));
}
