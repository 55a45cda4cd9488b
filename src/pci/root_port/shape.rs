//! What is fixed about a root port.

use crate::host_path::HostPath;

/// What is fixed about a root port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortShape {
    /// The number of the port, and of its slot. Each port of a guest has another.
    pub number: u8,
    /// The interrupt pin, 0 for INTA.
    pub pin: u8,
    /// Whether devices can be plugged into the port's slot.
    pub hot_plug: bool,
    /// The way to the device's root complex on the host.
    pub path: HostPath,
}
