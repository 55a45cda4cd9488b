//! vCPUs: making them, running and stopping their threads, resetting them.
//!
//! | file | content |
//! | --- | --- |
//! | this file | a vCPU that does not run |
//! | [`threads`] | the threads of running vCPUs |
//! | [`exit_loop`] | one match on the reason of an exit |
//! | [`pause`] | where the threads wait while the guest is paused |
//! | [`devices_open`] | where a vCPU waits for devices that are not open yet |
//! | `vcpu_thread` | a thread, to interrupt it |
//! | [`run_page`] | the page that KVM shares with a running vCPU |
//! | `broken` | words for the exits that end a run |
//! | [`shared`] | the parts of the VM that an exit may need |
//! | [`state`] | power-on state, for a reset |
//! | `machine_check` | the machine-check banks |
//! | [`cpuid`] | the CPUID leaves that a guest sees |
//! | [`pin`] | vCPUs on host CPUs of their own |

pub(crate) mod broken;
pub mod cpuid;
pub mod devices_open;
pub mod error;
pub mod exit_loop;
mod machine_check;
pub mod pause;
pub mod pin;
pub mod run_page;
pub mod shared;
pub mod state;
pub mod threads;
mod tsc;
mod vcpu_thread;

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use kvm_bindings::CpuId;
use kvm_ioctls::{VcpuFd, VmFd};
use tracing::debug;

use crate::boot::cpu_state::CpuState;
use crate::layout::Reach;
use crate::log::degraded::{self, Code};
use crate::log::phases::FIRST_RUN;
use crate::phase;
use crate::sync::atomic::AtomicBool;
use crate::vcpu::error::VcpuError;
use crate::vcpu::exit_loop::LoopEnd;
use crate::vcpu::shared::Shared;
use crate::vcpu::state::PowerOn;

/// The guest-physical addresses that a VM can use: the width is in leaf 0x8000_0008 of the leaves
/// that KVM supports, and the maker in the host's own leaf 0.
pub fn reach(supported: &CpuId) -> Reach {
    Reach {
        bits: phys_bits(supported),
        amd: cpuid::host::is_amd(),
    }
}

/// The width of a guest-physical address. Bits 23:16 are the part of it that a guest's page tables
/// can map, if that is less (Linux 6.10; AMD APM volume 3, E.4.7, GuestPhysAddrSize).
fn phys_bits(supported: &CpuId) -> u8 {
    const ADDRESS_SIZES: u32 = 0x8000_0008;
    let leaf = supported
        .as_slice()
        .iter()
        .find(|e| e.function == ADDRESS_SIZES);
    // Processors without the leaf have 36 bits (SDM volume 2A, CPUID).
    leaf.map_or(36, |e| {
        let [bits, _, guest, _] = e.eax.to_le_bytes();
        if guest == 0 { bits } else { bits.min(guest) }
    })
}

/// A vCPU that is not running.
pub struct Vcpu {
    id: u32,
    fd: VcpuFd,
    /// Boxed, because the state is kilobytes large and would be copied with each move of the vCPU.
    power_on: Box<PowerOn>,
    /// The host CPU to run on.
    pin: Option<usize>,
}

impl Vcpu {
    /// Makes vCPU `id`, which KVM knows by `apic_id`, in the state that firmware leaves. vCPU 0
    /// still needs its [entry](Self::enter); the others wait for their start-up IPI. `cpuid` makes
    /// the leaves for the new vCPU, `msrs` are the indexes of the MSRs that a reset restores, and
    /// `pin` is the number of the host CPU to run on.
    ///
    /// # Errors
    /// The call that failed.
    pub fn new(
        vm: &VmFd,
        (id, apic_id): (u32, u8),
        cpuid: impl FnOnce(&VcpuFd) -> Result<CpuId, VcpuError>,
        msrs: &[u32],
        pin: Option<usize>,
    ) -> Result<Self, VcpuError> {
        let call = |name| move |source| VcpuError::Call { name, source };
        let fd = vm
            .create_vcpu(apic_id.into())
            .map_err(call("KVM_CREATE_VCPU"))?;
        let cpuid = cpuid(&fd)?;
        fd.set_cpuid2(&cpuid).map_err(call("KVM_SET_CPUID2"))?;
        machine_check::set_up(&fd);
        let power_on = Box::new(PowerOn::read(&fd, msrs, &cpuid)?);
        power_on.set_up(&fd)?;
        Ok(Self {
            id,
            fd,
            power_on,
            pin,
        })
    }

    /// The vCPU's number, from 0.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Brings the vCPU to its state after [`Vcpu::new`].
    ///
    /// # Errors
    /// The call that failed.
    pub fn reset(&self) -> Result<(), VcpuError> {
        self.power_on.write(&self.fd)
    }

    /// Sets the registers for the kernel's entry. To be called on vCPU 0 after it was made or
    /// reset.
    ///
    /// # Errors
    /// The call that failed.
    pub fn enter(&self, boot: &CpuState) -> Result<(), VcpuError> {
        self.power_on.enter(&self.fd, boot)
    }

    /// Prepares the calling thread to run the vCPU.
    pub fn prepare_thread(&self) {
        if let Some(cpu) = self.pin
            && let Err(e) = pin::pin(cpu)
        {
            // `check` succeeded at the start of the run; since then the host has withdrawn the CPU.
            tell_not_pinned(self.id, cpu, &e);
        }
        if self.id == 0 {
            drop(phase!(FIRST_RUN));
        }
    }

    /// Runs the vCPU on the calling thread until `leave` is set and the thread gets a signal, or
    /// until the guest cannot go on.
    pub fn run(&mut self, shared: &Shared, leave: &AtomicBool) -> LoopEnd {
        let Some(exits) = shared.exits.vcpus().get(self.id as usize) else {
            return LoopEnd::Broken("it has no counters".into());
        };
        exit_loop::run(&mut self.fd, shared, exits, leave)
    }

    /// Completes the instruction of the last exit, at the end of the vCPU's boot.
    pub fn complete(&mut self) {
        exit_loop::complete(&mut self.fd);
    }

    /// Tells the guest that it was paused, so that its watchdogs do not take the pause for a hang
    /// (api.rst, 4.74 KVM_KVMCLOCK_CTRL). To be called before the vCPU goes on.
    pub fn tell_paused(&self) {
        // A guest that does not use KVM's clock cannot be told (EINVAL).
        if let Err(e) = self.fd.kvmclock_ctrl()
            && e.errno() != libc::EINVAL
        {
            debug!("vCPU {} is not told of the pause: {e}", self.id);
        }
    }
}

fn tell_not_pinned(vcpu: u32, cpu: usize, error: &io::Error) {
    let what = format!("vCPU {vcpu} is not pinned to host CPU {cpu}");
    let loss = Code::VcpuNotPinned.loss(what, error.to_string());
    degraded::tell(loss.hint(format!(
        "put the CPU online again (/sys/devices/system/cpu/cpu{cpu}/online) and into the process's \
         cpuset, then start the guest again"
    )));
}

impl AsRawFd for Vcpu {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use kvm_bindings::kvm_cpuid_entry2;

    use super::*;

    /// No host has this CPU; a real one may leave between the check and the start of the thread.
    #[test]
    fn a_host_cpu_that_has_left_is_told() {
        let cpu = 1_000_000;
        let error = pin::pin(cpu).unwrap_err();
        for vcpu in [0, 1, 0] {
            tell_not_pinned(vcpu, cpu, &error);
        }
        let told = degraded::list().into_iter();
        let told = told.filter(|loss| loss.code == Code::VcpuNotPinned);
        let told: Vec<_> = told.map(|loss| loss.what).collect();
        assert_eq!(
            told,
            [
                "vCPU 0 is not pinned to host CPU 1000000",
                "vCPU 1 is not pinned to host CPU 1000000"
            ]
        );
    }

    #[test]
    fn the_width_that_can_be_mapped() {
        let with = |function, eax| {
            let entry = kvm_cpuid_entry2 {
                function,
                eax,
                ..Default::default()
            };
            phys_bits(&CpuId::from_entries(&[entry]).unwrap())
        };
        assert_eq!(with(0x8000_0008, 0x3034), 52);
        assert_eq!(with(0x8000_0008, 0x0030_3934), 48);
        assert_eq!(with(0x8000_0008, 0x0034_3930), 48);
        assert_eq!(with(1, 0), 36);
    }
}
