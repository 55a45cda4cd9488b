//! The machine-check banks of a vCPU (Intel SDM volume 3B, 16.3; AMD64 manual volume 2, 9.3;
//! api.rst, 4.105 KVM_X86_SETUP_MCE).

use std::io;

use kvm_bindings::KVMIO;
use kvm_ioctls::VcpuFd;
use tracing::debug;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

ioctl_iow_nr!(KVM_X86_SETUP_MCE, KVMIO, 0x9c, u64);

/// The number of banks, as on many a PC. A guest initialises and polls each of them.
const BANKS: u64 = 10;

// IA32_MCG_CAP, beside the number of banks.
const MCG_CTL_P: u64 = 1 << 8;
/// An error may be recovered by software.
const MCG_SER_P: u64 = 1 << 24;

/// First and last index of the banks' registers: control, status, address and misc of each bank.
pub const MSRS: std::ops::RangeInclusive<u32> = 0x400..=0x400 + 4 * BANKS as u32 - 1;

/// Gives a new vCPU its banks. A KVM that refuses error recovery gets banks without; if KVM refuses
/// those as well, its own banks stay, and a guest takes each machine check as fatal.
pub fn set_up(vcpu: &VcpuFd) {
    for features in [MCG_CTL_P | MCG_SER_P, MCG_CTL_P] {
        let capability = features | BANKS;
        // SAFETY: KVM reads the eight bytes, which live for the call.
        if unsafe { ioctl_with_ref(vcpu, KVM_X86_SETUP_MCE(), &capability) } == 0 {
            return;
        }
    }
    let error = io::Error::last_os_error();
    debug!("KVM_X86_SETUP_MCE failed: {error}");
}
