//! The paths of what the kernel shows outside of sysfs, and the addresses of interfaces.

use std::io;
use std::path::PathBuf;

use crate::interfaces;
use crate::interfaces::Address;

/// The host's /proc, /dev and /lib/modules, or directories made up for a test.
#[derive(Clone, Debug)]
pub struct HostPaths {
    /// /proc: processors, mounts, swap, routes.
    pub proc: PathBuf,
    /// /dev: device nodes.
    pub dev: PathBuf,
    /// /lib/modules: modules that can be loaded.
    pub modules: PathBuf,
    /// The addresses of network interfaces.
    pub addresses: Addresses,
}

/// The addresses of network interfaces, which no single file lists.
#[derive(Clone, Debug, Default)]
pub enum Addresses {
    /// Those of this host, from the kernel.
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
