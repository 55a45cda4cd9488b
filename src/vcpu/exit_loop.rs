//! One match on the reason a vCPU came out of KVM_RUN, and nothing else
//! (Documentation/virt/kvm/api.rst, 5 "The kvm_run structure").

use std::sync::atomic::{AtomicBool, Ordering};

use kvm_ioctls::{VcpuExit, VcpuFd};
use tracing::trace;

use super::Shared;
use super::run_page::RunPage;
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
pub fn run(vcpu: &mut VcpuFd, shared: &Shared, stop: &AtomicBool) -> LoopEnd {
    let end = run_on(vcpu, shared, stop);
    // What a read was answered with reaches the registers inside the next KVM_RUN; without it the
    // old instruction would still be finished after a reset (api.rst, 4.10 KVM_RUN).
    vcpu.set_kvm_immediate_exit(1);
    let _ = vcpu.run();
    vcpu.set_kvm_immediate_exit(0);
    end
}

fn run_on(vcpu: &mut VcpuFd, shared: &Shared, stop: &AtomicBool) -> LoopEnd {
    let page = RunPage::of(vcpu);
    let (bus, exits) = (&*shared.bus, &*shared.exits);
    while !stop.load(Ordering::Acquire) {
        let exit = vcpu.run();
        shared.coalesced.apply();
        let counter = match exit {
            Ok(VcpuExit::IoIn(port, data)) => {
                for access in data.chunks_mut(page.port_width()) {
                    bus.pio_read(port, access);
                }
                &exits.pio
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                for access in data.chunks(page.port_width()) {
                    bus.pio_write(port, access);
                }
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
            Ok(exit @ (VcpuExit::Hlt | VcpuExit::Intr | VcpuExit::IrqWindowOpen)) => {
                trace!(?exit, "nothing to do");
                &exits.other
            }
            // A page of a device that has gone, perhaps; kernels before 6.8 do not say which.
            Ok(VcpuExit::MemoryFault { gpa, .. }) if shared.lost_pages.take_away(Some(gpa)) => {
                &exits.other
            }
            Err(e) if e.errno() == libc::EFAULT && shared.lost_pages.take_away(None) => {
                &exits.other
            }
            Ok(VcpuExit::MemoryFault { gpa, .. }) => {
                return LoopEnd::Broken(format!("the host has no page for {gpa:#x}"));
            }
            Ok(exit) => return LoopEnd::Broken(format!("KVM stopped it: {exit:?}")),
            // A kick, or a signal that was nobody's.
            Err(e) if e.errno() == libc::EINTR || e.errno() == libc::EAGAIN => &exits.other,
            Err(e) => return LoopEnd::Broken(format!("KVM_RUN failed: {e}")),
        };
        shared.coalesced.settle();
        ExitCounters::count(counter);
    }
    LoopEnd::Stopped
}
