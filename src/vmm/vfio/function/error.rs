//! Why a device cannot become a function of the guest.

use pci::bar::BarError;
use pci::clique::CliqueError;

use crate::hostinfo::iomem;
use crate::hostinfo::sysfs::Sysfs;
use crate::vfio::device::DeviceError;

/// The reason why a device cannot become a function of the guest.
#[derive(Debug, thiserror::Error)]
pub enum FunctionError {
    /// The device does not answer.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The device's BAR registers contradict the sizes of its regions, or each other.
    #[error("{device}: {source}")]
    Bars {
        /// The device's address.
        device: String,
        /// What is wrong.
        source: BarError,
    },
    /// The device gets no clique.
    #[error("{device}: {source}")]
    Clique {
        /// The device's address.
        device: String,
        /// Why not.
        source: CliqueError,
    },
    /// The device has no power or has lost its link.
    #[error("{0} does not answer: its registers read as all ones")]
    Dead(String),
    /// VFIO cannot have one of the device's BARs.
    #[error("{device}: BAR {bar} is held by {}, so a guest cannot use the BAR", held_by(.holders))]
    Held {
        /// The device's address.
        device: String,
        /// The BAR.
        bar: usize,
        /// The names in /proc/iomem; empty if the names cannot be read.
        holders: Vec<String>,
    },
}

fn held_by(holders: &[String]) -> String {
    match holders {
        [] => "another user on this host".into(),
        names => names.join(" and "),
    }
}

impl FunctionError {
    /// The remedy, most often a command to type.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Device(e) => e.hint(),
            Self::Bars { .. } => None,
            Self::Dead(device) => Some(format!(
                "as root: echo 1 > /sys/bus/pci/devices/{device}/remove; \
                 echo 1 > /sys/bus/pci/rescan; if the device fails when it wakes, boot the host \
                 with vfio-pci.disable_idle_d3=1; if it stays away, look at its power and slot, \
                 and at `dmesg | grep {device}`"
            )),
            Self::Held { holders, .. } => Some(iomem::remedy(&Sysfs::default(), holders)),
            Self::Clique { device, .. } => Some(format!("remove `clique=` for --vfio {device}")),
        }
    }
}
