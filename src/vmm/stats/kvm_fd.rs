//! KVM_GET_STATS_FD, which kvm-ioctls does not wrap (api.rst, 4.133).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

use kvm_bindings::KVMIO;
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);

/// The file with the counters of a VM or a vCPU.
///
/// # Errors
/// The errno: ENOTTY or EINVAL before Linux 5.14.
pub fn open(of: &impl AsRawFd) -> io::Result<File> {
    // SAFETY: the ioctl takes no argument; the descriptor is open for the call.
    let fd = unsafe { ioctl(of, KVM_GET_STATS_FD()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has opened the descriptor, and nothing else owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}
