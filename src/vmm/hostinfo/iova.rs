//! The I/O addresses that the host's IOMMUs can map, as far as sysfs shows them before a device is
//! opened.
//!
//! | fact | where |
//! | --- | --- |
//! | reserved ranges | `reserved_regions` of a group (ABI/testing/sysfs-kernel-iommu_groups) |
//! | the address width | Intel's capability register (VT-d 4.1, 11.4.2); AMD's is not shown |

use std::fs;
use std::path::Path;

use pci::addr::Range;

use crate::hostinfo::pci_device::PciDevice;
use crate::hostinfo::sysfs::Sysfs;

/// The reason why a range of I/O addresses is reserved
/// (Documentation/ABI/testing/sysfs-kernel-iommu_groups).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// The firmware requires an identity mapping (an RMRR), so VFIO refuses the group.
    Direct,
    /// The firmware requires an identity mapping only during boot, so VFIO accepts the group.
    DirectRelaxable,
    /// Message signalled interrupts, or another range that cannot be mapped.
    Other,
}

/// The I/O addresses that a device's IOMMU can map. The kernel shows only a part of this before the
/// device is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// The width of an I/O address in bits; `None` if the kernel does not show it.
    pub bits: Option<u8>,
    /// The reserved ranges of the group.
    pub reserved: Vec<(Range, Reserved)>,
}

impl Reach {
    /// Reads the facts of a device.
    pub fn read(sysfs: &Sysfs, device: &PciDevice) -> Self {
        let group = device
            .group
            .map(|group| sysfs.path(&format!("kernel/iommu_groups/{group}")));
        Self::of(Some(&device.path), group.as_deref())
    }

    /// Reads the facts of every group of the host, in the order of their numbers.
    pub fn of_groups(sysfs: &Sysfs) -> Vec<Self> {
        let entries = fs::read_dir(sysfs.path("kernel/iommu_groups"));
        let entries = entries.into_iter().flatten().flatten();
        let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
        let mut groups: Vec<_> = entries.filter_map(number).collect();
        groups.sort_unstable();
        let read = |group: u32| {
            let group = sysfs.path(&format!("kernel/iommu_groups/{group}"));
            // One IOMMU is behind a group, so each of its devices shows the same.
            let devices = fs::read_dir(group.join("devices"));
            let first = devices.into_iter().flatten().flatten().next();
            Self::of(first.map(|entry| entry.path()).as_deref(), Some(&group))
        };
        groups.into_iter().map(read).collect()
    }

    /// Reads the facts of the device in the directory `device`, which is in this group.
    pub fn of_group(sysfs: &Sysfs, device: &Path, group: u32) -> Self {
        let group = sysfs.path(&format!("kernel/iommu_groups/{group}"));
        Self::of(Some(device), Some(&group))
    }

    fn of(device: Option<&Path>, group: Option<&Path>) -> Self {
        let cap = device.map(|device| device.join("iommu/intel-iommu/cap"));
        let cap = cap.and_then(|file| fs::read_to_string(file).ok());
        let regions = group.map(|group| group.join("reserved_regions"));
        let regions = regions.and_then(|file| fs::read_to_string(file).ok());
        Self {
            bits: cap
                .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
                .map(intel_width),
            reserved: regions
                .unwrap_or_default()
                .lines()
                .filter_map(region)
                .collect(),
        }
    }

    /// Whether VFIO will refuse the device because the firmware requires an identity mapping.
    pub fn is_refused(&self) -> bool {
        self.reserved
            .iter()
            .any(|(_, kind)| *kind == Reserved::Direct)
    }

    /// Whether the IOMMU can surely map each of these ranges. Every group of an x86 host has a
    /// reserved range for interrupts, so a kernel that tells none tells too little.
    pub fn surely_has(&self, ranges: impl IntoIterator<Item = Range>) -> bool {
        let mappable = self.ranges();
        let has = |range: Range| {
            let holds = |m: &Range| m.contains(range.start, range.size);
            mappable.iter().any(holds)
        };
        let told = self.bits.is_some() && !self.reserved.is_empty() && !self.is_refused();
        told && ranges.into_iter().all(has)
    }

    /// The mappable ranges: all addresses of the IOMMU's width, without the reserved ranges.
    pub fn ranges(&self) -> Vec<Range> {
        let last = match self.bits {
            Some(bits @ 1..=63) => (1 << bits) - 1,
            _ => u64::MAX,
        };
        let mut ranges: Vec<_> = Range::inclusive(0, last).into_iter().collect();
        for (hole, kind) in &self.reserved {
            if *kind != Reserved::DirectRelaxable {
                ranges = ranges.into_iter().flat_map(|r| without(r, hole)).collect();
            }
        }
        ranges
    }
}

/// The ranges that all of the IOMMUs can map. Without an IOMMU, all addresses.
pub fn common<'a>(all: impl IntoIterator<Item = &'a Reach>) -> Vec<Range> {
    let everything: Vec<_> = Range::inclusive(0, u64::MAX).into_iter().collect();
    let both = |ranges: Vec<Range>, reach: &Reach| intersect(&ranges, &reach.ranges());
    all.into_iter().fold(everything, both)
}

/// The addresses that are in a range of both lists.
pub fn intersect(a: &[Range], b: &[Range]) -> Vec<Range> {
    let both = |a: &Range, b: &Range| {
        let (start, end) = (a.start.max(b.start), a.end().min(b.end()));
        (start < end).then(|| Range {
            start,
            size: end - start,
        })
    };
    a.iter()
        .flat_map(|a| b.iter().filter_map(move |b| both(a, b)))
        .collect()
}

/// The parts of a range before and after a hole.
fn without(range: Range, hole: &Range) -> impl Iterator<Item = Range> + use<> {
    let before = Range {
        start: range.start,
        size: hole.start.clamp(range.start, range.end()) - range.start,
    };
    let start = hole.end().clamp(range.start, range.end());
    let after = Range {
        start,
        size: range.end() - start,
    };
    [before, after].into_iter().filter(|r| r.size > 0)
}

/// Parses a line "0xfirst 0xlast kind".
fn region(line: &str) -> Option<(Range, Reserved)> {
    let mut words = line.split_whitespace();
    let mut address = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
    let range = Range::inclusive(address()?, address()?)?;
    let kind = match words.next()? {
        "direct" => Reserved::Direct,
        "direct-relaxable" => Reserved::DirectRelaxable,
        _ => Reserved::Other,
    };
    Some((range, kind))
}

/// The address width of an Intel IOMMU: the smaller of MGAW (bits 21:16, plus one) and the widest
/// page table of SAGAW (bits 12:8: bit 1 means 39 address bits, bit 2 means 48, bit 3 means 57).
fn intel_width(cap: u64) -> u8 {
    let widest = (cap >> 16 & 0x3f) as u8 + 1;
    let tables = cap >> 8 & 0x1f;
    let deepest = [(3, 57), (2, 48), (1, 39)]
        .into_iter()
        .find(|(bit, _)| tables & 1 << bit != 0);
    deepest.map_or(widest, |(_, width)| widest.min(width))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    #[test]
    fn the_width_of_intel_units() {
        // MGAW 48, SAGAW 39 and 48 bits; then 39 alone under a wider MGAW; then no table known.
        assert_eq!(intel_width(0x2f_0600), 48);
        assert_eq!(intel_width(0x2f_0200), 39);
        assert_eq!(intel_width(0x26_0000), 39);
    }

    /// A device of each group shows the width; a group that VFIO refuses is among them.
    #[test]
    fn every_group_of_the_host() {
        let dir = TempDir::new().unwrap();
        let sysfs = Sysfs::at(dir.as_path());
        assert_eq!(Reach::of_groups(&sysfs), []);
        let group = |number: &str, lines: &str| {
            let device = sysfs.path(&format!("devices/{number}"));
            fs::create_dir_all(device.join("iommu/intel-iommu")).unwrap();
            fs::write(device.join("iommu/intel-iommu/cap"), "260600\n").unwrap();
            let group = sysfs.path(&format!("kernel/iommu_groups/{number}"));
            fs::create_dir_all(group.join("devices")).unwrap();
            symlink(device, group.join("devices/0000:01:00.0")).unwrap();
            fs::write(group.join("reserved_regions"), lines).unwrap();
        };
        group("10", "0x00000000fee00000 0x00000000feefffff msi\n");
        group("9", "0x00000000000f0000 0x00000000000fffff direct\n");
        let all = Reach::of_groups(&sysfs);
        let refused: Vec<_> = all.iter().map(Reach::is_refused).collect();
        assert_eq!(refused, [true, false]);
        let between = |a, b| Range::inclusive(a, b).unwrap();
        let last = (1 << 39) - 1;
        assert_eq!(
            all[1].ranges(),
            [between(0, 0xfedf_ffff), between(0xfef0_0000, last)]
        );
        assert_eq!(
            common(&all),
            [
                between(0, 0xe_ffff),
                between(0x10_0000, 0xfedf_ffff),
                between(0xfef0_0000, last)
            ]
        );
        assert_eq!(common(&[]), [between(0, u64::MAX)]);
    }
}
