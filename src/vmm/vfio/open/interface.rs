//! Which of the kernel's two interfaces to the IOMMU opens the devices.

use std::fs::OpenOptions;
use std::path::Path;

use tracing::info;

use crate::config::Iommu;
use crate::vfio::open::candidate::Candidate;
use crate::vfio::open::error::VfioError;
use crate::vfio::open::nodes;

/// The kernel's interface to the IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interface {
    /// Groups and containers, which every kernel has.
    Container,
    /// iommufd, with a node for each device (since Linux 6.6, where it is built).
    Iommufd,
}

/// Chooses the interface for all of the devices: the user's choice, or else iommufd if every device
/// can be opened by it.
///
/// # Errors
/// When iommufd is asked for and a device has a VF token.
pub(super) fn choose(candidates: &[Candidate], iommu: Iommu) -> Result<Interface, VfioError> {
    match iommu {
        Iommu::Container => Ok(Interface::Container),
        Iommu::Iommufd => match candidates.iter().find(|c| c.token.is_some()) {
            None => Ok(Interface::Iommufd),
            Some(candidate) => Err(VfioError::TokenByIommufd(candidate.name)),
        },
        Iommu::Auto => Ok(match why_no_iommufd(candidates) {
            None => Interface::Iommufd,
            Some(why) => {
                info!("by group and container: {why}");
                Interface::Container
            }
        }),
    }
}

/// The reason why these devices cannot be opened by iommufd, if there is one.
fn why_no_iommufd(candidates: &[Candidate]) -> Option<String> {
    if let Some(candidate) = candidates.iter().find(|c| c.token.is_some()) {
        return Some(format!("{} is opened with a VF token", candidate.name));
    }
    let usable = |node: &str| OpenOptions::new().read(true).write(true).open(node);
    if let Err(e) = usable(nodes::IOMMUFD) {
        return Some(format!("{}: {e}", nodes::IOMMUFD));
    }
    candidates
        .iter()
        .find_map(|candidate| match candidate.cdev() {
            None => Some(format!("{} has no device node of its own", candidate.name)),
            // Only its existence is checked: `iommufd` opens the node.
            Some(node) if !Path::new(&node).exists() => Some(format!("{node} is not there")),
            Some(_) => None,
        })
}
