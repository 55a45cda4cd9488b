//! Unit tests of the parent module.

use super::*;
use crate::hostinfo::holders::Holders;
use crate::log::error_chain::with_causes;

#[test]
fn a_token_that_is_wanted_is_explained() {
    let name = HostName::Pci("01:00.1".parse().unwrap());
    let physical = "01:00.0".parse().ok();
    for (given, physical, says, hint) in [
        (
            false,
            physical,
            "PCI device 0000:01:00.1 is opened only with a VF token: \
             its physical function 0000:01:00.0 is bound to VFIO too",
            "give the token that 0000:01:00.0 was opened with: \
             --vfio 0000:01:00.1,vf-token=UUID",
        ),
        (
            true,
            None,
            "PCI device 0000:01:00.1 is opened only with another VF token",
            "its virtual functions are in use; give the token that they were opened with: \
             --vfio 0000:01:00.1,vf-token=UUID",
        ),
    ] {
        let error = VfioError::TokenRefused {
            name,
            given,
            physical,
        };
        assert_eq!(error.to_string(), says);
        assert_eq!(error.hint().as_deref(), Some(hint));
    }
}

/// Each errno that a step of opening is known for has an answer of its own.
#[test]
fn each_step_that_fails_is_explained() {
    let name = HostName::Pci("01:00.0".parse().unwrap());
    let errno = io::Error::from_raw_os_error;
    let node = |path: &str, code| VfioError::node(path, Some(name), errno(code), None);
    let open = |source| VfioError::Open { name, source };
    let group = "/dev/vfio/7";
    // Not every test may look at every process.
    let holders = Holders::of(&[group.as_ref()]);
    let busy = format!("cannot open /dev/vfio/7 for PCI device 0000:01:00.0: {holders}");
    for (error, says, hint) in [
        (node(group, libc::EBUSY), &*busy, &*holders.hint(group)),
        (
            node(group, libc::EACCES),
            "cannot open /dev/vfio/7 for PCI device 0000:01:00.0",
            "as root: mini-vmm host bind 0000:01:00.0 --user $USER \
             (with your user's name for $USER)",
        ),
        (
            node(group, libc::ENOENT),
            "cannot open /dev/vfio/7 for PCI device 0000:01:00.0",
            "as root: modprobe vfio-pci",
        ),
        (
            node(nodes::IOMMUFD, libc::ENOENT),
            "cannot open /dev/iommu for PCI device 0000:01:00.0",
            "as root: modprobe iommufd; \
             if this kernel has no iommufd, use --iommu container",
        ),
        (
            VfioError::NoCdev(name),
            "PCI device 0000:01:00.0 has no node under /dev/vfio/devices",
            "this kernel's VFIO has no device nodes; use --iommu container",
        ),
        (
            open(StepError::SetIommu(errno(libc::EPERM))),
            "cannot open PCI device 0000:01:00.0: the platform lacks interrupt remapping, so \
             a guest's device could raise any interrupt of the host, or the firmware shares \
             memory with the device (RMRR) (VFIO_SET_IOMMU)",
            "if `dmesg` names an RMRR requirement, choose another device; otherwise turn \
             interrupt remapping on in the firmware; or, if you trust the guest, as \
             root: echo 1 > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts",
        ),
        (
            open(StepError::call(
                "VFIO_DEVICE_BIND_IOMMUFD",
                errno(libc::EBUSY),
            )),
            "cannot open PCI device 0000:01:00.0: another process has the device's IOMMU \
             group open (VFIO_DEVICE_BIND_IOMMUFD)",
            "end the process that has the group",
        ),
        (
            open(StepError::NotViable),
            "cannot open PCI device 0000:01:00.0: the IOMMU group is not viable",
            "as root: mini-vmm host bind 0000:01:00.0 --group",
        ),
    ] {
        let said = with_causes(&error);
        assert!(said.starts_with(says), "{said}");
        assert_eq!(error.hint().as_deref(), Some(hint));
    }
}

#[test]
fn only_a_refused_group_is_tried_with_another_container() {
    let name = HostName::Pci("01:00.0".parse().unwrap());
    let errno = || io::Error::from_raw_os_error(libc::EBUSY);
    for (source, refused) in [
        (StepError::SetContainer(errno()), true),
        (StepError::SetIommu(errno()), true),
        (StepError::call("KVM_DEV_VFIO_FILE_ADD", errno()), false),
        (StepError::NotViable, false),
    ] {
        assert_eq!(VfioError::Open { name, source }.is_refused_group(), refused);
    }
    assert!(!VfioError::node("/dev/vfio/7", None, errno(), None).is_refused_group());
}
