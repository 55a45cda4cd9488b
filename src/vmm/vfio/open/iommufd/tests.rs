use std::io;
use std::os::fd::OwnedFd;

use super::*;
use crate::hostinfo::name::parse_address;
use crate::log::error_chain::with_causes;
use crate::vfio::kernel_calls::opener_here;
use crate::vfio::open::closing_watch::Watch;
use crate::vfio::opener::{Calls, Request};

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

/// A kernel that answers the question for the VF token with this errno, or with 0.
struct Kernel(i32);

impl Calls for Kernel {
    fn make(&self, request: &Request, _: Vec<File>) -> io::Result<Option<OwnedFd>> {
        match (request, self.0) {
            (Request::AskToken, 0) | (Request::Close, _) => Ok(None),
            (Request::AskToken, errno) => Err(io::Error::from_raw_os_error(errno)),
            (other, _) => panic!("{} is called", other.name()),
        }
    }
}

#[test]
fn a_token_that_iommufd_does_not_take_is_told_before_anything_is_opened() {
    let watch = Watch::default();
    let candidate = |token: Option<Uuid>| Candidate {
        name: parse_address("0000:01:00.0").unwrap(),
        path: "/nowhere/0000:01:00.0".into(),
        group: 7,
        token,
        physical: None,
        given: None,
    };
    let check = |errno, token| {
        let opener = Arc::new(Opener::here(Arc::new(Kernel(errno))));
        let mut device = device(&watch, Stage::Open);
        device.file = DeviceFile::new("device".into(), watch.file("device"), &opener);
        device.check_token(&candidate(token))
    };
    let token = Some(Uuid::from_u128(1));
    assert!(check(libc::EINVAL, None).is_ok(), "nobody is asked");
    assert!(check(0, token).is_ok());
    let refused = check(libc::EINVAL, token).unwrap_err();
    assert!(matches!(refused, VfioError::TokenByIommufd(_)), "{refused}");
    let failed = with_causes(&check(libc::ENODEV, token).unwrap_err());
    assert!(failed.contains(BIND), "{failed}");
}
