//! The capabilities of KVM: those that every guest needs, and those that protect the host from a
//! guest where KVM has them (Documentation/virt/kvm/api.rst, 4.4 KVM_CHECK_EXTENSION).
//!
//! Each question is an ioctl of less than a microsecond. Capabilities that the program can do
//! without are asked for where they are used: coalesced writes, the TSC deadline timer, XCRs,
//! counters.

use kvm_bindings::{
    KVM_BUS_LOCK_DETECTION_EXIT, KVM_CAP_DEBUGREGS, KVM_CAP_DESTROY_MEMORY_REGION_WORKS,
    KVM_CAP_EXT_CPUID, KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_IRQ_ROUTING, KVM_CAP_IRQCHIP, KVM_CAP_IRQFD,
    KVM_CAP_IRQFD_RESAMPLE, KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, KVM_CAP_MP_STATE,
    KVM_CAP_PMU_CAPABILITY, KVM_CAP_SET_IDENTITY_MAP_ADDR, KVM_CAP_SET_TSS_ADDR, KVM_CAP_SYNC_MMU,
    KVM_CAP_USER_MEMORY, KVM_CAP_VCPU_EVENTS, KVM_CAP_X86_BUS_LOCK_EXIT, KVM_CAP_X86_NOTIFY_VMEXIT,
    KVM_CAP_XSAVE, KVM_PMU_CAP_DISABLE, KVM_X86_NOTIFY_VMEXIT_ENABLED, KVM_X86_NOTIFY_VMEXIT_USER,
    kvm_enable_cap,
};
use kvm_ioctls::VmFd;
use tracing::{debug, warn};

use crate::config::cpus::CpuConfig;
use crate::machine::error::{MachineError, kvm_call};
use crate::vcpu::cpuid;

/// A capability, its name, what needs it, and a version of Linux that has it.
type Need = (u32, &'static str, &'static str, &'static str);

/// Builds a row of the table: the name is that of the constant.
macro_rules! need {
    ($cap:ident, $what:literal, $since:literal) => {
        ($cap, stringify!($cap), $what, $since)
    };
}

/// The capabilities that every guest needs.
const NEEDED: [Need; 16] = [
    need!(KVM_CAP_USER_MEMORY, "guest memory", "2.6.36"),
    need!(
        KVM_CAP_SYNC_MMU,
        "memory that is present only when it is used",
        "2.6.36"
    ),
    need!(
        KVM_CAP_DESTROY_MEMORY_REGION_WORKS,
        "BARs that move",
        "2.6.36"
    ),
    need!(
        KVM_CAP_JOIN_MEMORY_REGIONS_WORKS,
        "BARs that move",
        "2.6.36"
    ),
    need!(
        KVM_CAP_SET_TSS_ADDR,
        "a guest's real mode on Intel",
        "2.6.36"
    ),
    need!(
        KVM_CAP_SET_IDENTITY_MAP_ADDR,
        "a guest's real mode on Intel",
        "2.6.36"
    ),
    need!(KVM_CAP_EXT_CPUID, "the guest's CPUID", "2.6.36"),
    need!(KVM_CAP_IRQCHIP, "interrupts", "2.6.36"),
    need!(
        KVM_CAP_IRQ_ROUTING,
        "message signalled interrupts",
        "2.6.36"
    ),
    need!(KVM_CAP_IRQFD, "a device's interrupts", "2.6.36"),
    need!(KVM_CAP_IRQFD_RESAMPLE, "a device's interrupt pin", "3.8"),
    need!(KVM_CAP_MP_STATE, "a reboot", "2.6.36"),
    need!(KVM_CAP_VCPU_EVENTS, "a reboot", "2.6.36"),
    need!(KVM_CAP_DEBUGREGS, "a reboot", "2.6.36"),
    need!(KVM_CAP_XSAVE, "a reboot", "2.6.36"),
    need!(
        KVM_CAP_IMMEDIATE_EXIT,
        "a guest that can be stopped",
        "4.11"
    ),
];

/// Checks for the capabilities that a guest needs; `answer` asks KVM. KVM's device for VFIO is not
/// among them: on x86, KVM does not answer for KVM_CAP_DEVICE_CTRL, and KVM_CREATE_DEVICE tells.
///
/// # Errors
/// [`MachineError::KvmLacks`] for the first one that is missing.
pub(super) fn check(answer: impl Fn(u32) -> i32) -> Result<(), MachineError> {
    match NEEDED.iter().find(|row| answer(row.0) <= 0) {
        None => Ok(()),
        Some((_, name, what, since)) => Err(MachineError::KvmLacks { name, what, since }),
    }
}

/// Turns on what keeps a guest from slowing down the whole host, where the processor can. To be
/// called before vCPUs are made.
pub(super) fn protect_host(vm: &VmFd) {
    let answer = |cap: u32| u64::try_from(vm.check_extension_raw(cap.into())).unwrap_or(0);
    let exit = u64::from(KVM_BUS_LOCK_DETECTION_EXIT);
    if answer(KVM_CAP_X86_BUS_LOCK_EXIT) & exit != 0 {
        turn_on(
            vm,
            "KVM_CAP_X86_BUS_LOCK_EXIT",
            KVM_CAP_X86_BUS_LOCK_EXIT,
            exit,
        );
    }
    if answer(KVM_CAP_X86_NOTIFY_VMEXIT) != 0 {
        // The window is in the upper half. KVM adds to 0 what its processor needs, as QEMU does.
        let on = u64::from(KVM_X86_NOTIFY_VMEXIT_ENABLED | KVM_X86_NOTIFY_VMEXIT_USER);
        turn_on(
            vm,
            "KVM_CAP_X86_NOTIFY_VMEXIT",
            KVM_CAP_X86_NOTIFY_VMEXIT,
            on,
        );
    }
}

fn turn_on(vm: &VmFd, name: &str, cap: u32, argument: u64) {
    debug!(argument, "KVM_ENABLE_CAP {name}");
    if let Err(e) = vm.enable_cap(&request(cap, argument)) {
        warn!("a guest can slow down the whole host: KVM_ENABLE_CAP {name} failed: {e}");
    }
}

fn request(cap: u32, argument: u64) -> kvm_enable_cap {
    let mut request = kvm_enable_cap {
        cap,
        ..Default::default()
    };
    request.args[0] = argument;
    request
}

/// Takes the performance counters from the guest, if the user does not want them (api.rst, 7.37
/// KVM_CAP_PMU_CAPABILITY). To be called before vCPUs are made.
///
/// # Errors
/// KVM has counters and cannot take them from a guest.
pub(super) fn choose_pmu(
    vm: &VmFd,
    config: &CpuConfig,
    supported: &kvm_bindings::CpuId,
) -> Result<(), MachineError> {
    const NAME: &str = "KVM_ENABLE_CAP KVM_CAP_PMU_CAPABILITY";
    if config.pmu {
        return Ok(());
    }
    let can = u32::try_from(vm.check_extension_raw(KVM_CAP_PMU_CAPABILITY.into())).unwrap_or(0);
    if can & KVM_PMU_CAP_DISABLE == 0 {
        // The answer is also 0 if KVM was loaded without counters (kvm.enable_pmu=0).
        return match cpuid::has_pmu(supported) {
            true => Err(MachineError::PmuStays),
            false => Ok(()),
        };
    }
    vm.enable_cap(&request(KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE.into()))
        .map_err(kvm_call(NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_capability_is_named_with_its_use() {
        for (cap, name, what, since) in &NEEDED {
            let error = check(|asked| i32::from(asked != *cap)).unwrap_err();
            let said = error.to_string();
            assert_eq!(
                said,
                format!(
                    "this kernel's KVM lacks {name}, which is for {what}; Linux {since} and later \
                     have it"
                )
            );
        }
        assert!(check(|_| 1).is_ok());
        // KVM answers with a number for some capabilities, and with an errno for none.
        assert!(check(|_| -1).is_err());
    }
}
