//! The iommufd path: one I/O address space for all devices of the VM
//! (Documentation/userspace-api/iommufd.rst).

use std::io;
use std::sync::Arc;

use iommufd_bindings::iommufd::{
    IOMMUFD_CMD_IOAS_IOVA_RANGES, IOMMUFD_TYPE, iommu_ioas_iova_ranges, iommu_iova_range,
};
use iommufd_ioctls::IommufdError;
use vfio_ioctls::{VfioError, VfioIommufd};
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_io_nr;

use crate::layout::Range;
use crate::memory::dma::DmaMapper;

ioctl_io_nr!(
    IOMMU_IOAS_IOVA_RANGES,
    IOMMUFD_TYPE as u32,
    IOMMUFD_CMD_IOAS_IOVA_RANGES
);

/// More ranges than any IOMMU has; the call fails beyond.
const MAX_RANGES: usize = 256;

/// Maps guest memory through an I/O address space to which devices are attached.
pub struct IommufdMapper {
    iommufd: Arc<VfioIommufd>,
    ranges: Vec<Range>,
}

impl IommufdMapper {
    /// Takes an address space with its devices attached (each narrows what can be mapped) and asks
    /// it for the ranges it can map.
    ///
    /// # Errors
    /// The errno of IOMMU_IOAS_IOVA_RANGES.
    pub fn new(iommufd: Arc<VfioIommufd>) -> io::Result<Self> {
        let ranges = iova_ranges(&iommufd)?;
        Ok(Self { iommufd, ranges })
    }
}

impl DmaMapper for IommufdMapper {
    fn map(&self, iova: u64, size: u64, host: u64) -> io::Result<()> {
        // SAFETY: the address space keeps the host pages until the map is taken away, and no Rust
        // reference into guest memory exists: all access is volatile, through vm-memory.
        unsafe {
            self.iommufd
                .vfio_dma_map(iova, size as usize, host as *mut u8)
        }
        .map_err(errno)
    }

    fn unmap(&self, iova: u64, size: u64) -> io::Result<()> {
        self.iommufd
            .vfio_dma_unmap(iova, size as usize)
            .map_err(errno)
    }

    fn iova_ranges(&self) -> &[Range] {
        &self.ranges
    }
}

fn errno(error: VfioError) -> io::Error {
    match error {
        VfioError::IommufdIoctlError(
            IommufdError::IommuIoasMap(e) | IommufdError::IommuIoasUnmap(e),
        ) => io::Error::from_raw_os_error(e.errno()),
        other => io::Error::other(other),
    }
}

fn iova_ranges(iommufd: &VfioIommufd) -> io::Result<Vec<Range>> {
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
