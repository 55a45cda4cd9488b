//! Where the kernel tells of what sysfs does not: /proc, /dev, /lib/modules, and the addresses of
//! interfaces.

use std::io;
use std::path::PathBuf;

use crate::sys::interfaces::{self, Address};

/// Where the kernel tells of other things than devices, or a tree made up for a test.
#[derive(Clone, Debug)]
pub struct HostPaths {
    /// As /proc: processors, mounts, swap, routes.
    pub proc: PathBuf,
    /// As /dev.
    pub dev: PathBuf,
    /// As /lib/modules: what can be loaded.
    pub modules: PathBuf,
    /// Who has which address.
    pub addresses: Addresses,
}

/// The addresses of network interfaces: no file has them all.
#[derive(Clone, Debug, Default)]
pub enum Addresses {
    /// As this host's kernel has them.
    #[default]
    OfThisHost,
    /// Made up for a test.
    These(Vec<Address>),
}

impl Addresses {
    pub(super) fn read(&self) -> io::Result<Vec<Address>> {
        match self {
            Self::OfThisHost => interfaces::addresses(),
            Self::These(addresses) => Ok(addresses.clone()),
        }
    }
}

impl Default for HostPaths {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            dev: "/dev".into(),
            modules: "/lib/modules".into(),
            addresses: Addresses::default(),
        }
    }
}
