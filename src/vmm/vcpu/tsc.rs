//! Undoes a guest's shifts of its time-stamp counters (TSC) when the guest reboots.
//!
//! A guest shifts the TSC of one vCPU by writing the TSC or IA32_TSC_ADJUST (Intel SDM volume 3,
//! 18.17.3). KVM adds up the shifts of both kinds in IA32_TSC_ADJUST. Without the undo, the TSCs of
//! the vCPUs would differ in the next boot. Apart from the shifts, the TSCs go on counting through
//! the reboot.
//!
//! The shift is subtracted from the vCPU's TSC offset, an attribute of the vCPU
//! (Documentation/virt/kvm/devices/vcpu.rst, 4.1). IA32_TSC_ADJUST is then set to zero. A VMM's
//! write to that MSR alone does not change the TSC.

use std::io;

use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, Msrs, kvm_device_attr, kvm_msr_entry,
};
use kvm_ioctls::VcpuFd;
use tracing::debug;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);

/// IA32_TSC_ADJUST; zero at power-on.
pub const MSR_IA32_TSC_ADJUST: u32 = 0x3b;

/// Undoes the guest's shift. KVM before Linux 5.16 cannot do that. IA32_TSC_ADJUST then keeps its
/// value, so that the kernel of the next boot can undo the shift itself.
pub fn restore(vcpu: &VcpuFd) {
    let added = adjustment(vcpu);
    if added == 0 {
        return;
    }
    let moved = offset(vcpu).and_then(|old| set_offset(vcpu, old.wrapping_sub(added)));
    match moved {
        Ok(()) => set_adjustment(vcpu, 0),
        Err(e) => debug!("the TSC of a vCPU cannot be set back: {e}"),
    }
}

fn entry(data: u64) -> [kvm_msr_entry; 1] {
    [kvm_msr_entry {
        index: MSR_IA32_TSC_ADJUST,
        data,
        ..Default::default()
    }]
}

fn adjustment(vcpu: &VcpuFd) -> u64 {
    let Ok(mut msrs) = Msrs::from_entries(&entry(0)) else {
        return 0;
    };
    match vcpu.get_msrs(&mut msrs) {
        Ok(1) => msrs.as_slice().first().map_or(0, |e| e.data),
        _ => 0,
    }
}

fn set_adjustment(vcpu: &VcpuFd, value: u64) {
    if let Ok(msrs) = Msrs::from_entries(&entry(value)) {
        // A vCPU may lack the MSR, so an error is ignored.
        let _ = vcpu.set_msrs(&msrs);
    }
}

/// The attribute KVM_VCPU_TSC_OFFSET, whose value is at `value`.
fn attribute(value: *mut u64) -> kvm_device_attr {
    kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: value as u64,
    }
}

/// The vCPU's offset from the host's counter.
fn offset(vcpu: &VcpuFd) -> io::Result<u64> {
    let mut value = 0;
    let attribute = attribute(&raw mut value);
    // SAFETY: the attribute points at eight bytes that live for the call and that KVM fills.
    match unsafe { ioctl_with_ref(vcpu, KVM_GET_DEVICE_ATTR(), &attribute) } {
        0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set_offset(vcpu: &VcpuFd, mut value: u64) -> io::Result<()> {
    let attribute = attribute(&raw mut value);
    // SAFETY: the attribute points at eight bytes that live for the call and that KVM reads.
    match unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &attribute) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
