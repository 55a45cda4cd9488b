//! The machine-check banks of a vCPU: their shape at power-on, and machine checks for memory that
//! the host has lost.
//!
//! Intel SDM volume 3B, 16.3 (registers) and 16.9 (codes); AMD64 manual volume 2, 9.3; api.rst,
//! 4.104 to 4.106 (KVM_X86_GET_MCE_CAP_SUPPORTED, KVM_X86_SETUP_MCE, KVM_X86_SET_MCE).

use std::io;

use kvm_bindings::{KVMIO, Msrs, kvm_msr_entry, kvm_x86_mce};
use kvm_ioctls::VcpuFd;
use tracing::debug;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use crate::log::degraded::{self, Code};
use crate::sys::bus_error::{self, Area};
use crate::vcpu::cpuid::host;

ioctl_iow_nr!(KVM_X86_SETUP_MCE, KVMIO, 0x9c, u64);
ioctl_iow_nr!(KVM_X86_SET_MCE, KVMIO, 0x9e, kvm_x86_mce);

/// The number of banks, as on many a PC. A guest initialises and polls each of them.
const BANKS: u64 = 10;
/// The bank of errors that the guest's software must handle.
const BANK: u8 = 9;

// IA32_MCG_CAP, beside the number of banks.
const MCG_CTL_P: u64 = 1 << 8;
/// An error may be recovered by software.
const MCG_SER_P: u64 = 1 << 24;

// IA32_MCG_STATUS.
const MCG_RIPV: u64 = 1 << 0;
const MCG_EIPV: u64 = 1 << 1;
const MCG_MCIP: u64 = 1 << 2;

// IA32_MCi_STATUS.
const VALID: u64 = 1 << 63;
const UNCORRECTED: u64 = 1 << 61;
const ENABLED: u64 = 1 << 60;
const MISC_VALID: u64 = 1 << 59;
const ADDRESS_VALID: u64 = 1 << 58;
/// Signalled: reserved on AMD.
const SIGNALLED: u64 = 1 << 56;
/// Action required: reserved on AMD.
const ACTION_REQUIRED: u64 = 1 << 55;
/// Data load of the level 0 cache (SDM, table 16-20).
const DATA_LOAD: u64 = 0x134;
/// IA32_MCi_MISC: the address is physical (mode 2), and bits 11:0 are not part of the address.
const PHYSICAL_PAGE: u64 = 2 << 6 | 12;

const CR4_MCE: u64 = 1 << 6;
/// IA32_MCG_CTL, and the control register of bank 0.
const MCG_CTL: u32 = 0x17b;
const BANK_0_CTL: u32 = 0x400;

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

/// Handles a page at a host address that the guest has touched and the host has lost: the guest
/// gets a machine check. Returns the reason if the guest cannot go on.
pub fn lose_page(vcpu: &VcpuFd, ram: &[Area], host: u64) -> Option<String> {
    let Some(address) = bus_error::guest_address(ram, host) else {
        return Some(format!(
            "the host has lost memory at {host:#x}, which is not the guest's RAM"
        ));
    };
    let why = format!("the host has lost the memory at guest address {address:#x}");
    if !raise(vcpu, address) {
        return Some(format!("{why}, and the guest takes no machine checks"));
    }
    let loss = Code::MemoryLost.loss("the guest gets a machine check", why);
    degraded::tell(loss.hint("find the host's bad memory with `dmesg | grep -i 'memory failure'`"));
    None
}

/// An MSR of a vCPU; `None` if the vCPU lacks it.
fn read_msr(vcpu: &VcpuFd, index: u32) -> Option<u64> {
    let entry = kvm_msr_entry {
        index,
        ..Default::default()
    };
    let mut msrs = Msrs::from_entries(&[entry]).ok()?;
    let read = vcpu.get_msrs(&mut msrs).ok()?;
    msrs.as_slice().iter().take(read).map(|msr| msr.data).next()
}

/// Raises a machine check in a vCPU that has touched a lost page at a guest-physical address.
/// Returns whether the guest takes the machine check. A guest that has not enabled machine checks
/// would get a triple fault.
///
/// The banks of AMD's processors, the guest's as well as the host's, have reserved bits where
/// Intel's tell what the software must do.
fn raise(vcpu: &VcpuFd, address: u64) -> bool {
    if !vcpu.get_sregs().is_ok_and(|sregs| sregs.cr4 & CR4_MCE != 0) {
        return false;
    }
    // KVM drops the event if the guest has not enabled its reports.
    let enabled = |index| read_msr(vcpu, index).is_none_or(|value| value == u64::MAX);
    if !enabled(MCG_CTL) || !enabled(BANK_0_CTL + 4 * u32::from(BANK)) {
        return false;
    }
    let intels = if host::is_amd() {
        0
    } else {
        SIGNALLED | ACTION_REQUIRED | DATA_LOAD
    };
    let event = kvm_x86_mce {
        status: VALID | UNCORRECTED | ENABLED | MISC_VALID | ADDRESS_VALID | intels,
        addr: address,
        misc: PHYSICAL_PAGE,
        mcg_status: MCG_MCIP | MCG_RIPV | MCG_EIPV,
        bank: BANK,
        ..Default::default()
    };
    // SAFETY: KVM reads the structure, which lives for the call.
    unsafe { ioctl_with_ref(vcpu, KVM_X86_SET_MCE(), &event) == 0 }
}
