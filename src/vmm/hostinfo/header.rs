//! The type of a PCI device's configuration header, which says whether the device is a bridge. The
//! class code does not: NVSwitches and non-transparent bridges have the base class of bridges, and
//! a header of type 0.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The layout of a device's configuration header (PCI Local Bus 3.0, 6.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Header {
    /// Type 0: an endpoint of any class. vfio-pci binds only these (drivers/vfio/pci/
    /// vfio_pci_core.c, vfio_pci_core_register_device).
    #[default]
    Endpoint,
    /// Another type: a bridge to a PCI or CardBus bus.
    Bridge,
}

/// Reads a device's header type. A register of all ones comes from a device that does not answer;
/// the kernel gives the bus numbers of a bridge all the same.
pub(super) fn header(device: &Path) -> Header {
    let byte = first_bytes(device).map(|bytes| bytes[HEADER_TYPE] & !MULTI_FUNCTION);
    match byte {
        Some(0) => Header::Endpoint,
        Some(1 | 2) => Header::Bridge,
        _ if device.join("secondary_bus_number").exists() => Header::Bridge,
        _ => Header::Endpoint,
    }
}

/// The register of the header's type, and its bit for a device of several functions (PCI Local Bus
/// 3.0, 6.2.1).
const HEADER_TYPE: usize = 0x0e;
const MULTI_FUNCTION: u8 = 0x80;

/// The part of the configuration space that every user may read.
fn first_bytes(device: &Path) -> Option<[u8; 64]> {
    let mut bytes = [0; 64];
    let mut config = File::open(device.join("config")).ok()?;
    config.read_exact(&mut bytes).ok()?;
    Some(bytes)
}
