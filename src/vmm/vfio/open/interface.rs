//! Which of the kernel's two interfaces to the IOMMU opens the devices.

use std::path::Path;

use tracing::info;

use crate::config::Iommu;
use crate::vfio::open::candidate::Candidate;
use crate::vfio::open::nodes;
use crate::vfio::opener::Opener;

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
pub(super) fn choose(candidates: &[Candidate], iommu: Iommu, opener: &Opener) -> Interface {
    match iommu {
        Iommu::Container => Interface::Container,
        Iommu::Iommufd | Iommu::Given(_) => Interface::Iommufd,
        // A device's own file is for iommufd alone.
        Iommu::Auto if candidates.iter().any(|c| c.given.is_some()) => Interface::Iommufd,
        Iommu::Auto => match why_no_iommufd(candidates, opener) {
            None => Interface::Iommufd,
            Some(why) => {
                info!("by group and container: {why}");
                Interface::Container
            }
        },
    }
}

/// The reason why these devices cannot be opened by iommufd, if there is one.
fn why_no_iommufd(candidates: &[Candidate], opener: &Opener) -> Option<String> {
    if let Err(e) = nodes::open(opener, nodes::IOMMUFD, nodes::IOMMUFD) {
        return Some(format!("{}: {e}", nodes::IOMMUFD));
    }
    candidates
        .iter()
        .find_map(|candidate| match candidate.cdev() {
            None => Some(format!("{} has no device node of its own", candidate.name)),
            // Without a token only the existence is checked: `iommufd` opens the node.
            Some(node) if !Path::new(&node).exists() => Some(format!("{node} is not there")),
            Some(node) => {
                let name = candidate.name.to_string();
                (candidate.token.is_some() && !may_take_token(&name, &node, opener))
                    .then(|| format!("iommufd does not take the VF token of {name}"))
            }
        })
}

/// Whether a device takes a VF token by its own node. If it cannot be asked, opening it will tell
/// why.
fn may_take_token(device: &str, node: &str, opener: &Opener) -> bool {
    opener
        .open(device, node)
        .and_then(|file| opener.takes_token(device, &file))
        .unwrap_or(true)
}
