//! The iommufd of a VM. It stays open as long as its devices.

use std::sync::{Arc, Weak};

use vfio_ioctls::VfioIommufd;

use crate::config::Iommu;
use crate::vfio::dma::{IovaSpaces, User};

/// The iommufd of a VM, if it is open.
#[derive(Default)]
pub(super) struct KnownIommufd {
    iommufd: Weak<VfioIommufd>,
    mapper: Weak<IovaSpaces>,
    /// The file that another process has opened, which cannot be opened again.
    given: Option<Arc<VfioIommufd>>,
}

impl KnownIommufd {
    /// Whether it is open.
    pub fn is_in_use(&self) -> bool {
        self.given.is_some() || self.iommufd.strong_count() > 0
    }

    /// The iommufd.
    pub fn iommufd(&self) -> Option<Arc<VfioIommufd>> {
        self.iommufd.upgrade()
    }

    /// It is open now. A file that was handed over is given once, so it stays.
    pub fn keep(&mut self, iommufd: &Arc<VfioIommufd>, choice: Iommu) {
        self.iommufd = Arc::downgrade(iommufd);
        self.given = matches!(choice, Iommu::Given(_)).then(|| Arc::clone(iommufd));
    }

    /// The mapper of the devices that are open, which has `users` from now on too.
    pub fn mapper_for(&self, iommufd: &VfioIommufd, users: &[User]) -> Option<Arc<IovaSpaces>> {
        let mapper = self.mapper.upgrade()?;
        mapper.add_users(iommufd, users).then_some(mapper)
    }

    /// All devices have this mapper.
    pub fn set_mapper(&mut self, mapper: &Arc<IovaSpaces>) {
        self.mapper = Arc::downgrade(mapper);
    }
}
