//! The parts of a VM that are made in one piece.

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::thread;

use kvm_ioctls::{Cap, Kvm, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::MachineError;
use super::error::kvm_call;
use crate::devices::serial::{Output, Serial};
use crate::host::memory::HostMemory;
use crate::interrupt::Router;
use crate::layout;
use crate::memory::ram::Ram;
use crate::observe::progress::Progress;
use crate::phase;
use crate::vcpu::{Vcpu, cpuid};
use crate::vfio::Opened;
use crate::vfio::device::Device;

pub(super) fn open_kvm() -> Result<Kvm, MachineError> {
    let kvm =
        Kvm::new().map_err(|e| MachineError::NoKvm(io::Error::from_raw_os_error(e.errno())))?;
    let version = kvm.get_api_version();
    if version != kvm_bindings::KVM_API_VERSION as i32 {
        return Err(MachineError::KvmVersion(version));
    }
    let needed = [
        (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
        (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
        (Cap::Irqfd, "KVM_CAP_IRQFD"),
        (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
        (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    ];
    match needed
        .into_iter()
        .find(|(cap, _)| !kvm.check_extension(*cap))
    {
        Some((_, name)) => Err(MachineError::KvmLacks(name)),
        None => Ok(kvm),
    }
}

/// Memory that the host has not would end in somebody's process being killed: say so first. With a
/// device all of it is pinned; without, pages appear as they are touched.
pub(super) fn check_memory(memory: u64, pinned: bool) -> Result<(), MachineError> {
    match HostMemory::read() {
        Some(host) if memory > host.total || (pinned && memory > host.available) => {
            Err(MachineError::HostMemory {
                asked: memory,
                host,
                pinned,
            })
        }
        _ => Ok(()),
    }
}

pub(super) fn populate(ram: &Ram) -> Result<(), MachineError> {
    let _phase = phase!("populate_ram");
    let threads = thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(16);
    let progress = Progress::new("preparing the guest's memory", ram.size());
    ram.populate(threads, &|done| progress.set(done))?;
    Ok(())
}

pub(super) fn make_vcpus(
    kvm: &Kvm,
    vm: &VmFd,
    supported: &kvm_bindings::CpuId,
    cpus: u32,
) -> Result<Vec<Vcpu>, MachineError> {
    let _phase = phase!("make_vcpus");
    let msrs = kvm
        .get_msr_index_list()
        .map_err(kvm_call("KVM_GET_MSR_INDEX_LIST"))?;
    let tsc_deadline = vm.check_extension(Cap::TscDeadlineTimer);
    (0..cpus)
        .map(|id| {
            let vcpu = Vcpu::new(
                vm,
                id,
                |fd| {
                    let tsc_khz = fd.get_tsc_khz().ok();
                    Ok(cpuid::for_vcpu(supported, id, cpus, tsc_khz, tsc_deadline)?)
                },
                msrs.as_slice(),
            )?;
            Ok(vcpu)
        })
        .collect()
}

pub(super) fn make_serial(router: &Router, output: Output) -> Result<Arc<Serial>, MachineError> {
    let event =
        EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(MachineError::Descriptors)?;
    router.attach(&event, layout::GSI_SERIAL)?;
    Ok(Arc::new(
        Serial::new(event, output).map_err(MachineError::Descriptors)?,
    ))
}

/// An upper bound of what 64-bit BARs take: everything.
pub(super) fn bytes_of_bars(opened: &Opened) -> u64 {
    let regions = opened
        .devices
        .iter()
        .flat_map(|d| (0..6).map(|i| d.region(i).size));
    regions.fold(0, u64::saturating_add)
}
