//! The PCI Express capability of a root port (PCI Express 6.0, 7.5.3). No register of it reaches
//! the host: the host's link and slot are the host's.

use crate::capability::id;
use crate::config_space::ConfigSpace;
use crate::root_port::shape::{LinkShape, PortShape};

/// Offset of the capability.
pub(super) const OFFSET: u16 = 0x40;
/// Version 2, Device/Port Type 4: a root port of a root complex.
const FLAGS: u16 = 4 << 4 | 2;

const DEVICE_CAPABILITIES: u16 = OFFSET + 0x04;
const DEVICE_CONTROL: u16 = OFFSET + 0x08;
const LINK_CAPABILITIES: u16 = OFFSET + 0x0c;
const LINK_CONTROL: u16 = OFFSET + 0x10;
const LINK_STATUS: u16 = OFFSET + 0x12;
const ROOT_CONTROL: u16 = OFFSET + 0x1c;
const LINK_CAPABILITIES_2: u16 = OFFSET + 0x2c;
const LINK_CONTROL_2: u16 = OFFSET + 0x30;

/// Role-Based Error Reporting, which each function since version 1.1 has.
const ROLE_BASED_ERRORS: u32 = 1 << 15;
/// Device Control: the four enables of error reports, relaxed ordering, payload size, snooping.
/// Nothing depends on them.
const DEVICE_CONTROL_BITS: u16 = 0x08ff;
const PAYLOAD_SHIFT: u16 = 5;
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
    let link = &shape.link;
    config.set_u8(OFFSET, id::PCIE as u8);
    config.set_u16(OFFSET + 2, FLAGS);
    let payload = link.payload.min(5);
    config.set_u32(DEVICE_CAPABILITIES, ROLE_BASED_ERRORS | u32::from(payload));
    config.set_u16(DEVICE_CONTROL, u16::from(payload) << PAYLOAD_SHIFT);
    config.set_writable(DEVICE_CONTROL, &DEVICE_CONTROL_BITS.to_le_bytes());
    config.set_u32(
        LINK_CAPABILITIES,
        u32::from(link.max_speed & 0xf)
            | u32::from(link.max_width & 0x3f) << 4
            | LINK_ACTIVE_REPORTING
            | ASPM_OPTIONALITY
            | u32::from(shape.number) << 24,
    );
    config.set_writable(LINK_CONTROL, &LINK_CONTROL_BITS.to_le_bytes());
    config.set_writable(ROOT_CONTROL, &ROOT_CONTROL_BITS.to_le_bytes());
    // Bit 1 is 2.5 GT/s.
    let speeds = (1u32 << (link.max_speed.clamp(1, 7) + 1)) - 2;
    config.set_u32(LINK_CAPABILITIES_2, speeds);
    config.set_u16(LINK_CONTROL_2, u16::from(link.max_speed & 0xf));
    config.set_writable(LINK_CONTROL_2, &TARGET_SPEED.to_le_bytes());
}

/// Whether Link Disable is set.
pub(super) fn is_link_disabled(config: &ConfigSpace) -> bool {
    config.u16(LINK_CONTROL) & LINK_DISABLE != 0
}

/// Sets Link Status: the speed and width of the link, if it is `active`.
pub(super) fn set_link_active(config: &mut ConfigSpace, link: &LinkShape, active: bool) {
    let up = LINK_ACTIVE | u16::from(link.width & 0x3f) << 4 | u16::from(link.speed & 0xf);
    config.set_u16(LINK_STATUS, SLOT_CLOCK | if active { up } else { 0 });
}
