//! Guest RAM: how much, and of which pages.

use std::fmt;

/// Guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Bytes, a multiple of the pages' size and at least [`super::MIN_MEMORY`].
    pub size: u64,
    /// What it is made of.
    pub pages: Pages,
    /// Whether all of it is made present, and mapped for devices, before the guest runs. If the user
    /// does not say, a device has that done while the guest begins to run.
    pub prefault: Option<bool>,
    /// Whether other processes can map it: a memfd instead of private memory.
    pub shared: bool,
}

impl MemoryConfig {
    /// As much memory as this, all else as it is by default.
    pub fn new(size: u64) -> Self {
        Self {
            size,
            pages: Pages::default(),
            prefault: None,
            shared: false,
        }
    }
}

/// The host's pages under guest RAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// As large as the host has them: transparent huge pages.
    #[default]
    Transparent,
    /// 4 KiB only.
    Small,
    /// From the host's reserve of huge pages.
    Huge(HugePage),
}

impl Pages {
    /// What the size of RAM must be a multiple of, in bytes.
    pub fn granule(self) -> u64 {
        match self {
            Self::Transparent | Self::Small => 4096,
            Self::Huge(page) => page.size(),
        }
    }
}

/// A size of huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePage {
    /// 2 MiB.
    Mib2,
    /// 1 GiB.
    Gib1,
}

impl HugePage {
    /// Bytes.
    pub fn size(self) -> u64 {
        1 << self.shift()
    }

    /// The size's logarithm to base 2, as mmap(2) and memfd_create(2) want it.
    pub fn shift(self) -> u32 {
        match self {
            Self::Mib2 => 21,
            Self::Gib1 => 30,
        }
    }
}

impl fmt::Display for HugePage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mib2 => "2 MiB",
            Self::Gib1 => "1 GiB",
        })
    }
}
