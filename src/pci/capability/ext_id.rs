//! IDs of the extended capabilities (PCI Code and ID Assignment 1.16, 3).

/// A link without registers.
pub const NULL: u16 = 0x00;
/// Advanced error reporting.
pub const AER: u16 = 0x01;
/// Virtual channel.
pub const VC: u16 = 0x02;
/// Device serial number.
pub const DSN: u16 = 0x03;
/// Power budgeting.
pub const POWER_BUDGET: u16 = 0x04;
/// Root complex link declaration.
pub const RC_LINK: u16 = 0x05;
/// Root complex internal link control.
pub const RC_INTERNAL_LINK: u16 = 0x06;
/// Root complex event collector's association with endpoints.
pub const RC_EVENT_COLLECTOR: u16 = 0x07;
/// Multi-function virtual channel.
pub const MFVC: u16 = 0x08;
/// Virtual channel of a function that has MFVC as well.
pub const VC9: u16 = 0x09;
/// Header of a root complex register block.
pub const RCRB: u16 = 0x0a;
/// Vendor-specific.
pub const VENDOR: u16 = 0x0b;
/// Configuration access correlation, obsolete.
pub const CAC: u16 = 0x0c;
/// Access control services.
pub const ACS: u16 = 0x0d;
/// Alternative routing-ID interpretation.
pub const ARI: u16 = 0x0e;
/// Address translation services.
pub const ATS: u16 = 0x0f;
/// Single-root I/O virtualisation.
pub const SRIOV: u16 = 0x10;
/// Multi-root I/O virtualisation.
pub const MRIOV: u16 = 0x11;
/// Multicast.
pub const MULTICAST: u16 = 0x12;
/// Page requests.
pub const PRI: u16 = 0x13;
/// Reserved for AMD.
pub const AMD: u16 = 0x14;
/// Resizable BAR.
pub const REBAR: u16 = 0x15;
/// Dynamic power allocation.
pub const DPA: u16 = 0x16;
/// TLP processing hints.
pub const TPH: u16 = 0x17;
/// Latency tolerance reporting.
pub const LTR: u16 = 0x18;
/// Secondary PCI Express: equalization at 8.0 GT/s.
pub const SECONDARY: u16 = 0x19;
/// Protocol multiplexing.
pub const PMUX: u16 = 0x1a;
/// Process address space IDs.
pub const PASID: u16 = 0x1b;
/// LN requester.
pub const LNR: u16 = 0x1c;
/// Downstream port containment.
pub const DPC: u16 = 0x1d;
/// L1 power management substates.
pub const L1SS: u16 = 0x1e;
/// Precision time measurement.
pub const PTM: u16 = 0x1f;
/// PCI Express over M-PHY.
pub const M_PCIE: u16 = 0x20;
/// FRS queueing.
pub const FRS: u16 = 0x21;
/// Readiness time reporting.
pub const READINESS_TIME: u16 = 0x22;
/// Designated vendor-specific.
pub const DVSEC: u16 = 0x23;
/// Resizable BARs of virtual functions.
pub const VF_REBAR: u16 = 0x24;
/// Data link feature.
pub const DATA_LINK: u16 = 0x25;
/// Physical layer 16.0 GT/s.
pub const PHYSICAL_16: u16 = 0x26;
/// Margining at the receiver.
pub const LANE_MARGIN: u16 = 0x27;
/// Hierarchy ID.
pub const HIERARCHY_ID: u16 = 0x28;
/// Native PCIe enclosure management.
pub const NPEM: u16 = 0x29;
/// Physical layer 32.0 GT/s.
pub const PHYSICAL_32: u16 = 0x2a;
/// Alternate protocol.
pub const ALTERNATE_PROTOCOL: u16 = 0x2b;
/// System firmware intermediary.
pub const SFI: u16 = 0x2c;
/// Shadow functions.
pub const SHADOW_FUNCTIONS: u16 = 0x2d;
/// Data object exchange.
pub const DOE: u16 = 0x2e;
/// Device 3: more of the PCI Express capability.
pub const DEVICE_3: u16 = 0x2f;
/// Integrity and data encryption.
pub const IDE: u16 = 0x30;
/// Physical layer 64.0 GT/s.
pub const PHYSICAL_64: u16 = 0x31;
/// Flit logging.
pub const FLIT_LOG: u16 = 0x32;
/// Flit performance measurement.
pub const FLIT_PERFORMANCE: u16 = 0x33;
/// Flit error injection.
pub const FLIT_ERROR: u16 = 0x34;
/// Streamlined virtual channel.
pub const STREAMLINED_VC: u16 = 0x35;
/// MMIO register block locator.
pub const REGISTER_LOCATOR: u16 = 0x36;
