//! The reasons why explain fails.

use std::io;

use pci::bar::BarError;
use pci::bar_assignment::AssignError;
use pci::clique::CliqueError;
use vmm::config::window;
use vmm::hostinfo::name::HostName;
use vmm::layout::LayoutError;
use vmm::vfio::function::rom::RomError;
use vmm::vfio::open::VfioError;

/// The reason why explain fails.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The address is invalid, or the host has no such device.
    #[error(transparent)]
    Vfio(#[from] VfioError),
    /// The ROM file cannot be used.
    #[error(transparent)]
    Rom(#[from] RomError),
    /// The memory does not fit the address space.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// sysfs cannot be read.
    #[error("cannot read facts about {} from sysfs", .name.in_words())]
    Sysfs {
        /// The device.
        name: HostName,
        /// The errno.
        source: io::Error,
    },
    /// The BARs contradict the specification.
    #[error("{}: {source}", .name.in_words())]
    Bars {
        /// The device.
        name: HostName,
        /// What is wrong.
        source: BarError,
    },
    /// The device gets no clique.
    #[error("{}: {source}", .name.in_words())]
    Clique {
        /// The device.
        name: HostName,
        /// Why not.
        source: CliqueError,
    },
    /// The BARs do not fit the address space.
    #[error(transparent)]
    Assign(#[from] AssignError),
    /// Only the file of a mediated device shows its registers, and explain must not use the file.
    #[error(
        "a device by an open file is explained by sysfs, which shows no registers of a mediated \
         device: to read them, explain would have to bind the file, which can be bound once"
    )]
    Given,
}

impl ExplainError {
    /// The remedy, most often a command to type.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Vfio(e) => e.hint(),
            Self::Rom(e) => Some(e.hint()),
            Self::Clique { name, .. } => Some(format!("remove `clique=` for --vfio {name}")),
            Self::Given => Some("name the devices by their addresses and UUIDs".into()),
            Self::Layout(_) => Some("give the guest less with --memory".into()),
            Self::Assign(e) => Some(window::remedy(e).into()),
            _ => None,
        }
    }
}
