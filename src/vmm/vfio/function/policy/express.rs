//! The PCI Express capability (PCI Express Base 6.0, 7.5.3), register by register.
//!
//! On bus 0 an endpoint reads as integrated into the root complex, because Linux accepts no other
//! there. Behind a root port it reads as it is, with the host's link.

use pci::capability::Capability;
use pci::config_space::ConfigSpace;
use pci::express;
use pci::express::{
    DEVICE_CAPABILITIES, DEVICE_CONTROL, DEVICE_CONTROL_2, FLAGS, LINK_CAPABILITIES,
    LINK_CAPABILITIES_2, LINK_CONTROL, LINK_CONTROL_2, LINK_STATUS, LINK_STATUS_2, code,
};
use pci::host_path::HostPath;
use pci::passed::Bits;

use crate::vfio::function::policy::rule::Treatment::{Emulate, Pass};
use crate::vfio::function::policy::rule::{READ_ONLY, Register, bits, register};

/// Registers that describe a link (7.5.3.6 to 7.5.3.8, 7.5.3.18 to 7.5.3.20): offset and length. An
/// integrated endpoint has no link.
const LINK_REGISTERS: [(u16, u16); 2] = [(LINK_CAPABILITIES, 8), (LINK_CAPABILITIES_2, 8)];

const NO_LINK: &str = "an endpoint on a root bus is integrated, and has no link";
const HOST_LINK: &str = "the host's link; a virtual function has its physical function's";
const LINK_CONTROLS: &str = "link states, clocks and speeds are the host's: the guest reads what \
                             it wrote, and nothing of that reaches the link";

/// AtomicOp Requester Enable in Device Control 2 (7.5.3.16).
const ATOMIC_REQUESTER: u32 = 1 << 6;
/// Device Control 2: completion timeout, ID-based ordering of requests and completions. Without a
/// root port that completes AtomicOps the device starts none.
const CONTROL_2: Bits = Bits {
    guest: 0x031f,
    cleared: 0,
    concealed: ATOMIC_REQUESTER,
};
/// The same behind a root port that completes AtomicOps.
const CONTROL_2_WITH_ATOMICS: Bits = Bits {
    guest: 0x031f | ATOMIC_REQUESTER,
    cleared: 0,
    concealed: 0,
};

pub(super) const REGISTERS: &[Register] = &[
    register(
        FLAGS,
        2,
        "type and version",
        Emulate,
        "an endpoint on a root bus is integrated",
    )
    .behind_port(
        Emulate,
        "the device's own; an integrated endpoint that `port=on` puts there reads as an endpoint",
    ),
    register(
        DEVICE_CAPABILITIES,
        4,
        "device capabilities",
        READ_ONLY,
        "what the device can",
    ),
    register(
        DEVICE_CONTROL,
        2,
        "device control",
        // Relaxed ordering, no snoop, read request size, function-level reset.
        bits(0xf810),
        "ordering, snooping, the size of read requests and reset are the guest's; error reports, \
         payload size, tags, phantom functions and auxiliary power are agreed with the host",
    ),
    register(
        0x0a,
        2,
        "device status",
        READ_ONLY,
        "errors are for the host to clear",
    ),
    register(LINK_CAPABILITIES, 4, "link capabilities", Emulate, NO_LINK)
        .behind_port(READ_ONLY, HOST_LINK),
    register(LINK_CONTROL, 2, "link control", Emulate, NO_LINK).behind_port(Emulate, LINK_CONTROLS),
    register(LINK_STATUS, 2, "link status", Emulate, NO_LINK).behind_port(READ_ONLY, HOST_LINK),
    register(
        0x24,
        4,
        "device capabilities 2",
        READ_ONLY,
        "what the device can",
    ),
    register(
        DEVICE_CONTROL_2,
        2,
        "device control 2",
        Pass(CONTROL_2),
        "completion timeout and ID-based ordering are the guest's; AtomicOps, LTR, OBFF, ARI, tags \
         and prefixes need a port that takes part, and emergency power is the host's",
    )
    .behind_port(
        Pass(CONTROL_2_WITH_ATOMICS),
        "completion timeout, ID-based ordering and AtomicOps are the guest's; where the host's \
         root port completes no AtomicOps, their enable is the host's and reads as 0; the rest as \
         on bus 0",
    ),
    register(0x2a, 2, "device status 2", READ_ONLY, "reserved"),
    register(
        LINK_CAPABILITIES_2,
        4,
        "link capabilities 2",
        Emulate,
        NO_LINK,
    )
    .behind_port(READ_ONLY, HOST_LINK),
    register(LINK_CONTROL_2, 2, "link control 2", Emulate, NO_LINK)
        .behind_port(Emulate, LINK_CONTROLS),
    register(LINK_STATUS_2, 2, "link status 2", Emulate, NO_LINK).behind_port(READ_ONLY, HOST_LINK),
];

/// The bits of Link Control that an endpoint has (7.5.3.7): ASPM, read completion boundary, common
/// clock, extended synch, clock power management, autonomous width. To retrain or disable a link is
/// a port's.
const LINK_CONTROL_BITS: u16 = 0x03cb;
/// The bits of Link Control 2 (7.5.3.19), but for the de-emphasis that only ports select.
const LINK_CONTROL_2_BITS: u16 = 0xffbf;

/// Makes the capability read as that of an endpoint that is integrated into the root complex,
/// without a link: Linux accepts no other endpoint on a root bus. Version 0 reads as 1.
pub(super) fn integrate(config: &mut ConfigSpace, cap: &Capability) {
    set_flags(config, cap, code::INTEGRATED);
    // A capability of version 1 ends after the link registers; the next bytes may be another's.
    for (at, len) in LINK_REGISTERS {
        for byte in (at..at + len).filter(|byte| *byte < cap.len) {
            config.set_u8(cap.offset + byte, 0);
        }
    }
}

/// Makes the capability read as that of an endpoint behind a root port that shows `path`. The
/// device answers for its link, unless its registers do not tell of that link, as those of a
/// virtual function and of an integrated endpoint. Version 0 reads as 1.
pub(super) fn attach(config: &mut ConfigSpace, space: &[u8], cap: &Capability, path: &HostPath) {
    let kind = match config.u8(cap.offset + FLAGS) >> 4 {
        own @ (code::ENDPOINT | code::LEGACY_ENDPOINT) => own,
        _ => code::ENDPOINT,
    };
    set_flags(config, cap, kind);
    let link = &path.link;
    // That the VMM answers for these two stands in the table.
    for (register, value, bits) in [
        (LINK_CONTROL, 0, LINK_CONTROL_BITS),
        (LINK_CONTROL_2, link.control_2(), LINK_CONTROL_2_BITS),
    ] {
        if has(cap, register) {
            config.set_u16(cap.offset + register, value);
            config.set_writable(cap.offset + register, &bits.to_le_bytes());
        }
    }
    if express::link(space) != Some(*link) {
        show(
            config,
            cap,
            LINK_CAPABILITIES,
            &link.capabilities().to_le_bytes(),
        );
        show(config, cap, LINK_STATUS, &link.status().to_le_bytes());
        show(
            config,
            cap,
            LINK_CAPABILITIES_2,
            &link.capabilities_2().to_le_bytes(),
        );
        show(config, cap, LINK_STATUS_2, &[0; 2]);
    }
    if has(cap, DEVICE_CONTROL_2) && !path.atomic_ops.any() {
        config.set_passed(cap.offset + DEVICE_CONTROL_2, 2, CONTROL_2);
    }
}

/// Whether the capability has a control register: one of version 1 ends after Link Status.
fn has(cap: &Capability, register: u16) -> bool {
    register + 2 <= cap.len
}

/// Lets the VMM answer a register with these bytes, if the capability has the register.
fn show(config: &mut ConfigSpace, cap: &Capability, register: u16, bytes: &[u8]) {
    if usize::from(register) + bytes.len() > cap.len.into() {
        return;
    }
    for (at, byte) in (cap.offset + register..).zip(bytes) {
        config.set_u8(at, *byte);
    }
    config.set_emulated(cap.offset + register, bytes.len());
}

fn set_flags(config: &mut ConfigSpace, cap: &Capability, kind: u8) {
    let flags = config.u16(cap.offset + FLAGS);
    let version = (flags & 0xf).max(1);
    let flags = (flags & 0xff00) | u16::from(kind) << 4 | version;
    config.set_u16(cap.offset + FLAGS, flags);
}
