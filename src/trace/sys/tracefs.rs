//! tracefs where nobody has mounted it: a mount of the tracer's own that no other process sees, and
//! that goes with its descriptor (fsopen(2), fsmount(2); Linux 5.2).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use libc::{c_int, c_long};

/// FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC and FSCONFIG_CMD_CREATE of linux/mount.h.
const CLOEXEC: c_long = 1;
const CREATE: c_long = 6;

const NAME: &CStr = c"tracefs";

/// Mounts tracefs. Its files are below `/proc/self/fd/` and the number of the descriptor.
///
/// # Errors
/// The errno of the calls: ENODEV without tracefs, EPERM without the capability SYS_ADMIN.
pub fn mount() -> io::Result<OwnedFd> {
    // SAFETY: the name is a string that ends with a NUL byte.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, NAME.as_ptr(), CLOEXEC) })?;
    let none: *const u8 = ptr::null();
    let fd = context.as_raw_fd();
    // SAFETY: this command takes no key and no value.
    let created = unsafe { libc::syscall(libc::SYS_fsconfig, fd, CREATE, none, none, 0) };
    if created != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fsmount(2) takes numbers.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, fd, CLOEXEC, 0) })
}

fn owned(fd: c_long) -> io::Result<OwnedFd> {
    let fd = c_int::try_from(fd).ok().filter(|fd| *fd >= 0);
    let fd = fd.ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the descriptor is new and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
