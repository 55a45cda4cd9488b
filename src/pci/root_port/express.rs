//! The PCI Express capability of a root port (PCI Express 6.0, 7.5.3). No register of it reaches
//! the host: the host's link and slot are the host's.

use crate::byte_enable;
use crate::capability::id;
use crate::config_space::ConfigSpace;
use crate::host_path::HostPath;
use crate::link::Link;
use crate::root_port::shape::PortShape;

/// Offset of the capability.
pub(super) const OFFSET: u16 = 0x40;
/// Version 2, Device/Port Type 4: a root port of a root complex.
const FLAGS: u16 = 4 << 4 | 2;
/// Slot Implemented: the link leads to a slot, and not to a device that is soldered on.
const SLOT: u16 = 1 << 8;

const DEVICE_CAPABILITIES: u16 = OFFSET + 0x04;
const DEVICE_CONTROL: u16 = OFFSET + 0x08;
const LINK_CAPABILITIES: u16 = OFFSET + 0x0c;
const LINK_CONTROL: u16 = OFFSET + 0x10;
const LINK_STATUS: u16 = OFFSET + 0x12;
const ROOT_CONTROL: u16 = OFFSET + 0x1c;
const DEVICE_CAPABILITIES_2: u16 = OFFSET + 0x24;
const LINK_CAPABILITIES_2: u16 = OFFSET + 0x2c;
const LINK_CONTROL_2: u16 = OFFSET + 0x30;

/// Role-Based Error Reporting, which each function since version 1.1 has.
const ROLE_BASED_ERRORS: u32 = 1 << 15;
/// Device Control: the four enables of error reports, relaxed ordering, payload size, snooping.
/// Nothing depends on them.
const DEVICE_CONTROL_BITS: u16 = 0x08ff;
const PAYLOAD_SHIFT: u16 = 5;
/// 4096 bytes.
const MAX_PAYLOAD: u8 = 5;
/// Data Link Layer Link Active Reporting Capable, and ASPM Optionality Compliance.
const LINK_ACTIVE_REPORTING: u32 = 1 << 20;
const ASPM_OPTIONALITY: u32 = 1 << 22;
/// Link Disable.
const LINK_DISABLE: u16 = 1 << 4;
/// Link Control: read completion boundary, Link Disable, common clock, extended synch. Retrain Link
/// reads as zero, and the link is trained at once.
const LINK_CONTROL_BITS: u16 = 0x00d8;
/// Link Status: the port uses the platform's reference clock.
const SLOT_CLOCK: u16 = 1 << 12;
/// Link Status: Data Link Layer Link Active.
const LINK_ACTIVE: u16 = 1 << 13;
/// Root Control: the enables of system errors, and of the PME interrupt.
const ROOT_CONTROL_BITS: u16 = 0x000f;
/// Link Control 2: Target Link Speed.
const TARGET_SPEED: u16 = 0x000f;

/// Adds the capability, without a link to the next.
pub(super) fn add(config: &mut ConfigSpace, shape: &PortShape) {
    config.set_u8(OFFSET, id::PCIE as u8);
    let slot = if shape.hot_plug { SLOT } else { 0 };
    config.set_u16(OFFSET + 2, FLAGS | slot);
    set_path(config, shape);
    set_payload(config, shape);
    config.set_writable(DEVICE_CONTROL, &DEVICE_CONTROL_BITS.to_le_bytes());
    config.set_writable(LINK_CONTROL, &LINK_CONTROL_BITS.to_le_bytes());
    config.set_writable(ROOT_CONTROL, &ROOT_CONTROL_BITS.to_le_bytes());
    config.set_writable(LINK_CONTROL_2, &TARGET_SPEED.to_le_bytes());
}

/// Sets the registers that describe the host's way to the device.
pub(super) fn set_path(config: &mut ConfigSpace, shape: &PortShape) {
    let HostPath {
        link,
        payload,
        atomic_ops,
    } = shape.path;
    let payload = payload.min(MAX_PAYLOAD);
    config.set_u32(DEVICE_CAPABILITIES, ROLE_BASED_ERRORS | u32::from(payload));
    // A guest's driver enables AtomicOps in its device where the root port above completes them.
    config.set_u32(DEVICE_CAPABILITIES_2, atomic_ops.device_capabilities_2());
    let fixed = LINK_ACTIVE_REPORTING | ASPM_OPTIONALITY | u32::from(shape.number) << 24;
    config.set_u32(LINK_CAPABILITIES, link.capabilities() | fixed);
    config.set_u32(LINK_CAPABILITIES_2, link.capabilities_2());
    // The target of another device is no target of this one.
    config.set_u16(LINK_CONTROL_2, link.control_2());
}

/// Sets the payload in Device Control to that of the host's way.
pub(super) fn set_payload(config: &mut ConfigSpace, shape: &PortShape) {
    let payload = shape.path.payload.min(MAX_PAYLOAD);
    config.set_u16(DEVICE_CONTROL, u16::from(payload) << PAYLOAD_SHIFT);
}

/// Whether Link Disable is set.
pub(super) fn is_link_disabled(config: &ConfigSpace) -> bool {
    config.u16(LINK_CONTROL) & LINK_DISABLE != 0
}

/// Whether Link Status says that the link is active.
pub(super) fn is_link_active(config: &ConfigSpace) -> bool {
    config.u16(LINK_STATUS) & LINK_ACTIVE != 0
}

/// Whether an access touches Link Status.
pub(super) fn shows_link(offset: u16, len: usize) -> bool {
    byte_enable::touches(offset.into(), len, LINK_STATUS.into(), 2)
}

/// Sets Link Status: the speed and width of the link, if it is `active`.
pub(super) fn set_link_active(config: &mut ConfigSpace, link: &Link, active: bool) {
    let up = LINK_ACTIVE | link.status();
    config.set_u16(LINK_STATUS, SLOT_CLOCK | if active { up } else { 0 });
}
