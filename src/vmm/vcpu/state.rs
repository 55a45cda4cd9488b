//! A vCPU's registers at power-on. They are read when the vCPU is made, and written back at each
//! reset.
//!
//! KVM has no call that resets a vCPU; a VMM writes every register back. KVM_CREATE_VCPU leaves a
//! vCPU in its power-on state, which is read once. Writing the state back also clears the addresses
//! in guest memory that KVM writes to (kvm-clock, steal time and asynchronous page faults), because
//! MSRs set them. Then the state is set that firmware leaves ([`cpu_state`]). A new vCPU needs only
//! the second step: each call would add microseconds to the start.

use kvm_bindings::{
    CpuId, KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW,
    KVM_VCPUEVENT_VALID_SIPI_VECTOR, KVM_VCPUEVENT_VALID_SMM, Msrs, kvm_debugregs, kvm_lapic_state,
    kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;

use crate::boot::cpu_state;
use crate::boot::cpu_state::{CpuState, Offered};
use crate::vcpu::error::VcpuError;
use crate::vcpu::machine_check;
use crate::vcpu::tsc;
use crate::vcpu::tsc::MSR_IA32_TSC_ADJUST;

/// The time-stamp counter. A reset does not change the counter, as on hardware whose firmware does
/// not write it. Writing the counter on one vCPU after the other would make the vCPUs' counters
/// differ ([`tsc`]).
const MSR_IA32_TSC: u32 = 0x10;
const MSR_IA32_FEATURE_CONTROL: u32 = 0x3a;

/// MSRs that a guest can write and that KVM_GET_MSR_INDEX_LIST does not name, first and last of
/// each range. A vCPU may lack some of them.
const UNLISTED: [(u32, u32); 10] = [
    // IA32_DEBUGCTL.
    (0x1d9, 0x1d9),
    // The variable-range MTRRs, and the fixed-range MTRRs (SDM volume 3A, 12.11.2). Firmware sets
    // IA32_MTRR_DEF_TYPE.
    (0x200, 0x20f),
    (0x250, 0x250),
    (0x258, 0x259),
    (0x268, 0x26f),
    (*machine_check::MSRS.start(), *machine_check::MSRS.end()),
    // TSC_AUX, which a KVM that cannot use RDTSCP does not name.
    (0xc000_0103, 0xc000_0103),
    // VM_CR, the two MSRs of OSVW, and DE_CFG (AMD64 manual volume 2, 15.30; volume 3, E.4.1).
    (0xc001_0114, 0xc001_0114),
    (0xc001_0140, 0xc001_0141),
    (0xc001_1029, 0xc001_1029),
];

/// The state of a new vCPU, but with the local interrupt pins as firmware sets them.
pub struct PowerOn {
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: kvm_xsave,
    lapic: kvm_lapic_state,
    xcrs: Option<kvm_xcrs>,
    debug: kvm_debugregs,
    events: kvm_vcpu_events,
    mp_state: kvm_mp_state,
    msrs: Vec<kvm_msr_entry>,
    /// The MSRs to which firmware gives other values than KVM, with these values.
    firmware_msrs: Vec<kvm_msr_entry>,
}

/// Adds the name of the call to an error.
fn call<T>(name: &'static str, outcome: Result<T, kvm_ioctls::Error>) -> Result<T, VcpuError> {
    outcome.map_err(|source| VcpuError::Call { name, source })
}

impl PowerOn {
    /// Reads the state of a new vCPU that has its leaves of CPUID and its machine-check banks.
    /// `msrs` are the indexes that KVM saves and restores (KVM_GET_MSR_INDEX_LIST); [`UNLISTED`]
    /// MSRs are read as well.
    ///
    /// # Errors
    /// The call that failed.
    pub fn read(vcpu: &VcpuFd, msrs: &[u32], cpuid: &CpuId) -> Result<Self, VcpuError> {
        let mut lapic = call("KVM_GET_LAPIC", vcpu.get_lapic())?;
        cpu_state::set_lint(&mut lapic);
        let (firmware_msrs, msrs) = at_power_on(read_msrs(vcpu, msrs)?, cpuid);
        Ok(Self {
            regs: call("KVM_GET_REGS", vcpu.get_regs())?,
            sregs: call("KVM_GET_SREGS", vcpu.get_sregs())?,
            xsave: call("KVM_GET_XSAVE", vcpu.get_xsave())?,
            lapic,
            xcrs: read_xcrs(vcpu)?,
            debug: call("KVM_GET_DEBUGREGS", vcpu.get_debug_regs())?,
            events: call("KVM_GET_VCPU_EVENTS", vcpu.get_vcpu_events())?,
            mp_state: call("KVM_GET_MP_STATE", vcpu.get_mp_state())?,
            msrs,
            firmware_msrs,
        })
    }

    /// Sets the registers that firmware sets on every processor before it starts a kernel.
    ///
    /// # Errors
    /// The call that failed.
    pub fn set_up(&self, vcpu: &VcpuFd) -> Result<(), VcpuError> {
        self.set_up_registers(vcpu)?;
        write_msrs(vcpu, &self.firmware_msrs)
    }

    fn set_up_registers(&self, vcpu: &VcpuFd) -> Result<(), VcpuError> {
        call("KVM_SET_FPU", vcpu.set_fpu(&cpu_state::fpu()))?;
        call("KVM_SET_LAPIC", vcpu.set_lapic(&self.lapic))
    }

    /// Writes the state back, then sets the registers that firmware sets. KVM requires this order:
    /// the APIC's base before its registers, and pending events last.
    ///
    /// # Errors
    /// The call that failed.
    pub fn write(&self, vcpu: &VcpuFd) -> Result<(), VcpuError> {
        // If the guest was itself a hypervisor, the vCPU must leave VMX operation first, or KVM
        // refuses CR4. Writing FEATURE_CONTROL makes the vCPU leave VMX operation. MTRRs are
        // written while they are off: for a range of MTRRs that are on and empty, Linux 6.1 zaps no
        // page and complains in its log (arch/x86/kvm/mtrr.c, `update_mtrr`).
        let zero = |index| kvm_msr_entry {
            index,
            ..Default::default()
        };
        write_msrs(
            vcpu,
            &[MSR_IA32_FEATURE_CONTROL, cpu_state::MSR_MTRR_DEF_TYPE].map(zero),
        )?;
        call("KVM_SET_MP_STATE", vcpu.set_mp_state(self.mp_state))?;
        call("KVM_SET_SREGS", vcpu.set_sregs(&self.sregs))?;
        call("KVM_SET_REGS", vcpu.set_regs(&self.regs))?;
        // SAFETY: the structure has the size that KVM_SET_XSAVE takes as long as no component is
        // enabled that needs the larger one (KVM_CAP_XSAVE2); we never enable any (AMX).
        call("KVM_SET_XSAVE", unsafe { vcpu.set_xsave(&self.xsave) })?;
        if let Some(xcrs) = &self.xcrs {
            call("KVM_SET_XCRS", vcpu.set_xcrs(xcrs))?;
        }
        call("KVM_SET_DEBUGREGS", vcpu.set_debug_regs(&self.debug))?;
        self.set_up_registers(vcpu)?;
        write_msrs(vcpu, &self.msrs)?;
        write_msrs(vcpu, &self.firmware_msrs)?;
        tsc::restore(vcpu);
        let mut events = self.events;
        events.flags |= KVM_VCPUEVENT_VALID_NMI_PENDING
            | KVM_VCPUEVENT_VALID_SIPI_VECTOR
            | KVM_VCPUEVENT_VALID_SHADOW
            | KVM_VCPUEVENT_VALID_SMM;
        call("KVM_SET_VCPU_EVENTS", vcpu.set_vcpu_events(&events))
    }

    /// Sets vCPU 0, which is new or was just reset, to the kernel's entry.
    ///
    /// # Errors
    /// The call that failed.
    pub fn enter(&self, vcpu: &VcpuFd, boot: &CpuState) -> Result<(), VcpuError> {
        let mut sregs = self.sregs;
        boot.apply(&mut sregs);
        call("KVM_SET_SREGS", vcpu.set_sregs(&sregs))?;
        call("KVM_SET_REGS", vcpu.set_regs(&boot.regs))
    }
}

/// Splits the MSRs of a new vCPU into those that firmware sets, with firmware's values, and the
/// others.
fn at_power_on(
    msrs: Vec<kvm_msr_entry>,
    cpuid: &CpuId,
) -> (Vec<kvm_msr_entry>, Vec<kvm_msr_entry>) {
    let (mut firmware, others): (Vec<_>, Vec<_>) = msrs
        .into_iter()
        .partition(|msr| cpu_state::FIRMWARE_MSRS.contains(&msr.index));
    let offered = Offered::by(cpuid);
    for msr in &mut firmware {
        cpu_state::as_firmware_leaves(msr, offered);
    }
    (firmware, others)
}

/// The MSRs that a reset writes back: all of `indexes` and [`UNLISTED`], and those that firmware
/// sets; not the MSRs of the time-stamp counter.
fn restored(indexes: &[u32]) -> Vec<u32> {
    let unlisted = UNLISTED.into_iter().flat_map(|(first, last)| first..=last);
    let unlisted = unlisted
        .chain(cpu_state::FIRMWARE_MSRS)
        .filter(|index| !indexes.contains(index));
    indexes
        .iter()
        .copied()
        .chain(unlisted)
        .filter(|i| ![MSR_IA32_TSC, MSR_IA32_TSC_ADJUST].contains(i))
        .collect()
}

/// Reads the MSRs that a reset writes back, without those that this vCPU lacks.
fn read_msrs(vcpu: &VcpuFd, indexes: &[u32]) -> Result<Vec<kvm_msr_entry>, VcpuError> {
    let mut found = Vec::new();
    let mut rest = restored(indexes);
    while !rest.is_empty() {
        let entries: Vec<_> = rest
            .iter()
            .map(|&index| kvm_msr_entry {
                index,
                ..Default::default()
            })
            .collect();
        let mut msrs = Msrs::from_entries(&entries).map_err(|_| VcpuError::Msrs)?;
        // KVM stops at the first MSR that it cannot read, and returns how many it has read.
        let done = call("KVM_GET_MSRS", vcpu.get_msrs(&mut msrs))?;
        found.extend(msrs.as_slice().iter().take(done).copied());
        rest.drain(..(done + 1).min(rest.len()));
    }
    Ok(found)
}

/// Reads the XCRs. A host without XSAVE has none, and KVM answers EINVAL there.
fn read_xcrs(vcpu: &VcpuFd) -> Result<Option<kvm_xcrs>, VcpuError> {
    match vcpu.get_xcrs() {
        Err(e) if e.errno() == libc::EINVAL => Ok(None),
        outcome => {
            let xcrs = call("KVM_GET_XCRS", outcome)?;
            Ok(Some(xcrs).filter(|xcrs| xcrs.nr_xcrs > 0))
        }
    }
}

/// Writes MSRs. A read-only MSR is skipped, because the guest cannot have changed it: KVM stops at
/// the first MSR that it cannot write, and returns how many it has written.
///
/// # Errors
/// The errno, when KVM has not looked at the MSRs at all.
fn write_msrs(vcpu: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<(), VcpuError> {
    let mut rest = entries;
    while !rest.is_empty() {
        let msrs = Msrs::from_entries(rest).map_err(|_| VcpuError::Msrs)?;
        let done = call("KVM_SET_MSRS", vcpu.set_msrs(&msrs))?;
        rest = rest.get(done + 1..).unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests;
