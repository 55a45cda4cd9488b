//! vCPUs, made on threads beside the rest of the VM.
//!
//! KVM executes CPUID some seventy times to say what it supports, and again for each vCPU. Where the
//! processor is itself virtual that takes as long as making the VM, and a vCPU as long as its devices.
//! So one thread begins with it at once, and whoever has nothing else to do makes the next vCPU.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use kvm_bindings::{
    CpuId, KVM_CAP_X86_DISABLE_EXITS, KVM_MAX_CPUID_ENTRIES, KVM_X86_DISABLE_EXITS_HLT,
    KVM_X86_DISABLE_EXITS_MWAIT, KVM_X86_DISABLE_EXITS_PAUSE, MsrList, kvm_enable_cap,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use tracing::{debug, info};

use super::MachineError;
use super::error::kvm_call;
use crate::config::cpus::{CpuConfig, Idle};
use crate::phase;
use crate::vcpu::cpuid::Traits;
use crate::vcpu::{self, Vcpu, cpuid, pin};

/// The most threads that make vCPUs: the kernel does a part of it one at a time.
const MOST_THREADS: usize = 8;

/// The thread that makes vCPUs, while there is no VM yet. Let go of, it ends.
pub(super) struct Maker {
    supported: Receiver<CpuId>,
    orders: Sender<Arc<Batch>>,
    thread: JoinHandle<Result<(), MachineError>>,
}

impl Maker {
    /// Begins with what KVM supports.
    pub fn start(kvm: &Arc<Kvm>) -> Result<Self, MachineError> {
        let kvm = Arc::clone(kvm);
        let (tell, supported) = mpsc::channel();
        let (orders, taken) = mpsc::channel::<Arc<Batch>>();
        let work = move || {
            let supported = kvm
                .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
                .map_err(kvm_call("KVM_GET_SUPPORTED_CPUID"))?;
            let _ = tell.send(supported);
            match taken.recv() {
                Ok(batch) => batch.work_together(),
                Err(_) => Ok(()),
            }
        };
        let thread = thread::Builder::new().spawn(work);
        Ok(Self {
            supported,
            orders,
            thread: thread.map_err(MachineError::Descriptors)?,
        })
    }

    /// Goes on with the vCPUs of a VM that has its interrupt controllers. Tells the bits of its
    /// guest-physical addresses as well.
    pub fn go_on(
        self,
        kvm: &Kvm,
        vm: &Arc<VmFd>,
        config: &CpuConfig,
    ) -> Result<(u8, Making), MachineError> {
        let Ok(supported) = self.supported.recv() else {
            // The thread is gone, and why is what it returns.
            join(self.thread)?;
            return Err(MachineError::Thread);
        };
        let phys_bits = vcpu::phys_bits(&supported);
        let batch = Arc::new(Batch::new(kvm, vm, supported, config)?);
        // If there is nobody to take it, it is made by whoever finishes it.
        let _ = self.orders.send(Arc::clone(&batch));
        let thread = self.thread;
        Ok((phys_bits, Making { batch, thread }))
    }
}

/// vCPUs that are being made.
pub(super) struct Making {
    batch: Arc<Batch>,
    thread: JoinHandle<Result<(), MachineError>>,
}

impl Making {
    /// All of them, in the order of their numbers.
    pub fn finish(self) -> Result<Vec<Vcpu>, MachineError> {
        self.batch.work()?;
        join(self.thread)?;
        let made = self.batch.made.lock();
        let mut vcpus = std::mem::take(&mut *made.unwrap_or_else(PoisonError::into_inner));
        vcpus.sort_by_key(Vcpu::id);
        Ok(vcpus)
    }
}

fn join(thread: JoinHandle<Result<(), MachineError>>) -> Result<(), MachineError> {
    thread.join().map_err(|_| MachineError::Thread)?
}

/// What is needed for a VM's vCPUs, and those that there are.
struct Batch {
    vm: Arc<VmFd>,
    supported: CpuId,
    msrs: MsrList,
    traits: Traits,
    pins: Vec<usize>,
    next: AtomicU32,
    made: Mutex<Vec<Vcpu>>,
}

impl Batch {
    fn new(
        kvm: &Kvm,
        vm: &Arc<VmFd>,
        supported: CpuId,
        config: &CpuConfig,
    ) -> Result<Self, MachineError> {
        let mwait = match config.idle {
            Idle::Exit => false,
            Idle::Native => idle_natively(vm)?,
        };
        let msrs = kvm
            .get_msr_index_list()
            .map_err(kvm_call("KVM_GET_MSR_INDEX_LIST"))?;
        let traits = Traits {
            topology: config.topology,
            tsc_khz: None,
            tsc_deadline: vm.check_extension(Cap::TscDeadlineTimer),
            mwait: mwait.then(cpuid::host_mwait).flatten(),
            dedicated: config.dedicated(),
        };
        Ok(Self {
            vm: Arc::clone(vm),
            supported,
            msrs,
            traits,
            pins: config.pin.clone(),
            next: AtomicU32::new(0),
            made: Mutex::default(),
        })
    }

    fn make(&self, id: u32) -> Result<Vcpu, MachineError> {
        let vcpu = Vcpu::new(
            &self.vm,
            (id, self.traits.topology.apic_id(id)),
            |fd| {
                let traits = Traits {
                    tsc_khz: fd.get_tsc_khz().ok(),
                    ..self.traits
                };
                Ok(cpuid::for_vcpu(&self.supported, id, &traits)?)
            },
            self.msrs.as_slice(),
            self.pins.get(id as usize).copied(),
        );
        Ok(vcpu?)
    }

    /// Makes vCPUs until there are no more to be begun.
    fn work(&self) -> Result<(), MachineError> {
        loop {
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            if id >= self.traits.topology.cpus() {
                return Ok(());
            }
            let vcpu = self.make(id)?;
            let made = self.made.lock();
            made.unwrap_or_else(PoisonError::into_inner).push(vcpu);
        }
    }

    /// The same with as many more threads as there is work and CPUs for, this one and that of
    /// [`Making::finish`] counted.
    fn work_together(&self) -> Result<(), MachineError> {
        let _phase = phase!("make_vcpus");
        let threads = (self.traits.topology.cpus() as usize).min(MOST_THREADS);
        let more = match threads {
            0..=2 => 0,
            _ => threads.min(pin::usable().len()).saturating_sub(2),
        };
        thread::scope(|scope| {
            let helpers: Vec<_> = (0..more)
                .map_while(|_| {
                    let helper = thread::Builder::new();
                    helper.spawn_scoped(scope, || self.work()).ok()
                })
                .collect();
            self.work()?;
            helpers
                .into_iter()
                .try_for_each(|helper| helper.join().map_err(|_| MachineError::Thread)?)
        })
    }
}

/// Lets HLT, and MWAIT and PAUSE where KVM can, run in the guest (api.rst, 7.13
/// KVM_CAP_X86_DISABLE_EXITS). To be called before there are vCPUs. Tells whether MWAIT is among
/// them.
///
/// # Errors
/// KVM cannot leave HLT to the guest. That is what was asked for: a run that is slower than it says
/// would be worse than none.
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
