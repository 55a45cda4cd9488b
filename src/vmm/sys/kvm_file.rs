//! KVM by an open file.

use std::fs::File;
use std::os::fd::{FromRawFd, IntoRawFd};

use kvm_ioctls::Kvm;

/// Makes KVM's calls through a file, which the result owns. A file that is not /dev/kvm answers
/// each call with an errno.
pub fn kvm(file: File) -> Kvm {
    // SAFETY: the descriptor is open, and its owner has given it up.
    unsafe { Kvm::from_raw_fd(file.into_raw_fd()) }
}
