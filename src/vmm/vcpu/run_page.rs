//! The page that KVM shares with the thread that runs a vCPU (`struct kvm_run`; api.rst, 5).

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;

/// A view of the page that can be read while the vCPU is borrowed for the data of an exit.
pub struct RunPage(*const kvm_run);

impl RunPage {
    /// The page of `vcpu`. The vCPU must outlive the view.
    pub fn of(vcpu: &mut VcpuFd) -> Self {
        Self(vcpu.get_kvm_run())
    }

    /// The suberror and the data of an internal error.
    pub fn internal_error(&self) -> (u32, Vec<u64>) {
        // SAFETY: as in `port_width`.
        let internal = unsafe { (*self.0).__bindgen_anon_1.internal };
        let data = internal.data.iter().copied();
        (
            internal.suberror,
            data.take(internal.ndata as usize).collect(),
        )
    }

    /// The processor's own reason of an exit that KVM does not know.
    pub fn hardware_reason(&self) -> u64 {
        // SAFETY: as in `port_width`.
        unsafe { (*self.0).__bindgen_anon_1.hw.hardware_exit_reason }
    }

    /// The vector and the error code of an exception.
    pub fn exception(&self) -> (u32, u32) {
        // SAFETY: as in `port_width`.
        let exception = unsafe { (*self.0).__bindgen_anon_1.ex };
        (exception.exception, exception.error_code)
    }

    /// The width in bytes of one access, after an exit for port I/O. The exit of a string
    /// instruction carries several accesses to the same port.
    pub fn port_width(&self) -> usize {
        // SAFETY: the page is mapped as long as the vCPU; KVM writes it only inside KVM_RUN, which
        // this thread is not in; the field is plain data, whatever the exit was.
        let size = unsafe { (*self.0).__bindgen_anon_1.io.size };
        usize::from(size).max(1)
    }
}
