//! The standard capabilities (PCI Code and ID Assignment 1.16, 2), all of them.

use pci::capability::id;
use pci::passed::Bits;

use crate::vfio::function::policy::express;
use crate::vfio::function::policy::rule::Treatment::{Emulate, Hide, Pass};
use crate::vfio::function::policy::rule::{
    CapabilityRule, PASS, READ_ONLY, Register, bits, capability, hidden, register,
};

const PM: &[Register] = &[
    register(
        2,
        2,
        "capabilities",
        READ_ONLY,
        "what the device can; VFIO shows no PME",
    ),
    register(
        4,
        2,
        "control and status",
        // PowerState, and Data_Select. PME_Status is cleared by a one.
        Pass(Bits {
            guest: 0x1e03,
            cleared: 0x8000,
            concealed: 0x8100,
        }),
        "the power state is the guest's: the kernel does the transition, and decoding is followed \
         here; a wake-up (PME) is the host's to serve",
    ),
    register(
        6,
        2,
        "extensions and data",
        READ_ONLY,
        "measured by the device",
    ),
];

const VPD: &[Register] = &[
    register(
        2,
        2,
        "address",
        // The flag is bit 15: a one starts a write to the device's memory (PCI 3.0, appendix I).
        Pass(Bits {
            guest: 0x7fff,
            cleared: 0x8000,
            concealed: 0,
        }),
        "reads are the guest's; a write stays in the device's flash memory after the guest",
    ),
    register(4, 4, "data", READ_ONLY, "only a write takes data from here"),
];

const PCI_X: &[Register] = &[register(
    2,
    2,
    "command",
    // Relaxed ordering, read byte count, split transactions.
    bits(0x007e),
    "how the function makes requests is the guest's; recovery from parity errors is the host's",
)];

const AF: &[Register] = &[
    register(
        2,
        2,
        "length and capabilities",
        READ_ONLY,
        "what the device can",
    ),
    register(
        4,
        1,
        "control",
        bits(0x01),
        "a function-level reset is the guest's; VFIO carries it out",
    ),
    register(5, 1, "status", READ_ONLY, "whether requests are pending"),
];

/// The standard capabilities in the order of their IDs. [`UNKNOWN`] is for an ID that is not here.
pub const STANDARD: &[CapabilityRule] = &[
    capability(id::NULL, "null", &[], READ_ONLY, "no registers"),
    capability(id::PM, "power management", PM, READ_ONLY, "reserved"),
    hidden(id::AGP, "AGP", "needs an AGP bridge, which the guest lacks"),
    capability(id::VPD, "vital product data", VPD, READ_ONLY, "reserved"),
    hidden(
        id::SLOT_ID,
        "slot identification",
        "describes the host's slots",
    ),
    capability(
        id::MSI,
        "MSI",
        &[],
        Emulate,
        "VFIO_DEVICE_SET_IRQS sets the messages up",
    ),
    hidden(
        id::HOT_SWAP,
        "CompactPCI hot swap",
        "the slot and its light are the host's",
    ),
    capability(
        id::PCI_X,
        "PCI-X",
        PCI_X,
        READ_ONLY,
        "errors of the bus are the host's to clear",
    ),
    hidden(
        id::HYPERTRANSPORT,
        "HyperTransport",
        "the link, its errors and its addresses belong to the host",
    ),
    capability(
        id::VENDOR,
        "vendor-specific",
        &[],
        PASS,
        "drivers use it as they use BARs, and VFIO passes it",
    ),
    hidden(
        id::DEBUG_PORT,
        "debug port",
        "the host's kernel may have its console there",
    ),
    hidden(
        id::RESOURCE_CONTROL,
        "CompactPCI resource control",
        "the bus belongs to the host",
    ),
    hidden(id::HOT_PLUG, "hot-plug controller", "only bridges have it"),
    hidden(
        id::BRIDGE_SUBSYSTEM,
        "subsystem IDs of a bridge",
        "only bridges have it",
    ),
    hidden(
        id::AGP_8X,
        "AGP 8x",
        "needs an AGP bridge, which the guest lacks",
    ),
    hidden(
        id::SECURE_DEVICE,
        "secure device",
        "the registers of the host's IOMMU",
    ),
    capability(
        id::PCIE,
        "PCI Express",
        express::REGISTERS,
        READ_ONLY,
        "slots and root ports belong to the host",
    ),
    capability(
        id::MSIX,
        "MSI-X",
        &[
            register(2, 2, "message control", Emulate, MSIX_REASON),
            register(4, 4, "table", Emulate, MSIX_REASON),
            register(8, 4, "pending bits", Emulate, MSIX_REASON),
        ],
        Emulate,
        MSIX_REASON,
    ),
    capability(
        id::SATA,
        "SATA",
        &[],
        READ_ONLY,
        "the index would reach registers beside their BAR; VFIO takes no write either",
    ),
    capability(id::AF, "advanced features", AF, READ_ONLY, "reserved"),
    hidden(
        id::EA,
        "enhanced allocation",
        "has the host's addresses of the BARs",
    ),
    hidden(
        id::FLATTENING_PORTAL,
        "flattening portal bridge",
        "only bridges have it",
    ),
];

const MSIX_REASON: &str = "VFIO_DEVICE_SET_IRQS sets the vectors up; the table is virtual";

/// The capability that mini-vmm adds, and no device has.
pub const CLIQUE: CapabilityRule = capability(
    id::VENDOR,
    "GPUDirect clique",
    &[],
    Emulate,
    "mini-vmm adds it, as `clique=` says",
);

/// A capability that no row is for. VFIO unlinks it, but passes its bytes.
pub const UNKNOWN: CapabilityRule = capability(
    0xff,
    "unknown capability",
    &[],
    Hide,
    "nobody knows whose registers these are",
);
