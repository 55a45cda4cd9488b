//! IDs of the standard capabilities (PCI Code and ID Assignment 1.16, 2).

/// A link without registers.
pub const NULL: u16 = 0x00;
/// Power management.
pub const PM: u16 = 0x01;
/// Accelerated graphics port.
pub const AGP: u16 = 0x02;
/// Vital product data.
pub const VPD: u16 = 0x03;
/// Slot identification, of a bridge.
pub const SLOT_ID: u16 = 0x04;
/// MSI.
pub const MSI: u16 = 0x05;
/// CompactPCI hot swap.
pub const HOT_SWAP: u16 = 0x06;
/// PCI-X.
pub const PCI_X: u16 = 0x07;
/// HyperTransport.
pub const HYPERTRANSPORT: u16 = 0x08;
/// Vendor-specific.
pub const VENDOR: u16 = 0x09;
/// Debug port of a USB controller.
pub const DEBUG_PORT: u16 = 0x0a;
/// CompactPCI central resource control.
pub const RESOURCE_CONTROL: u16 = 0x0b;
/// Standard hot-plug controller, of a bridge.
pub const HOT_PLUG: u16 = 0x0c;
/// Subsystem IDs of a bridge.
pub const BRIDGE_SUBSYSTEM: u16 = 0x0d;
/// AGP 8x.
pub const AGP_8X: u16 = 0x0e;
/// Secure device: an AMD IOMMU.
pub const SECURE_DEVICE: u16 = 0x0f;
/// PCI Express.
pub const PCIE: u16 = 0x10;
/// MSI-X.
pub const MSIX: u16 = 0x11;
/// Index and data of a SATA controller.
pub const SATA: u16 = 0x12;
/// Advanced features of conventional PCI, function-level reset among them.
pub const AF: u16 = 0x13;
/// Enhanced allocation.
pub const EA: u16 = 0x14;
/// Flattening portal bridge.
pub const FLATTENING_PORTAL: u16 = 0x15;
