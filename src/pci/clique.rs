//! NVIDIA's GPUDirect clique: a number by which drivers in a guest know which GPUs reach each other
//! by peer-to-peer DMA. Guests see no ports and switches, so the drivers cannot find that out.
//!
//! The number is in a vendor-specific capability of eight bytes that no GPU has of itself; a VMM
//! adds it (NVIDIA's description of the capability, in QEMU's mailing list of August 2017 and, for
//! Turing and later GPUs, of June 2023):
//!
//! | byte | 0 | 1 | 2 | 3, 4, 5 | 6 | 7 |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | | ID 0x09 | next | length 8 | "P2P" | clique in bits 6:3, version 0 in bits 2:0 | 0 |

use std::ops::Range;

use crate::byte_enable::{put, u16_at};
use crate::capability::{self, Capability, id};
use crate::regs;

/// The largest number of a clique.
pub const MAX: u8 = 15;

/// Bytes of the capability.
pub const LENGTH: u16 = 8;

const NVIDIA: u16 = 0x10de;
/// The base class of displays and of 3D controllers (PCI Code and ID Assignment 1.16, 1.4).
const DISPLAY: u8 = 0x03;
const SIGNATURE: &[u8; 3] = b"P2P";
/// The offsets that NVIDIA recommends: the second one for GPUs that have MSI-X at the first.
const RECOMMENDED: [u16; 2] = [0xc8, 0xd4];
/// Capabilities lie between the header and the end of conventional configuration space.
const START: u16 = 0x40;
const END: u16 = 0x100;

/// Why a device gets no clique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CliqueError {
    /// The device is not a GPU of NVIDIA's.
    #[error("the device is no GPU of NVIDIA, and a clique is for these only")]
    OtherDevice,
    /// All bytes are taken by other capabilities.
    #[error("the other capabilities leave no room for that of a clique")]
    NoRoom,
}

/// Adds the capability at the end of the chain in a GPU's configuration space. A clique that is
/// there already, because the host is itself a guest, gets the new number. `in_use` are ranges of
/// bytes that are outside of the chain and nevertheless the device's.
///
/// # Errors
/// [`CliqueError`].
pub fn add(image: &mut [u8], clique: u8, in_use: &[Range<u16>]) -> Result<(), CliqueError> {
    let vendor = u16_at(image, regs::VENDOR.into());
    // The class code's bytes are programming interface, sub-class and base class.
    let class = image.get(usize::from(regs::REVISION) + 3);
    if vendor != Some(NVIDIA) || class != Some(&DISPLAY) {
        return Err(CliqueError::OtherDevice);
    }
    let number = (clique & MAX) << 3;
    if let Some(offset) = find(image) {
        put(image, usize::from(offset) + 6, &[number, 0]);
        return Ok(());
    }
    let chain = capability::standard(image);
    let offset = free(&chain, in_use).ok_or(CliqueError::NoRoom)?;
    let last = chain.last().ok_or(CliqueError::NoRoom)?;
    let [p, two, q] = *SIGNATURE;
    let bytes = [id::VENDOR as u8, 0, LENGTH as u8, p, two, q, number, 0];
    put(image, offset.into(), &bytes);
    put(image, usize::from(last.offset) + 1, &[offset as u8]);
    Ok(())
}

/// The offset of the capability, if it is in the chain.
pub fn find(image: &[u8]) -> Option<u16> {
    let mut chain = capability::standard(image).into_iter();
    chain.find(|cap| is_at(image, cap)).map(|cap| cap.offset)
}

/// Whether a standard capability is that of a clique.
pub fn is_at(image: &[u8], cap: &Capability) -> bool {
    let start = usize::from(cap.offset) + 2;
    let bytes = image.get(start..start + 1 + SIGNATURE.len());
    let split = bytes.and_then(<[u8]>::split_first);
    let is_clique = |(length, name): (&u8, &[u8])| *length == LENGTH as u8 && name == SIGNATURE;
    cap.id == id::VENDOR && split.is_some_and(is_clique)
}

/// Eight bytes that no capability has, and that are not in use otherwise: at a recommended offset,
/// or else the last ones.
fn free(chain: &[Capability], in_use: &[Range<u16>]) -> Option<u16> {
    let others = (START..=END - LENGTH).rev().step_by(4);
    let mut offsets = RECOMMENDED.into_iter().chain(others);
    offsets.find(|offset| {
        let apart = |used: Range<u16>| used.start >= offset + LENGTH || used.end <= *offset;
        let of = |c: &Capability| c.offset..c.offset.saturating_add(c.len);
        chain
            .iter()
            .map(of)
            .chain(in_use.iter().cloned())
            .all(apart)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A configuration space with a chain of capabilities: offset, ID, and the byte after the link.
    fn image(vendor: u16, class: u8, chain: &[(u16, u16, u8)]) -> Vec<u8> {
        let mut image = vec![0; 256];
        put(&mut image, 0, &vendor.to_le_bytes());
        image[usize::from(regs::REVISION) + 3] = class;
        image[usize::from(regs::STATUS)] = regs::status::CAPABILITIES_LIST as u8;
        let links = chain.iter().skip(1).map(|cap| cap.0 as u8).chain([0]);
        for ((offset, id, third), next) in chain.iter().zip(links) {
            put(&mut image, (*offset).into(), &[*id as u8, next, *third]);
        }
        image[usize::from(regs::CAPABILITIES)] = chain.first().map_or(0, |cap| cap.0 as u8);
        image
    }

    /// As GPUs before Turing have it: the vendor's own capability ends where the clique begins.
    const OLDER: [(u16, u16, u8); 4] = [
        (0x60, id::PM, 3),
        (0x68, id::MSI, 0x80),
        (0x78, id::PCIE, 2),
        (0xb4, id::VENDOR, 0x14),
    ];

    fn added(chain: &[(u16, u16, u8)], clique: u8) -> Result<(u16, [u8; 8]), CliqueError> {
        let mut image = image(NVIDIA, DISPLAY, chain);
        let before = capability::standard(&image);
        add(&mut image, clique, &[])?;
        let after = capability::standard(&image);
        let (last, others) = after.split_last().unwrap();
        // The others stay in their order.
        let offsets = |caps: &[Capability]| caps.iter().map(|c| c.offset).collect::<Vec<_>>();
        assert_eq!(offsets(others), offsets(&before));
        assert_eq!((last.id, last.len), (id::VENDOR, LENGTH));
        assert_eq!(find(&image), Some(last.offset));
        let at = usize::from(last.offset);
        Ok((last.offset, image[at..at + 8].try_into().unwrap()))
    }

    #[test]
    fn the_capability_is_at_the_recommended_offset() {
        let bytes = |number| [9, 0, 8, b'P', b'2', b'P', number, 0];
        assert_eq!(added(&OLDER, 0), Ok((0xc8, bytes(0))));
        assert_eq!(added(&OLDER, 15), Ok((0xc8, bytes(0x78))));
        let turing = [&OLDER[..], &[(0xc8, id::MSIX, 5)]].concat();
        assert_eq!(added(&turing, 3), Ok((0xd4, bytes(0x18))));
        // Both offsets are taken: the last free bytes.
        let full = [&turing[..], &[(0xd4, id::VENDOR, 0x10)]].concat();
        assert_eq!(added(&full, 1), Ok((0xf8, bytes(8))));
    }

    #[test]
    fn no_room_and_other_devices_are_refused() {
        // A capability of unknown length may reach to the end.
        let whole = [(0x40, 0x0f, 0)];
        assert_eq!(added(&whole, 1), Err(CliqueError::NoRoom));
        assert_eq!(added(&[], 1), Err(CliqueError::NoRoom));
        // Another vendor's display, and the sound card of an NVIDIA GPU.
        for (vendor, class) in [(0x1002, DISPLAY), (NVIDIA, 0x04)] {
            let mut other = image(vendor, class, &OLDER);
            assert_eq!(add(&mut other, 1, &[]), Err(CliqueError::OtherDevice));
            assert_eq!(find(&other), None);
        }
        assert_eq!(add(&mut [], 1, &[]), Err(CliqueError::OtherDevice));
    }

    #[test]
    fn bytes_in_use_are_left_alone() {
        let at = |in_use: &[(u16, u16)]| {
            let in_use: Vec<_> = in_use.iter().map(|&(start, end)| start..end).collect();
            let mut image = image(NVIDIA, DISPLAY, &OLDER);
            add(&mut image, 1, &in_use).map(|()| find(&image).unwrap())
        };
        assert_eq!(at(&[(0xd0, 0xe0)]), Ok(0xc8));
        assert_eq!(at(&[(0xcc, 0xd0)]), Ok(0xd4));
        assert_eq!(at(&[(0xc0, 0xe0)]), Ok(0xf8));
        assert_eq!(at(&[(0xc8, 0xcc), (0xd8, 0x100)]), Ok(0xd0));
        assert_eq!(at(&[(0x40, 0x100)]), Err(CliqueError::NoRoom));
    }

    #[test]
    fn a_clique_of_the_hosts_own_host_is_replaced() {
        let mut image = image(NVIDIA, DISPLAY, &OLDER);
        add(&mut image, 2, &[]).unwrap();
        let before = capability::standard(&image);
        add(&mut image, 5, &[]).unwrap();
        assert_eq!(capability::standard(&image), before);
        assert_eq!(image[0xc8 + 6], 5 << 3);
    }

    proptest! {
        /// Whatever the device's bytes are, nothing but a link and eight free bytes changes.
        #[test]
        fn no_other_capability_changes(mut bytes in proptest::collection::vec(any::<u8>(), 256)) {
            put(&mut bytes, 0, &NVIDIA.to_le_bytes());
            bytes[usize::from(regs::REVISION) + 3] = DISPLAY;
            let before = bytes.clone();
            let chain = capability::standard(&before);
            if find(&before).is_none() && add(&mut bytes, 7, &[]).is_ok() {
                let at = usize::from(find(&bytes).unwrap());
                let link = usize::from(chain.last().unwrap().offset) + 1;
                for (offset, (old, new)) in before.iter().zip(&bytes).enumerate() {
                    let may = offset == link || (at..at + 8).contains(&offset);
                    prop_assert!(may || old == new, "{offset:#x}");
                }
            }
        }
    }
}
