//! The page that KVM shares with the thread that runs a vCPU (`struct kvm_run`; api.rst, 5).

use kvm_bindings::kvm_run;
use kvm_ioctls::{Error, VcpuExit, VcpuFd};

/// A vCPU and its page. The page is mapped as long as the vCPU's descriptor is open, so it is read
/// only by this type, which borrows the vCPU, and only its fields leave the type.
///
/// ```no_run
/// use kvm_ioctls::VcpuFd;
/// use vmm::vcpu::run_page::Runner;
///
/// fn borrowed(mut vcpu: VcpuFd) {
///     let mut runner = Runner::new(&mut vcpu);
///     let _ = runner.run();
///     drop(vcpu);
/// }
/// ```
///
/// ```compile_fail,E0505
/// use kvm_ioctls::VcpuFd;
/// use vmm::vcpu::run_page::Runner;
///
/// fn dangling(mut vcpu: VcpuFd) {
///     let mut runner = Runner::new(&mut vcpu);
///     drop(vcpu);
///     let _ = runner.run();
/// }
/// ```
pub struct Runner<'a> {
    vcpu: &'a mut VcpuFd,
    page: *const kvm_run,
}

/// The fields of the page that an exit's data lacks. A field has a meaning only after the exit that
/// it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    /// The width in bytes of one access, after an exit for port I/O. The exit of a string
    /// instruction carries several accesses to the same port.
    pub port_width: usize,
    /// The flags of a notify exit.
    pub notify_flags: u32,
    /// The processor's own reason of an exit that KVM does not know.
    pub hardware_reason: u64,
    /// The vector and the error code of an exception.
    pub exception: (u32, u32),
    /// The suberror and the data of an internal error.
    pub internal_error: (u32, Vec<u64>),
}

impl<'a> Runner<'a> {
    /// Borrows a vCPU to run it.
    pub fn new(vcpu: &'a mut VcpuFd) -> Self {
        let page: *const kvm_run = vcpu.get_kvm_run();
        Self { vcpu, page }
    }

    /// The vCPU, for calls other than KVM_RUN.
    pub fn vcpu(&self) -> &VcpuFd {
        self.vcpu
    }

    /// Runs the vCPU until its next exit.
    pub fn run(&mut self) -> (Result<VcpuExit<'_>, Error>, Fields) {
        let exit = self.vcpu.run();
        // SAFETY: the page is mapped as long as the vCPU, which this value borrows. KVM writes it
        // only inside KVM_RUN, which this thread is not in. The fields are plain data, whatever the
        // exit was, and lie outside of the data that `exit` borrows.
        let fields = unsafe {
            let page = &raw const (*self.page).__bindgen_anon_1;
            Fields {
                port_width: usize::from((*page).io.size).max(1),
                notify_flags: (*page).notify.flags,
                hardware_reason: (*page).hw.hardware_exit_reason,
                exception: ((*page).ex.exception, (*page).ex.error_code),
                internal_error: match exit {
                    Ok(VcpuExit::InternalError) => {
                        let internal = (*page).internal;
                        let data = internal.data.iter().copied();
                        let data = data.take(internal.ndata as usize).collect();
                        (internal.suberror, data)
                    }
                    _ => (0, Vec::new()),
                },
            }
        };
        (exit, fields)
    }
}
