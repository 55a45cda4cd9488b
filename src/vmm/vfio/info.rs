//! Parses the kernel's answers that end in a chain of capabilities (`include/uapi/linux/vfio.h`,
//! `struct vfio_info_cap_header`).
//!
//! The kernel's bytes are not trusted: this file neither indexes nor panics, and gives up on a
//! chain that does not end.

use pci::addr::Range;
use pci::atomic_ops::AtomicOps;
use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FLAGS_CAPS, VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET,
    VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP, VFIO_IOMMU_INFO_CAPS,
    VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, VFIO_PCI_ATOMIC_COMP32, VFIO_PCI_ATOMIC_COMP64,
    VFIO_PCI_ATOMIC_COMP128, VFIO_REGION_INFO_CAP_SPARSE_MMAP, VFIO_REGION_INFO_FLAG_CAPS,
    VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
};

use crate::vfio::device::RegionInfo;

/// Offset of `flags`, which follows argsz in every such structure.
const FLAGS: usize = 4;

/// A device, as VFIO describes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DeviceInfo {
    /// Whether the device is a PCI device.
    pub is_pci: bool,
    /// Whether VFIO_DEVICE_RESET works.
    pub can_reset: bool,
    /// The number of regions.
    pub regions: u32,
    /// The number of kinds of interrupt.
    pub irqs: u32,
    /// The AtomicOps of the device that the host's root port completes.
    pub atomic_ops: AtomicOps,
}

/// Reads a `struct vfio_device_info`.
pub(super) fn device(raw: &[u8]) -> DeviceInfo {
    // argsz, flags, num_regions, num_irqs, cap_offset.
    const REGIONS: usize = 8;
    const IRQS: usize = 12;
    const CAP_OFFSET: usize = 16;
    /// The flags of `struct vfio_device_info_cap_pci_atomic_comp`, after its header.
    const COMPLETERS: usize = 8;
    let flags = u32_at(raw, FLAGS).unwrap_or(0);
    let chain = (flags & VFIO_DEVICE_FLAGS_CAPS != 0).then_some(CAP_OFFSET);
    let capability = chain.and_then(|at| find(raw, at, VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP));
    let completers = capability.and_then(|at| u32_at(raw, at.checked_add(COMPLETERS)?));
    let completes = |flag| completers.is_some_and(|flags| flags & flag != 0);
    DeviceInfo {
        is_pci: flags & VFIO_DEVICE_FLAGS_PCI != 0,
        can_reset: flags & VFIO_DEVICE_FLAGS_RESET != 0,
        regions: u32_at(raw, REGIONS).unwrap_or(0),
        irqs: u32_at(raw, IRQS).unwrap_or(0),
        atomic_ops: AtomicOps {
            bits_32: completes(VFIO_PCI_ATOMIC_COMP32),
            bits_64: completes(VFIO_PCI_ATOMIC_COMP64),
            cas_128: completes(VFIO_PCI_ATOMIC_COMP128),
        },
    }
}

/// Reads a `struct vfio_region_info`.
pub(super) fn region(raw: &[u8]) -> RegionInfo {
    // argsz, flags, index, cap_offset, size (u64), offset (u64).
    const CAP_OFFSET: usize = 12;
    const SIZE: usize = 16;
    const OFFSET: usize = 24;
    let flags = u32_at(raw, FLAGS).unwrap_or(0);
    let size = u64_at(raw, SIZE).unwrap_or(0);
    let mappable = if flags & VFIO_REGION_INFO_FLAG_MMAP == 0 {
        Vec::new()
    } else {
        let chain = (flags & VFIO_REGION_INFO_FLAG_CAPS != 0).then_some(CAP_OFFSET);
        // If the kernel names no areas, all of the region can be mapped.
        chain
            .and_then(|at| find(raw, at, VFIO_REGION_INFO_CAP_SPARSE_MMAP))
            .map_or_else(|| vec![(0, size)], |capability| pairs(raw, capability))
    };
    RegionInfo {
        size,
        read: flags & VFIO_REGION_INFO_FLAG_READ != 0,
        write: flags & VFIO_REGION_INFO_FLAG_WRITE != 0,
        mappable,
        file_offset: u64_at(raw, OFFSET).unwrap_or(0),
    }
}

/// Reads the I/O addresses that a container can map from a `struct vfio_iommu_type1_info`. An empty
/// list means that the kernel does not tell (before Linux 5.4).
pub(super) fn iova_ranges(raw: &[u8]) -> Vec<Range> {
    // argsz, flags, iova_pgsizes (u64), cap_offset.
    const CAP_OFFSET: usize = 16;
    let flags = u32_at(raw, FLAGS).unwrap_or(0);
    if flags & VFIO_IOMMU_INFO_CAPS == 0 {
        return Vec::new();
    }
    let capability = find(raw, CAP_OFFSET, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE);
    let ranges = capability.map(|at| pairs(raw, at)).unwrap_or_default();
    let range = |(first, last)| Range::inclusive(first, last);
    ranges.into_iter().map_while(range).collect()
}

/// Finds a capability in the chain whose first offset stands at `pointer`. `struct
/// vfio_info_cap_header` is an ID (u16), a version (u16) and the offset of the next capability
/// (u32; 0 in the last).
fn find(raw: &[u8], pointer: usize, id: u32) -> Option<usize> {
    let mut at = u32_at(raw, pointer)? as usize;
    // Each capability takes 8 bytes or more, which bounds the walk of an endless chain.
    for _ in 0..raw.len() / 8 {
        if at == 0 {
            return None;
        }
        if u32_at(raw, at)? & 0xffff == id {
            return Some(at);
        }
        at = u32_at(raw, at + 4)? as usize;
    }
    None
}

/// Reads a capability that is a header, a count, and as many pairs of u64: the areas of
/// VFIO_REGION_INFO_CAP_SPARSE_MMAP or the ranges of VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE.
fn pairs(raw: &[u8], capability: usize) -> Vec<(u64, u64)> {
    const COUNT: usize = 8;
    const FIRST: usize = 16;
    let count = u32_at(raw, capability + COUNT).unwrap_or(0) as usize;
    let pair = |index: usize| {
        let at = capability + FIRST + index * 16;
        Some((u64_at(raw, at)?, u64_at(raw, at + 8)?))
    };
    (0..count).map_while(pair).collect()
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

    fn region_of(flags: u32, caps: &[u8]) -> Vec<u8> {
        let mut raw = [32, flags, 0, 32].map(u32::to_le_bytes).concat();
        raw.extend([0x4000u64, 0x1_0000_0000].map(u64::to_le_bytes).concat());
        raw.extend_from_slice(caps);
        raw
    }

    fn pairs_cap(id: u32, next: u32, pairs: &[(u64, u64)]) -> Vec<u8> {
        let header = [id | 1 << 16, next, pairs.len() as u32, 0];
        let mut cap = header.map(u32::to_le_bytes).concat();
        for (a, b) in pairs {
            cap.extend([*a, *b].map(u64::to_le_bytes).concat());
        }
        cap
    }

    fn range_cap(next: u32, ranges: &[(u64, u64)]) -> Vec<u8> {
        pairs_cap(VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, next, ranges)
    }

    #[test]
    fn ranges_are_found() {
        let raw = info(&range_cap(
            0,
            &[(0, 0xfedf_ffff), (0xfef0_0000, 0x7f_ffff_ffff)],
        ));
        assert_eq!(
            iova_ranges(&raw),
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
            iova_ranges(&info(&caps)),
            [Range {
                start: 0x1000,
                size: 0x1000
            }]
        );
    }

    #[test]
    fn areas_of_a_region_are_found() {
        const ALL: u32 = VFIO_REGION_INFO_FLAG_READ
            | VFIO_REGION_INFO_FLAG_WRITE
            | VFIO_REGION_INFO_FLAG_MMAP
            | VFIO_REGION_INFO_FLAG_CAPS;
        let areas = [(0, 0x1000), (0x2000, 0x2000)];
        let caps = pairs_cap(VFIO_REGION_INFO_CAP_SPARSE_MMAP, 0, &areas);
        let expected = RegionInfo {
            size: 0x4000,
            read: true,
            write: true,
            mappable: areas.to_vec(),
            file_offset: 0x1_0000_0000,
        };
        assert_eq!(region(&region_of(ALL, &caps)), expected);
        // No area can be mapped, though the region can.
        let caps = pairs_cap(VFIO_REGION_INFO_CAP_SPARSE_MMAP, 0, &[]);
        assert_eq!(region(&region_of(ALL, &caps)).mappable, []);
        // A chain that names no areas (VFIO_REGION_INFO_CAP_MSIX_MAPPABLE), and no chain.
        let caps = [3u32 | 1 << 16, 0].map(u32::to_le_bytes).concat();
        assert_eq!(region(&region_of(ALL, &caps)).mappable, [(0, 0x4000)]);
        let raw = region_of(ALL & !VFIO_REGION_INFO_FLAG_CAPS, &[]);
        assert_eq!(region(&raw).mappable, [(0, 0x4000)]);
        // A region that can only be read.
        let read = region(&region_of(VFIO_REGION_INFO_FLAG_READ, &[]));
        assert!(read.read && !read.write && read.mappable.is_empty());
    }

    /// A device with nine regions, five kinds of interrupt, and these capabilities.
    fn device_of(flags: u32, caps: &[u8]) -> Vec<u8> {
        let mut raw = [24, flags, 9, 5, 24, 0].map(u32::to_le_bytes).concat();
        raw.extend_from_slice(caps);
        raw
    }

    fn completers(next: u32, flags: u32) -> Vec<u8> {
        let header = VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP | 1 << 16;
        [header, next, flags, 0].map(u32::to_le_bytes).concat()
    }

    #[test]
    fn a_device_with_and_without_atomic_ops() {
        const ALL: u32 = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET | VFIO_DEVICE_FLAGS_CAPS;
        let with = |flags| device(&device_of(ALL, &completers(0, flags)));
        let expected = DeviceInfo {
            is_pci: true,
            can_reset: true,
            regions: 9,
            irqs: 5,
            atomic_ops: AtomicOps {
                bits_32: true,
                bits_64: true,
                cas_128: false,
            },
        };
        let both = VFIO_PCI_ATOMIC_COMP32 | VFIO_PCI_ATOMIC_COMP64;
        assert_eq!(with(both), expected);
        for (flags, bits) in [(0, 0), (1, 0x80), (2, 0x100), (4, 0x200), (!0, 0x380)] {
            let found = with(flags).atomic_ops.device_capabilities_2();
            assert_eq!(found, bits, "{flags:#x}");
        }
        // Behind another capability.
        let mut caps = [1u32 | 1 << 16, 32].map(u32::to_le_bytes).concat();
        caps.extend(completers(0, both));
        assert_eq!(device(&device_of(ALL, &caps)), expected);
        // Without the flag, or cut short, there is no chain.
        let none = |raw: &[u8]| assert_eq!(device(raw).atomic_ops, AtomicOps::NONE);
        none(&device_of(VFIO_DEVICE_FLAGS_PCI, &completers(0, both)));
        none(&device_of(ALL, &completers(0, both)[..8]));
        none(&device_of(ALL, &[]));
        none(&[]);
    }

    #[test]
    fn chains_that_do_not_end_are_left() {
        let caps = [2u32, 24].map(u32::to_le_bytes).concat();
        assert!(iova_ranges(&info(&caps)).is_empty());
        assert!(iova_ranges(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn never_panics(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            iova_ranges(&raw);
            region(&raw);
            device(&raw);
        }
    }
}
