//! The type of a PCI device's configuration header, which says whether the device is a bridge. The
//! class code does not: NVSwitches and non-transparent bridges have the base class of bridges, and
//! a header of type 0.
//!
//! The kernel has read the register when it found the device, and gives the bus numbers of a bridge
//! only (drivers/pci/pci-sysfs.c, `pci_bridge_attrs_are_visible`; since Linux 4.13). The register
//! itself is not read: a read of `config` wakes the device, and waits without an end while the
//! device is being reset.

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

/// A device's header type, by the device's directory in sysfs.
pub(super) fn header(device: &Path) -> Header {
    match device.join("secondary_bus_number").exists() {
        true => Header::Bridge,
        false => Header::Endpoint,
    }
}
