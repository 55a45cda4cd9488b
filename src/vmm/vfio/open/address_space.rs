//! An iommufd with one I/O address space, which all devices use.

use std::io;
use std::sync::Arc;

use iommufd_ioctls::{IommuFd, IommufdError};
use pci::addr::Range;
use vfio_ioctls::VfioIommufd;

use crate::config::Iommu;
use crate::vfio::open::error::VfioError;
use crate::vfio::open::nodes;
use crate::vfio::opener::Opener;
use crate::vfio::uapi;

/// Opens /dev/iommu, or takes the file that another process has opened, and makes an address space.
///
/// # Errors
/// The node cannot be opened, or IOMMU_IOAS_ALLOC fails.
pub(super) fn open(choice: Iommu, opener: &Opener) -> Result<Arc<VfioIommufd>, VfioError> {
    let node = nodes::IOMMUFD;
    let file = match choice {
        Iommu::Given(given) => given.take(),
        _ => nodes::open(opener, node, node),
    };
    let file = file.map_err(|source| VfioError::node(node, None, source, None))?;
    VfioIommufd::new(Arc::new(IommuFd::new_from_fd(file)), None, None)
        .map(Arc::new)
        .map_err(|e| {
            let source = match e {
                vfio_ioctls::VfioError::NewVfioIommufd(IommufdError::IommuIoasAlloc(e)) => {
                    io::Error::from_raw_os_error(e.errno())
                }
                other => io::Error::other(other),
            };
            iommu("IOMMU_IOAS_ALLOC", source)
        })
}

/// Makes the error of a call to the iommufd.
pub(super) fn iommu(call: &'static str, source: io::Error) -> VfioError {
    VfioError::Iommu { call, source }
}

/// The I/O addresses that the address space can map.
///
/// # Errors
/// The errno of IOMMU_IOAS_IOVA_RANGES.
pub(super) fn iova_ranges(iommufd: &VfioIommufd) -> io::Result<Vec<Range>> {
    let ranges = uapi::ioas_ranges(&**iommufd.iommufd(), iommufd.ioas().id())?;
    let range = |(first, last)| Range::inclusive(first, last);
    Ok(ranges.into_iter().filter_map(range).collect())
}
