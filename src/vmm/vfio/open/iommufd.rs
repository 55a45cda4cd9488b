//! The iommufd path: what one I/O address space for all devices can map
//! (Documentation/userspace-api/iommufd.rst).

use std::io;

use iommufd_bindings::iommufd::{
    IOMMUFD_CMD_IOAS_IOVA_RANGES, IOMMUFD_TYPE, iommu_ioas_iova_ranges, iommu_iova_range,
};
use pci::addr::Range;
use vfio_ioctls::VfioIommufd;
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(
    IOMMU_IOAS_IOVA_RANGES,
    IOMMUFD_TYPE as u32,
    IOMMUFD_CMD_IOAS_IOVA_RANGES
);

/// More ranges than any IOMMU has; the call fails beyond.
const MAX_RANGES: usize = 256;

/// The I/O addresses that an address space can map. Its devices must be attached: each narrows them.
///
/// # Errors
/// The errno of IOMMU_IOAS_IOVA_RANGES.
pub fn iova_ranges(iommufd: &VfioIommufd) -> io::Result<Vec<Range>> {
    let mut ranges = [iommu_iova_range::default(); MAX_RANGES];
    let mut argument = iommu_ioas_iova_ranges {
        size: size_of::<iommu_ioas_iova_ranges>() as u32,
        ioas_id: iommufd.ioas().id(),
        num_iovas: MAX_RANGES as u32,
        allowed_iovas: ranges.as_mut_ptr() as u64,
        ..Default::default()
    };
    let fd = iommufd.iommufd().as_ref();
    // SAFETY: the argument and the array it points at live for the call, and the array has as many
    // elements as the argument says.
    let ret = unsafe { ioctl_with_mut_ref(fd, IOMMU_IOAS_IOVA_RANGES(), &mut argument) };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    let found = ranges.iter().take(argument.num_iovas as usize);
    Ok(found
        .filter_map(|r| Range::inclusive(r.start, r.last))
        .collect())
}
