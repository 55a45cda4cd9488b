//! KVM's VFIO device, through which KVM learns of each group or device
//! (Documentation/virt/kvm/devices/vfio.rst).
//!
//! KVM keeps a reference to each file that was added. So closing a file in this process does not
//! close the group or device until KVM has dropped its reference too.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::{
    KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD, KVM_DEV_VFIO_FILE_DEL, kvm_create_device,
    kvm_device_attr, kvm_device_type_KVM_DEV_TYPE_VFIO,
};
use kvm_ioctls::{DeviceFd, VmFd};

use crate::vfio::open::error::VfioError;

/// KVM's VFIO device. Without a VM there is no such device, and every call succeeds.
pub(super) struct KvmVfio(Option<DeviceFd>);

impl KvmVfio {
    /// Makes the device, once for a VM.
    ///
    /// # Errors
    /// The errno of KVM_CREATE_DEVICE.
    pub fn new(vm: Option<&VmFd>) -> Result<Self, VfioError> {
        let create = |vm: &VmFd| {
            let mut device = kvm_create_device {
                type_: kvm_device_type_KVM_DEV_TYPE_VFIO,
                fd: 0,
                flags: 0,
            };
            vm.create_device(&mut device)
        };
        let device = vm.map(create).transpose();
        Ok(Self(device.map_err(VfioError::KvmDevice)?))
    }

    /// KVM_DEV_VFIO_FILE_ADD: tells KVM of a group's or device's file.
    ///
    /// # Errors
    /// The errno.
    pub fn add(&self, file: &File) -> io::Result<()> {
        self.set(KVM_DEV_VFIO_FILE_ADD, file)
    }

    /// KVM_DEV_VFIO_FILE_DEL: makes KVM drop its reference to the file.
    ///
    /// # Errors
    /// The errno; ENOENT for a file that was not added.
    pub fn remove(&self, file: &File) -> io::Result<()> {
        self.set(KVM_DEV_VFIO_FILE_DEL, file)
    }

    fn set(&self, attribute: u32, file: &File) -> io::Result<()> {
        let Some(device) = &self.0 else {
            return Ok(());
        };
        let descriptor = file.as_raw_fd();
        let attribute = kvm_device_attr {
            flags: 0,
            group: KVM_DEV_VFIO_FILE,
            attr: attribute.into(),
            addr: &raw const descriptor as u64,
        };
        let set = device.set_device_attr(&attribute);
        set.map_err(|e| io::Error::from_raw_os_error(e.errno()))
    }

    /// A device that refuses every call with ENOTTY.
    #[cfg(test)]
    pub fn refusing() -> Self {
        let file = File::open("/dev/null").expect("every Linux has it");
        Self(Some(crate::vfio::uapi::as_kvm_device(file)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_vm_every_call_succeeds() {
        let file = File::open("/dev/null").unwrap();
        let (without, refusing) = (KvmVfio::new(None).unwrap(), KvmVfio::refusing());
        assert!(without.add(&file).is_ok() && without.remove(&file).is_ok());
        let errno = |outcome: io::Result<()>| outcome.unwrap_err().raw_os_error();
        assert_eq!(errno(refusing.add(&file)), Some(libc::ENOTTY));
        assert_eq!(errno(refusing.remove(&file)), Some(libc::ENOTTY));
    }
}
