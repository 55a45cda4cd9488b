//! One match on the reason a vCPU came out of KVM_RUN, and nothing else
//! (Documentation/virt/kvm/api.rst, 5 "The kvm_run structure").

use std::sync::atomic::{AtomicBool, Ordering};

use kvm_ioctls::{VcpuExit, VcpuFd};
use tracing::trace;

use crate::bus::Bus;
use crate::observe::stats::ExitCounters;

/// Why a vCPU's loop ended.
#[derive(Debug, PartialEq, Eq)]
pub enum LoopEnd {
    /// It was asked to stop.
    Stopped,
    /// The guest's processor shut down: a triple fault.
    Shutdown,
    /// KVM cannot go on with this guest.
    Broken(String),
}

/// Runs a vCPU until it is stopped or cannot go on.
pub fn run(vcpu: &mut VcpuFd, bus: &Bus, stop: &AtomicBool, exits: &ExitCounters) -> LoopEnd {
    while !stop.load(Ordering::Acquire) {
        let counter = match vcpu.run() {
            Ok(VcpuExit::IoIn(port, data)) => {
                bus.pio_read(port, data);
                &exits.pio
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                bus.pio_write(port, data);
                &exits.pio
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                bus.mmio_read(address, data);
                &exits.mmio
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                bus.mmio_write(address, data);
                &exits.mmio
            }
            Ok(VcpuExit::Shutdown) => return LoopEnd::Shutdown,
            Ok(VcpuExit::InternalError) => {
                return LoopEnd::Broken("KVM cannot emulate an instruction of the guest's".into());
            }
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                return LoopEnd::Broken(format!(
                    "the processor refused to enter the guest (reason {reason:#x}, CPU {cpu})"
                ));
            }
            Ok(exit) => {
                trace!(?exit, "nothing to do for this exit");
                &exits.other
            }
            // A kick, or a signal that was nobody's.
            Err(e) if e.errno() == libc::EINTR || e.errno() == libc::EAGAIN => &exits.other,
            Err(e) => return LoopEnd::Broken(format!("KVM_RUN failed: {e}")),
        };
        ExitCounters::count(counter);
    }
    LoopEnd::Stopped
}
