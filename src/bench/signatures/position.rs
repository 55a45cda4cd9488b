//! Where a signature is on a disk.

/// A position on a disk, which depends on the disk's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// So many bytes from the start.
    Start(u64),
    /// So many bytes before the end.
    End(u64),
    /// Within an area before the end: the disk's end is rounded down to a multiple of `unit`, the
    /// area begins `back` bytes before that, and the position is `at` bytes from the area's start.
    Area { unit: u64, back: u64, at: u64 },
}

impl Position {
    /// The offset on a disk of this size; `None` if the disk is too small.
    pub(super) fn on(self, size: u64) -> Option<u64> {
        match self {
            Self::Start(at) => Some(at),
            Self::End(back) => size.checked_sub(back),
            Self::Area { unit, back, at } => {
                (size / unit * unit).checked_sub(back)?.checked_add(at)
            }
        }
    }
}
