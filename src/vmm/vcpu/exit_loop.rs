//! The exit loop of a vCPU: one match on the reason of each exit from KVM_RUN
//! (Documentation/virt/kvm/api.rst, 5 "The kvm_run structure").

use std::sync::atomic::Ordering;

use kvm_bindings::{KVM_EXIT_NOTIFY, KVM_EXIT_X86_BUS_LOCK, KVM_NOTIFY_CONTEXT_INVALID};
use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::counters::exits::{Reason, VcpuExits};
use crate::sync::atomic::AtomicBool;
use crate::sys::bus_error;
use crate::vcpu::broken;
use crate::vcpu::machine_check;
use crate::vcpu::run_page::{Fields, Runner};
use crate::vcpu::shared::Shared;

/// The reason why a vCPU's loop ended.
#[derive(Debug, PartialEq, Eq)]
pub enum LoopEnd {
    /// The vCPU was asked to stop.
    Stopped,
    /// The guest's processor shut down: a triple fault.
    Shutdown,
    /// KVM cannot go on with this guest.
    Broken(String),
    /// KVM_RUN failed with this errno.
    Refused(i32),
}

/// Makes one more KVM_RUN, before the vCPU is reset: KVM completes an instruction that reads in the
/// next KVM_RUN, and would otherwise complete the old instruction after the reset (api.rst, 4.10
/// KVM_RUN).
pub fn complete(vcpu: &mut VcpuFd) {
    vcpu.set_kvm_immediate_exit(1);
    let _ = vcpu.run();
    vcpu.set_kvm_immediate_exit(0);
}

/// Runs a vCPU until `leave` is set or it cannot go on, and counts its exits. After `leave` the
/// vCPU may go on by another call, which completes the last exit's instruction.
pub fn run(vcpu: &mut VcpuFd, shared: &Shared, exits: &VcpuExits, leave: &AtomicBool) -> LoopEnd {
    let mut runner = Runner::new(vcpu);
    let bus = &*shared.bus;
    while !leave.load(Ordering::Acquire) {
        let running = &mut runner;
        let ((exit, fields), lost) = bus_error::watch(move || running.run());
        shared.coalesced.apply();
        let (reason, address) = match exit {
            Ok(VcpuExit::IoIn(port, data)) => {
                for access in data.chunks_mut(fields.port_width) {
                    bus.pio_read(port, access);
                }
                (Reason::PioIn, port.into())
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                for access in data.chunks(fields.port_width) {
                    bus.pio_write(port, access);
                }
                (Reason::PioOut, port.into())
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                bus.mmio_read(address, data);
                (Reason::MmioRead, address)
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                bus.mmio_write(address, data);
                (Reason::MmioWrite, address)
            }
            Ok(VcpuExit::Shutdown) => {
                exits.count(Reason::Shutdown, 0);
                return LoopEnd::Shutdown;
            }
            Ok(VcpuExit::InternalError) => {
                let (suberror, data) = fields.internal_error;
                return LoopEnd::Broken(broken::internal_error(suberror, &data));
            }
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                return LoopEnd::Broken(broken::fail_entry(reason, cpu));
            }
            // The instruction is done, or is done when the vCPU runs again. The exit itself slows
            // the guest down (api.rst, 7.22 KVM_CAP_X86_BUS_LOCK_EXIT).
            Ok(VcpuExit::Unsupported(KVM_EXIT_X86_BUS_LOCK)) => (Reason::BusLock, 0),
            Ok(VcpuExit::Unsupported(KVM_EXIT_NOTIFY)) => {
                // The guest has kept the processor from events for too long. It may go on, unless
                // the processor has lost its context (api.rst, 5 KVM_EXIT_NOTIFY).
                if fields.notify_flags & KVM_NOTIFY_CONTEXT_INVALID != 0 {
                    return LoopEnd::Broken(
                        "the processor lost the state of a vCPU that let no interrupt in".into(),
                    );
                }
                (Reason::Notify, 0)
            }
            Ok(VcpuExit::Hlt) => (Reason::Halt, 0),
            Ok(VcpuExit::Intr) => (Reason::Interrupted, 0),
            Ok(VcpuExit::IrqWindowOpen) => (Reason::Other, 0),
            // The page may belong to a device that has gone. Kernels before 6.8 do not tell the
            // address.
            Ok(VcpuExit::MemoryFault { gpa, .. }) if shared.memory_faults.handle(Some(gpa)) => {
                (Reason::MemoryFault, gpa)
            }
            Err(e) if e.errno() == libc::EFAULT && shared.memory_faults.handle(None) => {
                (Reason::MemoryFault, 0)
            }
            Ok(exit) => return LoopEnd::Broken(why(&exit, &fields)),
            // The signal that stops vCPUs, or another signal to this process.
            Err(e) if e.errno() == libc::EINTR || e.errno() == libc::EAGAIN => {
                (Reason::Interrupted, 0)
            }
            Err(e) => return LoopEnd::Refused(e.errno()),
        };
        shared.coalesced.finish_exit();
        exits.count(reason, address);
        let lose = |host| machine_check::lose_page(runner.vcpu(), &shared.ram, host);
        if let Some(why) = lost.and_then(lose) {
            return LoopEnd::Broken(why);
        }
    }
    LoopEnd::Stopped
}

/// Why a vCPU cannot go on after an exit that no other arm of the loop handles.
fn why(exit: &VcpuExit<'_>, fields: &Fields) -> String {
    match exit {
        VcpuExit::MemoryFault { gpa, size, flags } => broken::memory_fault(*gpa, *size, *flags),
        VcpuExit::Unknown => broken::unknown(fields.hardware_reason),
        VcpuExit::Exception => {
            let (vector, code) = fields.exception;
            broken::exception(vector, code)
        }
        VcpuExit::Unsupported(reason) => broken::undecoded(*reason),
        exit => format!("KVM stopped the vCPU: {exit:?}"),
    }
}
