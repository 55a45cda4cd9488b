//! The kernel that a machine boots, and the kernel's name in the cache.

use std::time::Duration;

use super::build;
use crate::scripts::{KERNEL_CONFIG, KERNEL_CONFIG_NEWEST, KERNEL_CONFIG_RELEASE};

/// The form of L2's kernel for mini-vmm. Each form is a file in L1's /boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelFile {
    /// The kernel as it is packaged.
    BzImage,
    /// The ELF inside of the bzImage.
    Vmlinux,
}

impl KernelFile {
    /// The file's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::BzImage => "bzImage",
            Self::Vmlinux => "vmlinux",
        }
    }
}

/// One of the lab's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Choice {
    /// The release's own kernel: the package `linux-image-cloud-amd64` depends on it.
    Stock,
    /// The highest version in the package lists, backports included.
    Newest,
    /// Built from the newest `linux-source` package with the options of
    /// integration/resources/lab-kernel.config and lab-kernel-release.config. All drivers that the
    /// lab needs are built in, and so is IOMMUFD, which Debian's kernels lack.
    Lab,
    /// Built like `Lab`, from the newest `linux-source` package of Debian's testing suite: VFIO and
    /// iommufd there have what the release's kernels lack. Its further options are in
    /// integration/resources/lab-kernel-newest.config.
    LabNewest,
}

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Choice {
    /// Names the file in the cache that holds the key of the current version.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Newest => "newest",
            Self::Lab => "lab",
            Self::LabNewest => "lab-newest",
        }
    }

    /// The time after which the lab looks for a newer version. The testing suite has a new kernel
    /// every few days, and each costs a build.
    pub fn fresh(self) -> Duration {
        match self {
            Self::Stock | Self::Newest | Self::Lab => 7 * DAY,
            Self::LabNewest => 30 * DAY,
        }
    }

    /// The options with which the kernel is built; `None` for a kernel that is used as packaged.
    pub fn options(self) -> Option<String> {
        match self {
            Self::Stock | Self::Newest => None,
            Self::Lab => Some([KERNEL_CONFIG, KERNEL_CONFIG_RELEASE].concat()),
            Self::LabNewest => Some([KERNEL_CONFIG, KERNEL_CONFIG_NEWEST].concat()),
        }
    }

    /// The kernel's key in the cache: the file name of its package without the extension and, for
    /// a kernel that the lab builds, a hash of its options.
    pub fn key(self, package: &str) -> String {
        let options = self.options();
        let suffix = options.map_or_else(String::new, |options| build::suffix(&options));
        format!("{package}{suffix}")
    }

    /// Whether a key in the cache is that of a kernel with the current options.
    pub fn is_current(self, key: &str) -> bool {
        self.options()
            .is_none_or(|options| key.ends_with(&build::suffix(&options)))
    }
}
