//! A function's device as the owner of its BARs, for peer-to-peer DMA.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use crate::memory::BarOwner;
use crate::vfio::device::{Device, SharedDevice};

/// The device, which a mapped BAR must not keep open.
pub(super) struct Owner {
    name: String,
    device: Weak<dyn Device>,
}

impl Owner {
    pub(super) fn new(device: &SharedDevice) -> Self {
        Self {
            name: device.name().to_owned(),
            device: Arc::downgrade(device),
        }
    }
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl BarOwner for Owner {
    fn name(&self) -> &str {
        &self.name
    }

    fn can_export(&self) -> bool {
        self.device.upgrade().is_some_and(|d| d.can_export())
    }

    fn export(&self, bar: u32, offset: u64, size: u64) -> io::Result<OwnedFd> {
        let device = self.device.upgrade();
        let device = device.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        device.export(bar, offset, size)
    }
}
