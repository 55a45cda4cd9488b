//! Makes the vCPUs of a VM, in parallel.

use std::sync::atomic::{AtomicU32, Ordering};
use std::{iter, thread};

use kvm_bindings::{
    KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_HLT, KVM_X86_DISABLE_EXITS_MWAIT,
    KVM_X86_DISABLE_EXITS_PAUSE, kvm_enable_cap,
};
use kvm_ioctls::{Cap, VmFd};
use tracing::{debug, info};

use crate::boot::{Images, Loaded};
use crate::config::VmConfig;
use crate::config::cpus::{CpuConfig, Idle};
use crate::machine::error::{MachineError, kvm_call};
use crate::machine::vm::{HostKvm, Vm};
use crate::phase;
use crate::vcpu::cpuid::Traits;
use crate::vcpu::error::VcpuError;
use crate::vcpu::{Vcpu, cpuid, pin};

/// The most threads that make vCPUs. More threads do not help: the kernel does part of the work one
/// vCPU at a time.
const MOST_THREADS: usize = 8;

/// Makes the vCPUs; returns them in the order of their numbers. Several are made at the same time.
/// A single vCPU is made on the calling thread, because starting a thread costs more. The VM must
/// have its interrupt controllers.
fn make_vcpus(kvm: &HostKvm, vm: &VmFd, config: &CpuConfig) -> Result<Vec<Vcpu>, MachineError> {
    let _phase = phase!("make_vcpus");
    let mwait = match config.idle {
        Idle::Exit => false,
        Idle::Native => idle_natively(vm)?,
    };
    let msrs = kvm
        .fd
        .get_msr_index_list()
        .map_err(kvm_call("KVM_GET_MSR_INDEX_LIST"))?;
    let traits = Traits {
        topology: config.topology,
        tsc_khz: None,
        tsc_deadline: vm.check_extension(Cap::TscDeadlineTimer),
        mwait: mwait.then(cpuid::host::mwait).flatten(),
        dedicated: config.dedicated(),
        nested: config.nested,
        pmu: config.pmu,
    };
    let make = |id: u32| {
        Vcpu::new(
            vm,
            (id, traits.topology.apic_id(id)),
            |fd| {
                let traits = Traits {
                    tsc_khz: fd.get_tsc_khz().ok(),
                    ..traits
                };
                Ok(cpuid::for_vcpu(&kvm.cpuid, id, &traits)?)
            },
            msrs.as_slice(),
            config.pin.get(id as usize).copied(),
        )
    };
    make_in_parallel(config.count(), make)
}

/// Makes vCPUs 0 to `count` - 1 by `make`; each thread takes the next number until none is left.
fn make_in_parallel(
    count: u32,
    make: impl Fn(u32) -> Result<Vcpu, VcpuError> + Sync,
) -> Result<Vec<Vcpu>, MachineError> {
    let next = AtomicU32::new(0);
    let work = || -> Result<Vec<Vcpu>, VcpuError> {
        let ids = iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
        ids.take_while(|id| *id < count).map(&make).collect()
    };
    let threads = match count {
        1 => 1,
        n => pin::usable().len().min(n as usize).min(MOST_THREADS),
    };
    let mut vcpus = thread::scope(|scope| {
        // If the host has no threads left, this thread makes more of the vCPUs.
        let helpers: Vec<_> = (1..threads)
            .map_while(|_| thread::Builder::new().spawn_scoped(scope, work).ok())
            .collect();
        let mut vcpus = work()?;
        for helper in helpers {
            vcpus.extend(helper.join().map_err(|_| MachineError::Thread)??);
        }
        Ok::<_, MachineError>(vcpus)
    })?;
    vcpus.sort_by_key(Vcpu::id);
    Ok(vcpus)
}

/// Lets HLT, and MWAIT and PAUSE where KVM can, run in the guest (api.rst, 7.13
/// KVM_CAP_X86_DISABLE_EXITS). Must be called before vCPUs are made. Returns whether MWAIT runs in
/// the guest.
///
/// # Errors
/// KVM cannot run HLT in the guest, though the user has asked for that.
fn idle_natively(vm: &VmFd) -> Result<bool, MachineError> {
    const NAME: &str = "KVM_ENABLE_CAP KVM_CAP_X86_DISABLE_EXITS";
    let can = vm.check_extension_raw(KVM_CAP_X86_DISABLE_EXITS.into());
    let can = u32::try_from(can).unwrap_or(0);
    if can & KVM_X86_DISABLE_EXITS_HLT == 0 {
        return Err(MachineError::NativeIdle);
    }
    let wanted = can
        & (KVM_X86_DISABLE_EXITS_HLT | KVM_X86_DISABLE_EXITS_MWAIT | KVM_X86_DISABLE_EXITS_PAUSE);
    let mut cap = kvm_enable_cap {
        cap: KVM_CAP_X86_DISABLE_EXITS,
        ..Default::default()
    };
    cap.args[0] = wanted.into();
    debug!(wanted, "{NAME}");
    vm.enable_cap(&cap).map_err(kvm_call(NAME))?;
    let mwait = wanted & KVM_X86_DISABLE_EXITS_MWAIT != 0;
    info!(
        "HLT{} and PAUSE run in the guest",
        if mwait { ", MWAIT" } else { "" }
    );
    Ok(mwait)
}

/// Makes the vCPUs, and loads kernel and initrd into RAM.
pub(super) fn make_vcpus_and_load(
    kvm: &HostKvm,
    vm: &Vm,
    config: &VmConfig,
    images: &Images,
) -> Result<(Vec<Vcpu>, Loaded), MachineError> {
    let vcpus = make_vcpus(kvm, &vm.fd, &config.cpus)?;
    let _phase = phase!("load_images");
    let loaded = images.load_files(vm.ram.memory(), &vm.layout, &config.cmdline)?;
    Ok((vcpus, loaded))
}
