//! The PCI Express capability (PCI Express Base 6.0, 7.5.3), register by register.

use pci::capability::Capability;
use pci::config_space::ConfigSpace;
use pci::passed::Bits;

use crate::vfio::function::policy::rule::Treatment::{Emulate, Pass};
use crate::vfio::function::policy::rule::{READ_ONLY, Register, bits, register};

/// Type and version.
const FLAGS: u16 = 0x02;
/// Device/Port Type of a Root Complex Integrated Endpoint (7.5.3.2): an endpoint on a root bus.
const RC_INTEGRATED_ENDPOINT: u16 = 0x9;
/// Registers that describe a link (7.5.3.6 to 7.5.3.8, 7.5.3.18 to 7.5.3.20): offset and length. An
/// integrated endpoint has no link.
const LINK_REGISTERS: [(u16, u16); 2] = [(0x0c, 8), (0x2c, 8)];

const NO_LINK: &str = "an endpoint on a root bus is integrated, and has no link";

/// AtomicOp Requester Enable in Device Control 2 (7.5.3.16).
const ATOMIC_REQUESTER: u32 = 1 << 6;

pub(super) const REGISTERS: &[Register] = &[
    register(
        FLAGS,
        2,
        "type and version",
        Emulate,
        "an endpoint on a root bus is integrated",
    ),
    register(
        4,
        4,
        "device capabilities",
        READ_ONLY,
        "what the device can",
    ),
    register(
        8,
        2,
        "device control",
        // Relaxed ordering, no snoop, read request size, function-level reset.
        bits(0xf810),
        "ordering, snooping, the size of read requests and reset are the guest's; error reports, \
         payload size, tags, phantom functions and auxiliary power are agreed with the host's ports",
    ),
    register(
        0x0a,
        2,
        "device status",
        READ_ONLY,
        "errors are for the host to clear",
    ),
    register(0x0c, 4, "link capabilities", Emulate, NO_LINK),
    register(0x10, 2, "link control", Emulate, NO_LINK),
    register(0x12, 2, "link status", Emulate, NO_LINK),
    register(
        0x24,
        4,
        "device capabilities 2",
        READ_ONLY,
        "what the device can",
    ),
    register(
        0x28,
        2,
        "device control 2",
        // Completion timeout, ID-based ordering of requests and completions. No root port of the
        // guest's completes an AtomicOp, whatever VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP says of the
        // host's: a driver finds completers by the ports above its device.
        Pass(Bits {
            guest: 0x031f,
            cleared: 0,
            concealed: ATOMIC_REQUESTER,
        }),
        "completion timeout and ID-based ordering are the guest's; AtomicOps, LTR, OBFF, ARI, tags \
         and prefixes need a port that takes part, and emergency power is the host's",
    ),
    register(0x2a, 2, "device status 2", READ_ONLY, "reserved"),
    register(0x2c, 4, "link capabilities 2", Emulate, NO_LINK),
    register(0x30, 2, "link control 2", Emulate, NO_LINK),
    register(0x32, 2, "link status 2", Emulate, NO_LINK),
];

/// Makes the capability read as that of an endpoint that is integrated into the root complex,
/// without a link: Linux accepts no other endpoint on a root bus. Version 0 reads as 1.
pub(super) fn integrate(config: &mut ConfigSpace, cap: &Capability) {
    let flags = config.u16(cap.offset + FLAGS);
    let version = (flags & 0xf).max(1);
    config.set_u16(
        cap.offset + FLAGS,
        (flags & 0xff00) | RC_INTEGRATED_ENDPOINT << 4 | version,
    );
    // A capability of version 1 ends after the link registers; the next bytes may be another's.
    for (at, len) in LINK_REGISTERS {
        for byte in (at..at + len).filter(|byte| *byte < cap.len) {
            config.set_u8(cap.offset + byte, 0);
        }
    }
}
