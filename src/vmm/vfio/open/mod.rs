//! Devices of the host, opened through VFIO.
//!
//! | file | what |
//! | --- | --- |
//! | [`candidate`] | finds the devices that the user named, and checks them without opening |
//! | `interface` | chooses between the kernel's two interfaces to the IOMMU |
//! | `container` | opens by groups and a container: the order, its reason and its reverse |
//! | `iommufd` | opens by device nodes and an iommufd: the order, its reason and its reverse |
//! | `address_space` | an iommufd with the address space of all devices |
//! | `kvm` | KVM's VFIO device, through which KVM learns of groups and devices |
//! | `assign` | which group joins which container |
//! | `no_container` | why VFIO gives no container |
//! | `leftover` | waits for the guardian of a run that was killed |
//! | `parallel` | opens devices in parallel |
//! | `nodes` | the names of device nodes |
//! | [`peers`] | whose BARs the other devices cannot reach |
//! | `open_groups` | the files of the open groups, for hot resets |
//! | `opened` | the open devices and their IOMMU |
//! | `error` | why a device cannot be opened, and the command that helps |

mod address_space;
mod assign;
pub mod candidate;
#[cfg(test)]
mod closing_watch;
mod container;
mod error;
mod interface;
mod iommufd;
mod kvm;
mod leftover;
mod no_container;
mod nodes;
mod open_groups;
mod opened;
mod parallel;
pub mod peers;

pub use candidate::find;
pub use error::{StepError, TURN_ON, VfioError};
pub use opened::Opened;

use candidate::Candidate;
use interface::Interface;
use kvm::KvmVfio;
use kvm_ioctls::VmFd;
use std::sync::Arc;

use crate::config::Iommu;
use crate::vfio::opener::Opener;

/// Opens the devices. Without a `vm` they can be read, but not passed to a guest. The `opener`
/// makes the calls that may sleep.
///
/// # Errors
/// The first device that cannot be opened. All devices are closed again.
pub fn open(
    vm: Option<&VmFd>,
    candidates: &[Candidate],
    iommu: Iommu,
    opener: &Arc<Opener>,
) -> Result<Option<Opened>, VfioError> {
    if candidates.is_empty() {
        return Ok(None);
    }
    let open = || open_once(vm, candidates, iommu, opener);
    leftover::wait_out(opener.limit(), open).map(Some)
}

fn open_once(
    vm: Option<&VmFd>,
    candidates: &[Candidate],
    iommu: Iommu,
    opener: &Arc<Opener>,
) -> Result<Opened, VfioError> {
    let kvm = KvmVfio::new(vm)?;
    let interface = interface::choose(candidates, iommu, opener);
    if let Some(waiting) = opener.given_up().into_iter().next() {
        return Err(VfioError::Waits(waiting));
    }
    match interface {
        Interface::Container => container::open(kvm, candidates, opener),
        Interface::Iommufd => iommufd::open(kvm, candidates, iommu, opener),
    }
}
