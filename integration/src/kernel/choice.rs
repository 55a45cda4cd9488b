//! The kernel that a machine boots, and the kernel's name in the cache.

use super::build;

/// One of the lab's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Choice {
    /// The release's own kernel: the package `linux-image-cloud-amd64` depends on it.
    Stock,
    /// The highest version in the package lists, backports included.
    Newest,
    /// Built from the newest `linux-source` package with the options of
    /// integration/resources/lab-kernel.config. All drivers that the lab needs are built in, and
    /// so is IOMMUFD, which Debian's kernels lack.
    Lab,
}

impl Choice {
    /// Names the file in the cache that holds the key of the current version.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Newest => "newest",
            Self::Lab => "lab",
        }
    }

    /// The kernel's key in the cache: the file name of its package without the extension and, for
    /// the lab's own kernel, a hash of its options.
    pub fn key(self, package: &str) -> String {
        match self {
            Self::Stock | Self::Newest => package.to_owned(),
            Self::Lab => format!("{package}{}", build::suffix()),
        }
    }
}
