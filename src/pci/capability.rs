//! Walks and edits the two capability chains of a configuration space
//! (PCI 3.0, 6.7; PCI Express 6.0, 7.6.3 for the extended chain).
//!
//! The device may be broken or hostile: a walk ends at a loop, at an impossible pointer, and at all
//! ones, which a removed device returns.

pub mod ext_id;
pub mod id;

use crate::byte_enable::{put, u8_at, u16_at, u32_at};
use crate::regs::{self, status::CAPABILITIES_LIST};

const STATUS: usize = regs::STATUS as usize;
const POINTER: usize = regs::CAPABILITIES as usize;
/// The end of the header; capabilities lie after it.
const STANDARD_START: u16 = 0x40;
const STANDARD_END: usize = 0x100;
const EXTENDED_START: u16 = 0x100;
const EXTENDED_END: usize = 0x1000;
const NEXT_SHIFT: u32 = 20;
const NEXT_MASK: u32 = 0xffc << NEXT_SHIFT;

/// One capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// The ID: one of [`id`] or [`ext_id`], or another.
    pub id: u16,
    /// Offset of its first byte in configuration space.
    pub offset: u16,
    /// Version of an extended capability; 0 for a standard one.
    pub version: u8,
    /// Whether the capability is in the extended chain.
    pub extended: bool,
    /// Length in bytes: by the specification or by a register of the capability, or else up to the
    /// next capability in configuration space. Capabilities never overlap.
    pub len: u16,
}

/// The standard capabilities in the order of their chain.
pub fn standard(config: &[u8]) -> Vec<Capability> {
    let has_chain = u16_at(config, STATUS).is_some_and(|s| s & CAPABILITIES_LIST != 0);
    let mut next = u8_at(config, POINTER).filter(|_| has_chain);
    let mut found: Vec<Capability> = Vec::new();
    while let Some(pointer) = next {
        // The low two bits are reserved, and software must mask them.
        let offset = u16::from(pointer & !3);
        let Some([id, link]) = u16_at(config, offset.into()).map(u16::to_le_bytes) else {
            break;
        };
        let gone = pointer == 0xff || id == 0xff;
        if offset < STANDARD_START || gone || found.iter().any(|c| c.offset == offset) {
            break;
        }
        found.push(Capability {
            id: id.into(),
            offset,
            version: 0,
            extended: false,
            len: 0,
        });
        next = Some(link);
    }
    set_lengths(&mut found, config, config.len().min(STANDARD_END));
    found
}

/// The extended capabilities in the order of their chain; empty for a conventional space of 256
/// bytes.
pub fn extended(config: &[u8]) -> Vec<Capability> {
    let mut found: Vec<Capability> = Vec::new();
    let mut offset = EXTENDED_START;
    while let Some(header) = u32_at(config, offset.into()) {
        let absent = header == 0 || header == !0;
        if offset < EXTENDED_START || absent || found.iter().any(|c| c.offset == offset) {
            break;
        }
        found.push(Capability {
            id: header as u16,
            offset,
            version: (header >> 16) as u8 & 0xf,
            extended: true,
            len: 0,
        });
        offset = ((header & NEXT_MASK) >> NEXT_SHIFT) as u16;
    }
    set_lengths(&mut found, config, config.len().min(EXTENDED_END));
    found
}

/// The first standard capability with this ID.
pub fn find(config: &[u8], id: u16) -> Option<Capability> {
    standard(config).into_iter().find(|c| c.id == id)
}

/// Removes the standard capabilities that `hide` chooses from the chain; returns how many. The
/// others are relinked, so that the guest sees no loop even if the device's chain has one. Only
/// links change: the registers of a hidden capability can still be read.
pub fn hide_standard(config: &mut [u8], hide: impl Fn(&Capability) -> bool) -> usize {
    let all = standard(config);
    let kept: Vec<_> = all.iter().filter(|c| !hide(c)).collect();
    let pointers = std::iter::once(POINTER).chain(kept.iter().map(|c| usize::from(c.offset) + 1));
    let targets = kept.iter().map(|c| c.offset as u8).chain([0]);
    for (pointer, target) in pointers.zip(targets) {
        put(config, pointer, &[target]);
    }
    if let Some(status) = u16_at(config, STATUS).filter(|_| kept.is_empty()) {
        let status = status & !CAPABILITIES_LIST;
        put(config, STATUS, &status.to_le_bytes());
    }
    all.len() - kept.len()
}

/// Removes the extended capabilities that `hide` chooses from the chain; returns how many. See
/// [`hide_standard`]. The chain always begins at 0x100, so a hidden head stays as a link and loses
/// its ID. An empty chain is a zero dword.
pub fn hide_extended(config: &mut [u8], hide: impl Fn(&Capability) -> bool) -> usize {
    let all = extended(config);
    let hidden = |c: &Capability| c.id != ext_id::NULL && hide(c);
    let chain: Vec<_> = all
        .iter()
        .filter(|c| c.offset == EXTENDED_START || !hidden(c))
        .collect();
    let links = chain.iter().skip(1).map(|c| u32::from(c.offset)).chain([0]);
    for (c, next) in chain.iter().zip(links) {
        let id = if hidden(c) { ext_id::NULL } else { c.id };
        let header = next << NEXT_SHIFT | u32::from(c.version) << 16 | u32::from(id);
        let empty = id == ext_id::NULL && next == 0;
        let header = if empty { 0 } else { header };
        put(config, c.offset.into(), &header.to_le_bytes());
    }
    all.iter().filter(|c| hidden(c)).count()
}

/// Sets the lengths of the capabilities. `end` is the end of the chain's part of configuration
/// space.
fn set_lengths(found: &mut [Capability], config: &[u8], end: usize) {
    let offsets: Vec<_> = found.iter().map(|c| c.offset).collect();
    for c in found {
        let next = offsets.iter().filter(|o| **o > c.offset).min();
        let next = next.map_or(end, |o| usize::from(*o));
        let gap = u16::try_from(next.saturating_sub(c.offset.into())).unwrap_or(u16::MAX);
        let known = if c.extended {
            extended_size(config, c)
        } else {
            standard_size(config, c)
        };
        c.len = known.filter(|n| (2..gap).contains(n)).unwrap_or(gap);
    }
}

fn standard_size(config: &[u8], c: &Capability) -> Option<u16> {
    let offset = usize::from(c.offset);
    Some(match c.id {
        id::NULL => 2,
        id::PM | id::VPD | id::HOT_PLUG | id::BRIDGE_SUBSYSTEM => 8,
        id::SLOT_ID | id::HOT_SWAP | id::DEBUG_PORT | id::RESOURCE_CONTROL => 4,
        id::AGP | id::AGP_8X => 12,
        // Version in bits 13:12 of the command register: the first has no registers for ECC.
        id::PCI_X if u16_at(config, offset + 2)? & 0x3000 == 0 => 8,
        id::PCI_X => 24,
        // Bits 3:0 of SATACR1 tell whether index and data follow (AHCI 1.3.1, 2.4.2).
        id::SATA if u8_at(config, offset + 4)? & 0xf == 0xf => 16,
        id::SATA => 8,
        // Message Control: bit 7 64-bit address, bit 8 per-vector masking.
        id::MSI => match u16_at(config, offset + 2)? >> 7 & 3 {
            0 => 10,
            1 => 14,
            2 => 20,
            _ => 24,
        },
        id::VENDOR => u8_at(config, offset + 2)?.into(),
        // Version 1 of an endpoint ends after Link Status; version 2 has all registers.
        id::PCIE if u8_at(config, offset + 2)? & 0xf >= 2 => 0x3c,
        id::PCIE => 0x14,
        id::MSIX => 12,
        id::AF => 6,
        _ => return None,
    })
}

fn extended_size(config: &[u8], c: &Capability) -> Option<u16> {
    Some(match c.id {
        ext_id::NULL => 4,
        // Bit 11 of capabilities and control tells whether there is a log of prefixes. The
        // registers before the log are a root port's.
        ext_id::AER if u16_at(config, usize::from(c.offset) + 0x18)? & 1 << 11 != 0 => 0x48,
        ext_id::AER => 0x2c,
        // Bits 2:0 are the number of channels but one, of 12 bytes each. Tables of arbitration may
        // follow elsewhere.
        ext_id::VC | ext_id::VC9 | ext_id::MFVC => {
            let channels = u8_at(config, usize::from(c.offset) + 4)? & 7;
            0x10 + 12 * (u16::from(channels) + 1)
        }
        // A vector of egress control may follow.
        ext_id::ACS => 8,
        // Bits 4:0 are the number of substates but one, of a byte each.
        ext_id::DPA => {
            let substates = u8_at(config, usize::from(c.offset) + 4)? & 0x1f;
            0x10 + u16::from(substates) + 1
        }
        ext_id::DSN => 12,
        ext_id::POWER_BUDGET => 16,
        // The length is in bits 31:20 of the dword after the header.
        ext_id::VENDOR | ext_id::DVSEC => {
            (u32_at(config, usize::from(c.offset) + 4)? >> NEXT_SHIFT) as u16
        }
        ext_id::ARI | ext_id::ATS | ext_id::LTR | ext_id::PASID | ext_id::LNR => 8,
        ext_id::SRIOV => 0x40,
        ext_id::PRI => 16,
        ext_id::L1SS => 20,
        ext_id::PTM | ext_id::READINESS_TIME | ext_id::DATA_LINK => 12,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An image with standard capabilities (offset, id, next) and extended headers.
    fn image(first: u8, chain: &[(u8, u8, u8)], headers: &[(usize, u32)]) -> Vec<u8> {
        let mut image = vec![0; 4096];
        image[STATUS] = 0x10;
        image[POINTER] = first;
        for (offset, id, next) in chain {
            put(&mut image, usize::from(*offset), &[*id, *next]);
        }
        for (offset, header) in headers {
            put(&mut image, *offset, &header.to_le_bytes());
        }
        image
    }

    type Walk = fn(&[u8]) -> Vec<Capability>;
    type Hide = fn(&mut [u8], fn(&Capability) -> bool) -> usize;

    /// The capabilities with an even ID, but for those without registers.
    fn even(found: &[Capability]) -> Vec<(u16, u16)> {
        let even = |(id, _): &(u16, u16)| *id != 0 && id & 1 == 0;
        offsets(found).into_iter().filter(even).collect()
    }

    fn offsets(found: &[Capability]) -> Vec<(u16, u16)> {
        found.iter().map(|c| (c.id, c.offset)).collect()
    }

    #[test]
    fn a_chain_and_its_lengths() {
        let mut i = image(
            0x43,
            &[
                (0x40, 1, 0x70),
                (0x70, 0x10, 0xb2),
                (0xb0, 0x11, 0x50),
                (0x50, 5, 0),
            ],
            &[],
        );
        i[0x52] = 0x80;
        i[0x72] = 0x02;
        let found = standard(&i);
        assert_eq!(
            offsets(&found),
            [(1, 0x40), (0x10, 0x70), (0x11, 0xb0), (5, 0x50)]
        );
        let lengths: Vec<_> = found.iter().map(|c| c.len).collect();
        assert_eq!(lengths, [8, 0x3c, 12, 14]);
        i[STATUS] = 0;
        assert_eq!(standard(&i), []);
    }

    #[test]
    fn chains_that_end_badly() {
        for (first, chain, expected) in [
            (0x00, vec![], 0),
            (0xff, vec![(0xfc, 1, 0)], 0),
            (0x3c, vec![(0x3c, 1, 0)], 0),
            (0x40, vec![(0x40, 1, 0x40)], 1),
            (0x40, vec![(0x40, 1, 0x48), (0x48, 5, 0x40)], 2),
            (0x40, vec![(0x40, 0xff, 0x48), (0x48, 5, 0)], 0),
            (0x40, vec![(0x40, 1, 0xff), (0xfc, 5, 0)], 1),
            (0x40, vec![(0x40, 1, 0x20), (0x20, 5, 0)], 1),
        ] {
            let found = standard(&image(first, &chain, &[]));
            assert_eq!(found.len(), expected, "{first:#x} {chain:x?}");
        }
        assert_eq!(standard(&[]), []);
        assert_eq!(extended(&[0xff; 4096]), []);
        assert_eq!(extended(&[1; 256]), []);
    }

    #[test]
    fn hides_standard() {
        let chain = [
            (0x40, 1, 0x50),
            (0x50, 9, 0x60),
            (0x60, 9, 0x70),
            (0x70, 0x11, 0),
        ];
        let mut i = image(0x40, &chain, &[]);
        assert_eq!(hide_standard(&mut i, |c| c.id == id::VENDOR), 2);
        assert_eq!(offsets(&standard(&i)), [(1, 0x40), (0x11, 0x70)]);
        assert_eq!(hide_standard(&mut i, |c| c.id == id::PM), 1);
        assert_eq!((i[POINTER], i[STATUS]), (0x70, 0x10));
        assert_eq!(hide_standard(&mut i, |_| true), 1);
        assert_eq!((i[POINTER], i[STATUS]), (0, 0));
    }

    #[test]
    fn hides_extended() {
        let headers = [
            (0x100, 0x1502_0001),
            (0x150, 0x2001_0010),
            (0x200, 0x0001_0003),
        ];
        let mut i = image(0, &[], &headers);
        assert_eq!(hide_extended(&mut i, |c| c.id == ext_id::AER), 1);
        assert_eq!(u32_at(&i, 0x100), Some(0x1502_0000));
        assert_eq!(hide_extended(&mut i, |c| c.id == ext_id::SRIOV), 1);
        assert_eq!(u32_at(&i, 0x100), Some(0x2002_0000));
        assert_eq!(offsets(&extended(&i)), [(0, 0x100), (3, 0x200)]);
        assert_eq!(hide_extended(&mut i, |_| true), 1);
        assert_eq!(u32_at(&i, 0x100), Some(0));
        assert_eq!(hide_extended(&mut i, |_| true), 0);
    }

    proptest! {
        #[test]
        fn any_image_is_walked_and_edited(
            mut image in prop::collection::vec(any::<u8>(), 0..4200),
            writes in prop::collection::vec((0usize..1024, 0usize..1024, 0u32..0x30), 0..30),
            id in 0u16..0x30,
        ) {
            // Some of the links lead to another capability.
            for (at, to, id) in writes {
                put(&mut image, at * 4, &((to as u32 * 4) << 20 | 1 << 16 | id).to_le_bytes());
            }
            for (walk, hide) in [
                (standard as Walk, hide_standard as Hide),
                (extended, hide_extended),
            ] {
                let before = walk(&image);
                for c in &before {
                    prop_assert!(usize::from(c.offset) + usize::from(c.len) <= image.len());
                    prop_assert!(c.len >= 2);
                }
                prop_assert!(before.len() <= 1024);
                let hidden = hide(&mut image, |c| c.id & 1 == 1);
                prop_assert_eq!(hidden, before.iter().filter(|c| c.id & 1 == 1).count());
                let after = walk(&image);
                prop_assert!(after.iter().all(|c| c.id & 1 == 0));
                prop_assert_eq!(even(&before), even(&after));
            }
            let _ = find(&image, id);
        }
    }
}
