//! Guest memory for DMA, through either interface to the IOMMU.

use std::io;
use std::sync::Arc;

use iommufd_ioctls::IommufdError;
use vfio_ioctls::{VfioError, VfioOps};

use crate::layout::Range;
use crate::memory::dma::DmaMapper;

/// Maps guest memory for the devices of a container or of an I/O address space.
pub struct Mapper {
    ops: Arc<dyn VfioOps>,
    ranges: Vec<Range>,
}

impl Mapper {
    /// `ranges` are the I/O addresses that can be mapped.
    pub fn new(ops: Arc<dyn VfioOps>, ranges: Vec<Range>) -> Self {
        Self { ops, ranges }
    }
}

impl DmaMapper for Mapper {
    fn map(&self, iova: u64, size: u64, host: u64) -> io::Result<()> {
        // SAFETY: the address space keeps the host pages until the map is taken away, and no Rust
        // reference into guest memory exists: all access is volatile, through vm-memory.
        unsafe { self.ops.vfio_dma_map(iova, size as usize, host as *mut u8) }.map_err(errno)
    }

    fn unmap(&self, iova: u64, size: u64) -> io::Result<()> {
        self.ops.vfio_dma_unmap(iova, size as usize).map_err(errno)
    }

    fn iova_ranges(&self) -> &[Range] {
        &self.ranges
    }
}

/// The errno in an error of vfio-ioctls.
fn errno(error: VfioError) -> io::Error {
    match error {
        VfioError::IommuDmaMap(e)
        | VfioError::IommuDmaUnmap(e)
        | VfioError::IommufdIoctlError(
            IommufdError::IommuIoasMap(e) | IommufdError::IommuIoasUnmap(e),
        ) => io::Error::from_raw_os_error(e.errno()),
        other => io::Error::other(other),
    }
}
