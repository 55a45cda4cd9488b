//! An open device and its end.
//!
//! vfio-ioctls leaves a group with its first device, though others of the group may be open still,
//! and panics when the device has left sysfs meanwhile. So its own end is used for the last device of
//! a group, and the others are only closed.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use tracing::warn;
use vfio_ioctls::VfioDevice;

use crate::vfio::open::token_link::Alias;

/// A device that vfio-ioctls has opened.
pub struct Handle {
    device: ManuallyDrop<VfioDevice>,
    /// Its directory in sysfs, or the alias of it.
    path: PathBuf,
    /// Shared by the devices of its group; `None` with iommufd, where a device stands alone.
    group: Option<Arc<()>>,
    /// What `path` is, if it is an alias: the device finds its group by it once more, at its end.
    alias: Option<Alias>,
}

impl Handle {
    /// Takes a device, its directory in sysfs, the token of its group if it came by one, and the
    /// alias that the directory is if it is one.
    pub fn new(
        device: VfioDevice,
        path: PathBuf,
        group: Option<Arc<()>>,
        alias: Option<Alias>,
    ) -> Self {
        Self {
            device: ManuallyDrop::new(device),
            path,
            group,
            alias,
        }
    }
}

impl Deref for Handle {
    type Target = VfioDevice;

    fn deref(&self) -> &VfioDevice {
        &self.device
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let shown = self.alias.as_ref().map(Alias::show).transpose();
        if let Err(e) = &shown {
            warn!(
                "{} cannot be shown, so its group is not left: {e}",
                self.path.display()
            );
        }
        let whole = match &self.group {
            Some(group) => {
                let last = Arc::strong_count(group) == 1;
                last && shown.is_ok() && self.path.join("iommu_group").exists()
            }
            None => true,
        };
        if whole {
            // SAFETY: dropped once, here, and not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.device) };
        } else {
            // SAFETY: the descriptor belongs to the device, which is neither used nor dropped after
            // this. Its share of the container stays until the process ends.
            unsafe { libc::close(self.device.as_raw_fd()) };
        }
    }
}
