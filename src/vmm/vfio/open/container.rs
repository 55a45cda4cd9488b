//! The group and container path: what one type 1 IOMMU container for all devices can map
//! (Documentation/driver-api/vfio.rst).

use std::io;

use pci::addr::Range;
use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_IOMMU_INFO_CAPS, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, VFIO_TYPE,
    vfio_iommu_type1_info,
};
use vfio_ioctls::VfioContainer;
use vmm_sys_util::ioctl::ioctl_with_mut_ptr;
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(VFIO_IOMMU_GET_INFO, VFIO_TYPE.into(), VFIO_BASE + 12);

/// The most bytes of capabilities that are read; the kernel's chain is a few hundred.
const MAX_INFO: usize = 64 << 10;

/// The I/O addresses that a container can map, asked of `struct vfio_iommu_type1_info` and its
/// capability chain. A group must have joined: only then the container has an IOMMU.
///
/// # Errors
/// The errno of VFIO_IOMMU_GET_INFO.
pub fn iova_ranges(container: &VfioContainer) -> io::Result<Vec<Range>> {
    const HEADER: usize = size_of::<vfio_iommu_type1_info>();
    let mut buffer = vec![0u64; HEADER.div_ceil(8)];
    loop {
        let bytes = size_of_val(buffer.as_slice());
        if let Some(first) = buffer.first_mut() {
            *first = bytes as u64; // argsz, flags 0
        }
        // SAFETY: the buffer is aligned and of the length that its argsz says.
        let ret =
            unsafe { ioctl_with_mut_ptr(container, VFIO_IOMMU_GET_INFO(), buffer.as_mut_ptr()) };
        if ret < 0 {
            return Err(io::Error::last_os_error());
        }
        let raw: Vec<u8> = buffer.iter().flat_map(|w| w.to_le_bytes()).collect();
        let needed = u32_at(&raw, 0).unwrap_or(0) as usize;
        if needed <= bytes || needed > MAX_INFO {
            return Ok(parse_ranges(&raw));
        }
        buffer = vec![0u64; needed.div_ceil(8)];
    }
}

/// Finds VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE in the chain; an empty answer means that the kernel
/// does not say (before Linux 5.4).
fn parse_ranges(raw: &[u8]) -> Vec<Range> {
    // struct vfio_iommu_type1_info: argsz, flags, iova_pgsizes (u64), cap_offset.
    const CAP_OFFSET: usize = 16;
    let flags = u32_at(raw, 4).unwrap_or(0);
    let mut at = match u32_at(raw, CAP_OFFSET) {
        Some(offset) if flags & VFIO_IOMMU_INFO_CAPS != 0 => offset as usize,
        _ => return Vec::new(),
    };
    // Each capability is 8 bytes or more, which bounds a chain that does not end.
    for _ in 0..raw.len() / 8 {
        let (Some(id), Some(next)) = (u32_at(raw, at), u32_at(raw, at + 4)) else {
            break;
        };
        if at == 0 {
            break;
        }
        if id & 0xffff == VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE {
            let count = u32_at(raw, at + 8).unwrap_or(0) as usize;
            return (0..count)
                .map_while(|i| {
                    let start = u64_at(raw, at + 16 + i * 16)?;
                    let last = u64_at(raw, at + 24 + i * 16)?;
                    Range::inclusive(start, last)
                })
                .collect();
        }
        at = next as usize;
    }
    Vec::new()
}

fn u32_at(raw: &[u8], at: usize) -> Option<u32> {
    let bytes = raw.get(at..at.checked_add(4)?)?;
    bytes.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(raw: &[u8], at: usize) -> Option<u64> {
    let bytes = raw.get(at..at.checked_add(8)?)?;
    bytes.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn info(caps: &[u8]) -> Vec<u8> {
        let mut raw = vec![0u8; 24];
        raw[4..8].copy_from_slice(&VFIO_IOMMU_INFO_CAPS.to_le_bytes());
        raw[16..20].copy_from_slice(&24u32.to_le_bytes());
        raw.extend_from_slice(caps);
        raw
    }

    fn range_cap(next: u32, ranges: &[(u64, u64)]) -> Vec<u8> {
        let mut cap = (VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE | 1 << 16)
            .to_le_bytes()
            .to_vec();
        cap.extend(next.to_le_bytes());
        cap.extend((ranges.len() as u32).to_le_bytes());
        cap.extend([0; 4]);
        for (a, b) in ranges {
            cap.extend(a.to_le_bytes());
            cap.extend(b.to_le_bytes());
        }
        cap
    }

    #[test]
    fn ranges_are_found() {
        let raw = info(&range_cap(
            0,
            &[(0, 0xfedf_ffff), (0xfef0_0000, 0x7f_ffff_ffff)],
        ));
        assert_eq!(
            parse_ranges(&raw),
            [
                Range {
                    start: 0,
                    size: 0xfee0_0000
                },
                Range {
                    start: 0xfef0_0000,
                    size: 0x7f_ffff_ffff - 0xfef0_0000 + 1
                },
            ]
        );
        // A chain with another capability first.
        let mut caps = [2u32, 32].map(u32::to_le_bytes).concat();
        caps.extend(range_cap(0, &[(0x1000, 0x1fff)]));
        assert_eq!(
            parse_ranges(&info(&caps)),
            [Range {
                start: 0x1000,
                size: 0x1000
            }]
        );
    }

    #[test]
    fn chains_that_do_not_end_are_left() {
        let caps = [2u32, 24].map(u32::to_le_bytes).concat();
        assert!(parse_ranges(&info(&caps)).is_empty());
        assert!(parse_ranges(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn never_panics(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse_ranges(&raw);
        }
    }
}
