//! The extended capabilities (PCI Code and ID Assignment 1.16, 3), all of them.

use pci::capability::ext_id;

use crate::vfio::function::policy::rule::Treatment::Hide;
use crate::vfio::function::policy::rule::{
    CapabilityRule, PASS, READ_ONLY, Register, capability, hidden, register,
};

const ERRORS: &str = "error reports belong to the host";
const AER: &[Register] = &[
    register(0x04, 4, "uncorrectable status", READ_ONLY, ERRORS),
    register(0x08, 4, "uncorrectable mask", READ_ONLY, ERRORS),
    register(0x0c, 4, "uncorrectable severity", READ_ONLY, ERRORS),
    register(0x10, 4, "correctable status", READ_ONLY, ERRORS),
    register(0x14, 4, "correctable mask", READ_ONLY, ERRORS),
    register(0x18, 4, "capabilities and control", READ_ONLY, ERRORS),
];

const POWER_BUDGET: &[Register] = &[register(
    4,
    1,
    "data select",
    PASS,
    "the guest chooses what it reads",
)];

const LINK: &str = "the link belongs to the host's port";
const TRAFFIC: &str = "traffic classes are agreed with the host's port";
const PORTS: &str = "needs root ports that take part, and those are the host's";
const RESIZE: &str = "a BAR that changes its size under VFIO's maps";

/// The extended capabilities in the order of their IDs. [`UNKNOWN`] is for an ID that is not here.
pub const EXTENDED: &[CapabilityRule] = &[
    capability(ext_id::NULL, "null", &[], READ_ONLY, "no registers"),
    capability(
        ext_id::AER,
        "advanced error reporting",
        AER,
        READ_ONLY,
        ERRORS,
    ),
    capability(ext_id::VC, "virtual channel", &[], READ_ONLY, TRAFFIC),
    capability(
        ext_id::DSN,
        "serial number",
        &[],
        READ_ONLY,
        "the device's own",
    ),
    capability(
        ext_id::POWER_BUDGET,
        "power budgeting",
        POWER_BUDGET,
        READ_ONLY,
        "what the device needs",
    ),
    hidden(
        ext_id::RC_LINK,
        "root complex link",
        "has the host's addresses of its root complex",
    ),
    hidden(ext_id::RC_INTERNAL_LINK, "root complex internal link", LINK),
    hidden(
        ext_id::RC_EVENT_COLLECTOR,
        "root complex event collector",
        "names the host's endpoints",
    ),
    capability(
        ext_id::MFVC,
        "multi-function virtual channel",
        &[],
        READ_ONLY,
        TRAFFIC,
    ),
    capability(ext_id::VC9, "virtual channel", &[], READ_ONLY, TRAFFIC),
    hidden(
        ext_id::RCRB,
        "root complex register block",
        "belongs to the host's root complex",
    ),
    capability(
        ext_id::VENDOR,
        "vendor-specific",
        &[],
        PASS,
        "drivers use it as they use BARs, and VFIO passes it",
    ),
    hidden(ext_id::CAC, "configuration access correlation", "obsolete"),
    capability(
        ext_id::ACS,
        "access control",
        &[],
        READ_ONLY,
        "says which of the host's functions reach each other; only an IOMMU in the guest would ask",
    ),
    hidden(
        ext_id::ARI,
        "alternative routing ID",
        "function numbers follow the guest's bus, where none is above 7",
    ),
    hidden(
        ext_id::ATS,
        "address translation",
        "address translation needs an IOMMU in the guest",
    ),
    hidden(
        ext_id::SRIOV,
        "SR-IOV",
        "virtual functions belong to the host",
    ),
    hidden(ext_id::MRIOV, "MR-IOV", "other roots belong to the host"),
    hidden(
        ext_id::MULTICAST,
        "multicast",
        "has addresses that the host's ports agree on",
    ),
    hidden(
        ext_id::PRI,
        "page requests",
        "page requests need an IOMMU in the guest",
    ),
    hidden(ext_id::AMD, "reserved for AMD", "no specification"),
    hidden(ext_id::REBAR, "resizable BARs", RESIZE),
    capability(
        ext_id::DPA,
        "dynamic power allocation",
        &[],
        READ_ONLY,
        "the host divides its power",
    ),
    hidden(
        ext_id::TPH,
        "TLP processing hints",
        "steering tags name the host's processors",
    ),
    hidden(ext_id::LTR, "latency tolerance", PORTS),
    hidden(ext_id::SECONDARY, "secondary PCI Express", LINK),
    hidden(ext_id::PMUX, "protocol multiplexing", LINK),
    hidden(
        ext_id::PASID,
        "process address spaces",
        "process address spaces need an IOMMU in the guest",
    ),
    hidden(ext_id::LNR, "LN requester", PORTS),
    hidden(
        ext_id::DPC,
        "downstream port containment",
        "containment belongs to the host's port",
    ),
    hidden(
        ext_id::L1SS,
        "L1 substates",
        "link states belong to the host's port",
    ),
    hidden(ext_id::PTM, "precision time", PORTS),
    hidden(ext_id::M_PCIE, "PCI Express over M-PHY", LINK),
    hidden(ext_id::FRS, "FRS queueing", PORTS),
    capability(
        ext_id::READINESS_TIME,
        "readiness time",
        &[],
        READ_ONLY,
        "what the device needs",
    ),
    capability(
        ext_id::DVSEC,
        "designated vendor-specific",
        &[],
        READ_ONLY,
        "describes the device; what is written there is a matter of the vendor's host software",
    ),
    hidden(ext_id::VF_REBAR, "resizable BARs of VFs", RESIZE),
    hidden(ext_id::DATA_LINK, "data link feature", LINK),
    hidden(ext_id::PHYSICAL_16, "physical layer 16 GT/s", LINK),
    hidden(ext_id::LANE_MARGIN, "lane margining", LINK),
    hidden(
        ext_id::HIERARCHY_ID,
        "hierarchy ID",
        "identifies the host's hierarchy",
    ),
    hidden(
        ext_id::NPEM,
        "enclosure management",
        "the lights of the host's enclosure",
    ),
    hidden(ext_id::PHYSICAL_32, "physical layer 32 GT/s", LINK),
    hidden(ext_id::ALTERNATE_PROTOCOL, "alternate protocol", LINK),
    hidden(
        ext_id::SFI,
        "system firmware intermediary",
        "only ports have it",
    ),
    hidden(
        ext_id::SHADOW_FUNCTIONS,
        "shadow functions",
        "function numbers follow the guest's bus",
    ),
    hidden(
        ext_id::DOE,
        "data object exchange",
        "a mailbox of the host's firmware, with which the host attests and encrypts",
    ),
    hidden(
        ext_id::DEVICE_3,
        "device 3",
        "tags and flits are agreed with the host's ports",
    ),
    hidden(
        ext_id::IDE,
        "integrity and encryption",
        "keys and streams belong to the host's port",
    ),
    hidden(ext_id::PHYSICAL_64, "physical layer 64 GT/s", LINK),
    hidden(ext_id::FLIT_LOG, "flit logging", ERRORS),
    hidden(ext_id::FLIT_PERFORMANCE, "flit performance", LINK),
    hidden(ext_id::FLIT_ERROR, "flit error injection", ERRORS),
    hidden(
        ext_id::STREAMLINED_VC,
        "streamlined virtual channel",
        TRAFFIC,
    ),
    hidden(
        ext_id::REGISTER_LOCATOR,
        "register block locator",
        "may lead to registers of the host's",
    ),
];

/// A capability that no row is for. VFIO unlinks it, but passes its bytes.
pub const UNKNOWN: CapabilityRule = capability(
    0xffff,
    "unknown capability",
    &[],
    Hide,
    "nobody knows whose registers these are",
);

/// The vendor of a DVSEC that describes CXL (CXL 3.1, 8.1.1).
pub(super) const CXL_VENDOR: u16 = 0x1e98;

/// A DVSEC of CXL.
pub const CXL: CapabilityRule = hidden(
    ext_id::DVSEC,
    "CXL",
    "has the host's addresses of the device's memory",
);
