//! Paths of the kernel's file systems other than sysfs, of the host's settings, and the addresses
//! of interfaces.

use std::io;
use std::path::PathBuf;

use crate::interfaces;
use crate::interfaces::Address;

/// The host's /proc, /dev, /lib/modules and /etc, or made-up directories for a test.
#[derive(Clone, Debug)]
pub struct HostPaths {
    /// /proc: processors, mounts, swap, routes.
    pub proc: PathBuf,
    /// /dev: device nodes.
    pub dev: PathBuf,
    /// /lib/modules: modules that can be loaded.
    pub modules: PathBuf,
    /// /etc: rules of udev, hooks of the initramfs, names of devices.
    pub etc: PathBuf,
    /// The addresses of network interfaces.
    pub addresses: Addresses,
}

/// The source of interface addresses: no single file lists them.
#[derive(Clone, Debug, Default)]
pub enum Addresses {
    /// The addresses of this host, from the kernel.
    #[default]
    OfThisHost,
    /// Addresses made up for a test.
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
            etc: "/etc".into(),
            addresses: Addresses::default(),
        }
    }
}
