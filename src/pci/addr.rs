//! Ranges of addresses, half-open.

/// A half-open guest-physical range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
}

impl Range {
    /// The range from `start` to `last`, both included; `None` if `last` is below `start`.
    pub fn inclusive(start: u64, last: u64) -> Option<Self> {
        let size = last.checked_sub(start)?.saturating_add(1);
        Some(Self {
            start,
            size: size.min(u64::MAX - start),
        })
    }

    /// The address after the last.
    pub fn end(&self) -> u64 {
        self.start + self.size
    }

    /// Whether `[start, start + size)` lies inside.
    pub fn contains(&self, start: u64, size: u64) -> bool {
        start >= self.start && start.checked_add(size).is_some_and(|end| end <= self.end())
    }
}
