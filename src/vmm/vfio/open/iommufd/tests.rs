use super::*;
use crate::vfio::kernel_calls::opener_here;
use crate::vfio::open::closing_watch::Watch;

/// The iommufd to which a device is bound.
struct Iommufd {
    _file: File,
    watch: Watch,
}

impl Drop for Iommufd {
    fn drop(&mut self) {
        self.watch.note("the iommufd closes");
    }
}

fn device(watch: &Watch, stage: Stage) -> CdevDevice {
    CdevDevice {
        name: "0000:01:00.0".into(),
        file: DeviceFile::new("device".into(), watch.file("device"), &opener_here()),
        stage,
        kvm: Arc::new(KvmVfio::refusing()),
        _iommufd: Arc::new(Iommufd {
            _file: watch.file("iommufd"),
            watch: watch.clone(),
        }),
    }
}

/// Every call is refused, as by a removed device, and closing goes on to the end.
#[test]
fn a_device_detaches_then_leaves_kvm_then_closes() {
    let refused = "Inappropriate ioctl for device (os error 25)";
    let failed = |call| format!("0000:01:00.0: {call} failed: {refused} [device iommufd]");
    let detach = failed("VFIO_DEVICE_DETACH_IOMMUFD_PT");
    let remove = failed("KVM_DEV_VFIO_FILE_DEL");
    let closes = "the iommufd closes [iommufd]".to_string();
    for (stage, expected) in [
        (Stage::Attached, vec![&detach, &remove, &closes]),
        // Opening has failed before.
        (Stage::KnownToKvm, vec![&remove, &closes]),
        (Stage::Open, vec![&closes]),
    ] {
        let watch = Watch::default();
        let device = device(&watch, stage);
        let lines = watch.lines_of(|| drop(device));
        assert_eq!(lines.iter().collect::<Vec<_>>(), expected, "{stage:?}");
    }
}

#[test]
fn by_iommufd_no_group_is_open() {
    let watch = Watch::default();
    assert!(device(&watch, Stage::Open).group_file(7).is_none());
}
