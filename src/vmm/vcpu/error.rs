//! Errors of making and running a vCPU.

use std::io;

use crate::errnos;
use crate::vcpu::cpuid::CpuidError;

/// The reason why a vCPU cannot be made or run.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// An ioctl failed.
    #[error("{}", errnos::text(.name, .source))]
    Call {
        /// The ioctl.
        name: &'static str,
        /// The errno.
        source: kvm_ioctls::Error,
    },
    /// KVM does not run a vCPU.
    #[error("vCPU {id}: {}", errnos::text("KVM_RUN", .source))]
    Run {
        /// The vCPU's number.
        id: u32,
        /// The errno.
        source: io::Error,
    },
    /// More MSRs than one call can take.
    #[error("KVM has more MSRs than one call takes")]
    Msrs,
    /// A thread could not be started.
    #[error("cannot start a thread for vCPU {0}")]
    Thread(u32, #[source] io::Error),
    /// The thread that empties the ring of coalesced writes could not be started.
    #[error("cannot start a thread for coalesced writes")]
    Server(#[source] io::Error),
    /// The CPUID leaves cannot be made.
    #[error(transparent)]
    Cpuid(#[from] CpuidError),
    /// The handler of the signal that interrupts a vCPU could not be installed.
    #[error("cannot install the handler of the signal that stops vCPUs")]
    Signal(#[source] vmm_sys_util::errno::Error),
    /// A vCPU's thread has panicked.
    #[error("the thread of a vCPU died")]
    Died,
    /// This process cannot run on the host CPU.
    #[error("no vCPU can be pinned to host CPU {cpu}")]
    Pin {
        /// The host CPU's number.
        cpu: usize,
        /// The host CPUs that can be used, as a list such as `0-3,8`.
        usable: String,
        /// The errno.
        source: io::Error,
    },
}

impl VcpuError {
    /// The remedy to type, where one is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Run { source, .. } => errnos::hint("KVM_RUN", source),
            Self::Call { name, source } => errnos::hint(name, source),
            Self::Thread(..) | Self::Server(_) => Some(
                "raise the limit of threads with `ulimit -u`, or that of the control group \
                 (pids.max)"
                    .into(),
            ),
            Self::Pin { usable, .. } => Some(format!("name host CPUs of pin={usable}")),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_vcpu_takes_a_descriptor_and_a_thread() {
        let error = || io::Error::from_raw_os_error(libc::EAGAIN);
        let name = "KVM_CREATE_VCPU";
        let source = kvm_ioctls::Error::new(libc::EMFILE);
        for (error, limit) in [
            (VcpuError::Call { name, source }, "ulimit -n"),
            (VcpuError::Thread(254, error()), "ulimit -u"),
            (VcpuError::Server(error()), "ulimit -u"),
        ] {
            assert!(
                error.hint().is_some_and(|hint| hint.contains(limit)),
                "{error}"
            );
        }
    }
}
