//! The file of an open device. The opener closes it.

use std::fs::File;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::Arc;

use crate::vfio::opener::client::Opener;

/// A device's file. Dropping it closes it by the opener, because the kernel resets the device then.
pub struct DeviceFile {
    device: String,
    file: ManuallyDrop<File>,
    opener: Arc<Opener>,
}

impl DeviceFile {
    /// Wraps the file of the device with this name.
    pub fn new(device: String, file: File, opener: &Arc<Opener>) -> Self {
        Self {
            device,
            file: ManuallyDrop::new(file),
            opener: Arc::clone(opener),
        }
    }

    /// The opener.
    pub fn opener(&self) -> &Arc<Opener> {
        &self.opener
    }
}

impl Deref for DeviceFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl Drop for DeviceFile {
    fn drop(&mut self) {
        // SAFETY: the value is dropped once, and nobody uses the file after this.
        let file = unsafe { ManuallyDrop::take(&mut self.file) };
        self.opener.close(&self.device, file);
    }
}
