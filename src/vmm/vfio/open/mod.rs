//! Devices of the host, opened through VFIO.
//!
//! | file | what |
//! | --- | --- |
//! | [`candidate`] | finds the devices that the user named, and checks them without opening |
//! | `interface` | chooses between the kernel's two interfaces to the IOMMU |
//! | [`DeviceSet`] | the devices of a VM, to which others can be added |
//! | `container` | opens by groups and a container: the order, its reason and its reverse |
//! | `containers` | the containers of a VM |
//! | `iommufd` | opens by device nodes and an iommufd: the order, its reason and its reverse |
//! | `known_iommufd` | the iommufd of a VM |
//! | `address_space` | an iommufd with the address space of all devices |
//! | `kvm` | KVM's VFIO device, through which KVM learns of groups and devices |
//! | `assign` | which group joins which container |
//! | `no_container` | why VFIO gives no container |
//! | `leftover` | waits for the guardian of a run that was killed |
//! | `parallel` | opens devices in parallel |
//! | `attempts` | opens a device again after another process had it |
//! | `nodes` | the names of device nodes |
//! | [`peers`] | whose BARs the other devices cannot reach |
//! | `open_groups` | the files of the open groups, for hot resets |
//! | `opened` | the open devices and their IOMMU |
//! | `error` | why a device cannot be opened, and the command that helps |

mod address_space;
mod assign;
mod attempts;
pub mod candidate;
#[cfg(test)]
mod closing_watch;
mod container;
mod containers;
mod device_set;
mod error;
mod interface;
mod iommufd;
mod known_iommufd;
mod kvm;
mod leftover;
mod no_container;
mod nodes;
mod open_groups;
mod opened;
mod parallel;
pub mod peers;

pub use candidate::find;
pub use device_set::{Begun, DeviceSet};
pub use error::{StepError, TURN_ON, VfioError};
pub use opened::Opened;

use candidate::Candidate;
use std::sync::Arc;

use crate::config::Iommu;
use crate::vfio::opener::Opener;

/// Opens the devices without a VM: they can be read, but not passed to a guest. The `opener` makes
/// the calls that may sleep.
///
/// # Errors
/// The first device that cannot be opened. All devices are closed again.
pub fn open(
    candidates: &[Candidate],
    iommu: Iommu,
    opener: &Arc<Opener>,
) -> Result<Option<Opened>, VfioError> {
    match candidates {
        [] => Ok(None),
        _ => DeviceSet::new(None, iommu, opener)
            .open(candidates)
            .map(Some),
    }
}
