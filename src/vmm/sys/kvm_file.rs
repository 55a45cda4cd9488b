//! KVM by an open file.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};

use kvm_ioctls::Kvm;

use crate::sys::descriptor::Descriptor;

/// Opens /dev/kvm, or takes the file that another process has opened.
///
/// # Errors
/// The errno of open(2), or the file was taken before.
pub fn open(given: Option<Descriptor>) -> io::Result<Kvm> {
    match given {
        Some(given) => given.take().map(kvm),
        None => Kvm::new().map_err(|e| io::Error::from_raw_os_error(e.errno())),
    }
}

/// Makes KVM's calls through a file, which the result owns. A file that is not /dev/kvm answers
/// each call with an errno.
pub fn kvm(file: File) -> Kvm {
    // SAFETY: the descriptor is open, and its owner has given it up.
    unsafe { Kvm::from_raw_fd(file.into_raw_fd()) }
}
