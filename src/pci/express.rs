//! The PCI Express capability: what kind of function it describes, and its registers by name
//! (PCI Express 6.0, 7.5.3). Offsets are from the start of the capability.

use crate::byte_enable::{u16_at, u32_at};
use crate::capability::{self, id};
use crate::link::Link;

/// PCI Express Capabilities, 2 bytes: version, type, interrupt message.
pub const FLAGS: u16 = 0x02;
/// Device Capabilities, 4 bytes.
pub const DEVICE_CAPABILITIES: u16 = 0x04;
/// Device Control, 2 bytes.
pub const DEVICE_CONTROL: u16 = 0x08;
/// Link Capabilities, 4 bytes.
pub const LINK_CAPABILITIES: u16 = 0x0c;
/// Link Control, 2 bytes.
pub const LINK_CONTROL: u16 = 0x10;
/// Link Status, 2 bytes.
pub const LINK_STATUS: u16 = 0x12;
/// Device Control 2, 2 bytes.
pub const DEVICE_CONTROL_2: u16 = 0x28;
/// Link Capabilities 2, 4 bytes.
pub const LINK_CAPABILITIES_2: u16 = 0x2c;
/// Link Control 2, 2 bytes.
pub const LINK_CONTROL_2: u16 = 0x30;
/// Link Status 2, 2 bytes.
pub const LINK_STATUS_2: u16 = 0x32;

/// The type of a function, from PCI Express Capabilities (7.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionType {
    /// No capability: conventional PCI.
    Conventional,
    /// An endpoint, or a legacy endpoint, at the end of a link.
    Endpoint,
    /// An endpoint in the root complex, without a link.
    Integrated,
    /// A port, a bridge or an event collector, by its code.
    Other(u8),
}

/// Codes of the type.
pub mod code {
    /// PCI Express endpoint.
    pub const ENDPOINT: u8 = 0x0;
    /// Legacy PCI Express endpoint.
    pub const LEGACY_ENDPOINT: u8 = 0x1;
    /// Root port.
    pub const ROOT_PORT: u8 = 0x4;
    /// Root complex integrated endpoint.
    pub const INTEGRATED: u8 = 0x9;
}

impl FunctionType {
    /// Reads the type from a whole configuration space, or the first 256 bytes of one.
    pub fn of(config: &[u8]) -> Self {
        let flags = find(config).and_then(|at| u16_at(config, at + usize::from(FLAGS)));
        match flags.map(|flags| (flags >> 4) as u8 & 0xf) {
            None => Self::Conventional,
            Some(code::ENDPOINT | code::LEGACY_ENDPOINT) => Self::Endpoint,
            Some(code::INTEGRATED) => Self::Integrated,
            Some(other) => Self::Other(other),
        }
    }
}

/// The link that a configuration space tells of.
pub fn link(config: &[u8]) -> Option<Link> {
    let at = find(config)?;
    let capabilities = u32_at(config, at + usize::from(LINK_CAPABILITIES))?;
    let status = u16_at(config, at + usize::from(LINK_STATUS))?;
    match FunctionType::of(config) {
        FunctionType::Integrated => None,
        _ => Link::from_registers(capabilities, status),
    }
}

/// The largest payload that the function sends, as its code in Device Control: 0 is 128 bytes, 5 is
/// 4096. `None` without the capability.
pub fn max_payload(config: &[u8]) -> Option<u8> {
    let control = u16_at(config, find(config)? + usize::from(DEVICE_CONTROL))?;
    // 6 and 7 are reserved.
    Some(((control >> 5) as u8 & 7).min(5))
}

fn find(config: &[u8]) -> Option<usize> {
    capability::find(config, id::PCIE).map(|cap| cap.offset.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A space with the capability at 0x40: flags, Device Control, Link Capabilities, Link Status.
    fn space(flags: u16, control: u16, capabilities: u32, status: u16) -> Vec<u8> {
        let mut space = vec![0; 256];
        space[6] = 0x10;
        space[0x34] = 0x40;
        space[0x40] = 0x10;
        space[0x42..0x44].copy_from_slice(&flags.to_le_bytes());
        space[0x48..0x4a].copy_from_slice(&control.to_le_bytes());
        space[0x4c..0x50].copy_from_slice(&capabilities.to_le_bytes());
        space[0x52..0x54].copy_from_slice(&status.to_le_bytes());
        space
    }

    #[test]
    fn each_type() {
        for (flags, kind) in [
            (0x0002, FunctionType::Endpoint),
            (0x0011, FunctionType::Endpoint),
            (0x0092, FunctionType::Integrated),
            (0x0142, FunctionType::Other(code::ROOT_PORT)),
            (0x00a2, FunctionType::Other(0xa)),
        ] {
            assert_eq!(FunctionType::of(&space(flags, 0, 0, 0)), kind, "{flags:#x}");
        }
        assert_eq!(FunctionType::of(&[0; 256]), FunctionType::Conventional);
        assert_eq!(FunctionType::of(&[]), FunctionType::Conventional);
    }

    #[test]
    fn link_and_payload() {
        let endpoint = space(2, 0x2810, 0x43, 0x1043);
        let found = link(&endpoint).unwrap();
        assert_eq!(found.to_string(), "8.0 GT/s x4");
        assert_eq!(max_payload(&endpoint), Some(0));
        assert_eq!(max_payload(&space(2, 0x28f0, 0, 0)), Some(5));
        // What an integrated endpoint has there is no link.
        assert_eq!(link(&space(0x92, 0, 0x43, 0x43)), None);
        assert_eq!((link(&[0; 256]), max_payload(&[0; 256])), (None, None));
    }
}
