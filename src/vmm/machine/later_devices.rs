//! What must be right at the start for devices that are added later: RAM and windows cannot move
//! once the guest runs.

use pci::addr::Range;

use crate::hostinfo::iova;
use crate::hostinfo::iova::Reach;
use crate::layout::Layout;
use crate::machine::error::MachineError;

/// Returns the I/O addresses that each IOMMU can map that can map all of the guest's RAM. `groups`
/// are the IOMMU groups of the host. A host without groups has all addresses: whether a device can
/// be added there is seen when one is.
///
/// # Errors
/// [`MachineError::RamOutOfReach`]: no device of the host could be added.
pub fn mappable(layout: &Layout, groups: &[Reach]) -> Result<Vec<Range>, MachineError> {
    let outside = |group: &Reach| {
        let ranges = group.ranges();
        let inside = |ram: &Range| ranges.iter().any(|r| r.contains(ram.start, ram.size));
        layout.ram().find(|ram| !inside(ram))
    };
    // VFIO opens no device of a refused group.
    let usable = groups.iter().filter(|group| !group.is_refused());
    let (reaching, not): (Vec<_>, Vec<_>) = usable
        .map(|group| (group, outside(group)))
        .partition(|(_, outside)| outside.is_none());
    match not.first() {
        Some((_, Some(ram))) if reaching.is_empty() => Err(MachineError::RamOutOfReach {
            start: ram.start,
            last: ram.end() - 1,
        }),
        _ => Ok(iova::common(reaching.into_iter().map(|(group, _)| group))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hostinfo::iova::Reserved;

    fn group(bits: u8, reserved: &[(u64, u64, Reserved)]) -> Reach {
        let range = |&(a, b, kind)| (Range::inclusive(a, b).unwrap(), kind);
        Reach {
            bits: Some(bits),
            reserved: reserved.iter().map(range).collect(),
        }
    }

    const MSI: (u64, u64, Reserved) = (0xfee0_0000, 0xfeef_ffff, Reserved::Other);

    #[test]
    fn ram_is_where_some_iommu_reaches() {
        let layout = Layout::new(8 << 30, 0, 46).unwrap();
        let all = Range::inclusive(0, u64::MAX).unwrap();
        assert_eq!(mappable(&layout, &[]).unwrap(), [all]);
        let near = group(39, &[MSI]);
        let far = group(48, &[MSI]);
        let ranges = mappable(&layout, &[far.clone(), near.clone()]).unwrap();
        assert_eq!(ranges.last().unwrap().end(), 1 << 39);
        // An IOMMU that does not reach RAM is another's business, as long as there is one.
        let small = group(32, &[MSI]);
        let ranges = mappable(&layout, &[far, small.clone()]).unwrap();
        assert_eq!(ranges.last().unwrap().end(), 1 << 48);
        let e = mappable(&layout, &[small]).unwrap_err();
        assert_eq!(
            e.to_string(),
            "no device of this host can be added later: the guest's RAM at \
             0x100000000-0x23fffffff lies where no IOMMU can map it"
        );
        assert!(e.hint().unwrap().contains("--memory"));
    }

    #[test]
    fn a_group_that_vfio_refuses_decides_nothing() {
        let layout = Layout::new(8 << 30, 0, 46).unwrap();
        let display = group(48, &[MSI, (0x8000_0000, 0x8fff_ffff, Reserved::Direct)]);
        let all = Range::inclusive(0, u64::MAX).unwrap();
        assert_eq!(
            mappable(&layout, std::slice::from_ref(&display)).unwrap(),
            [all]
        );
        let card = group(48, &[MSI, (0x8000_0000, 0x8fff_ffff, Reserved::Other)]);
        assert!(mappable(&layout, &[display.clone(), card]).is_err());
        let ranges = mappable(&layout, &[display, group(46, &[MSI])]).unwrap();
        assert_eq!(ranges.last().unwrap().end(), 1 << 46);
    }
}
