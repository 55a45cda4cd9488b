//! `explain`: what a run would do with its devices, from the code that does it.
//!
//! No VM is made. A device that VFIO can open is opened as for a run (and so reset); of any other
//! sysfs says what it can, and the problem is named.

mod picture;
pub mod registers;
pub mod report;
mod source;
mod text;

use std::error::Error;
use std::fs;

use crate::config::VmConfig;
use crate::config::device::{DeviceConfig, Slot};
use crate::host::sysfs::{PciDevice, Sysfs};
use crate::layout::{self, Layout, LayoutError, Range};
use crate::observe::report::sentence;
use crate::pci::Bdf;
use crate::pci::bar::{BarError, BarKind, Bars};
use crate::pci::msix::MsixCapability;
use crate::pci::place::{self, PlaceError, Windows};
use crate::sys::memlock_limit;
use crate::vfio::{self, Opened, VfioError, bar_map, config_policy};
use report::{Area, Bar, Device, Dma, Explanation, Group, Interrupt, Member, Piece, Problem};
use source::Source;

/// Why nothing can be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The address, or a device that is not there.
    #[error(transparent)]
    Vfio(#[from] VfioError),
    /// The memory asked for.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// sysfs.
    #[error("cannot read what the kernel says about PCI device {bdf}")]
    Sysfs {
        /// The device.
        bdf: Bdf,
        /// The errno.
        source: std::io::Error,
    },
    /// BARs that make no sense.
    #[error("PCI device {bdf}: {source}")]
    Bars {
        /// The device.
        bdf: Bdf,
        /// What is wrong.
        source: BarError,
    },
    /// BARs that fit nowhere.
    #[error(transparent)]
    Place(#[from] PlaceError),
}

impl ExplainError {
    /// What to type.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Vfio(e) => e.hint(),
            Self::Layout(_) => Some("give the guest less with --memory".into()),
            _ => None,
        }
    }
}
