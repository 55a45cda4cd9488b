//! A part of a BAR, by the device that it belongs to: so other devices can reach the part without
//! its address in this process.

use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A device that gives other devices access to its BARs.
pub trait BarOwner: Debug + Send + Sync {
    /// The host's name of the device.
    fn name(&self) -> &str;
    /// Whether the device can export its BARs at all.
    fn can_export(&self) -> bool;
    /// Exports `[offset, offset + size)` of a BAR as a dma-buf. The host revokes an export when the
    /// device stops decoding memory, and when it is reset.
    ///
    /// # Errors
    /// The errno; ENODEV if the device has been given back to the host.
    fn export(&self, bar: u32, offset: u64, size: u64) -> io::Result<OwnedFd>;
}

/// A part of a BAR.
#[derive(Clone, Debug)]
pub struct BarPart {
    /// The device.
    pub owner: Arc<dyn BarOwner>,
    /// The number of the BAR.
    pub bar: u32,
    /// The part's offset in the BAR.
    pub offset: u64,
}

impl BarPart {
    /// Exports the bytes of the part at `[at, at + size)` as a dma-buf.
    ///
    /// # Errors
    /// As [`BarOwner::export`].
    pub fn export(&self, at: u64, size: u64) -> io::Result<OwnedFd> {
        self.owner.export(self.bar, self.offset + at, size)
    }
}
