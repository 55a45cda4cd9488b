//! The result of opening.

use std::sync::Arc;

use crate::vfio::dma::IovaSpaces;
use crate::vfio::vfio_file::VfioFile;

/// Devices that have been opened, and the IOMMU that serves them all.
pub struct Opened {
    /// In the order of the candidates.
    pub devices: Vec<Arc<VfioFile>>,
    /// Maps guest memory for all of them.
    pub mapper: Arc<IovaSpaces>,
    /// The interface that opened the devices: `container` or `iommufd`.
    pub interface: &'static str,
}
