//! The host whose devices are bound.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use vmm::hostinfo::sysfs::Sysfs;

use crate::bind::driver;
use crate::bind::driver::Driver;
use crate::bind::kernel::{Kernel, Running};
use crate::bind::records::Records;
use crate::paths::HostPaths;

/// This host, or a made-up host for a test.
pub struct Host {
    /// /sys.
    pub sysfs: Sysfs,
    /// /dev, /proc and /lib/modules.
    pub paths: HostPaths,
    /// The records of bound devices.
    pub records: Records,
    /// The kernel that makes the changes.
    pub kernel: Box<dyn Kernel>,
    /// The time for which a command waits for a call of the kernel.
    pub limit: Duration,
}

/// The time for which a command waits for a call of the kernel, if the user gives no other.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(10);

impl Default for Host {
    fn default() -> Self {
        Self {
            sysfs: Sysfs::default(),
            paths: HostPaths::default(),
            records: Records::at("/run/mini-vmm"),
            kernel: Box::new(Running),
            limit: DEFAULT_LIMIT,
        }
    }
}

impl Host {
    /// This host, whose calls are waited for until `limit` is over.
    pub fn with_limit(limit: Duration) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// The directory of a driver in sysfs. The directory exists only if the driver is loaded.
    pub(super) fn driver_path(&self, driver: &str) -> PathBuf {
        self.sysfs.path("bus/pci/drivers").join(driver)
    }

    /// The VFIO driver for a device with this `modalias`, loaded or not.
    pub(super) fn choose(&self, modalias: &str) -> Driver {
        let aliases = self.modules_file("modules.alias");
        driver::choose(modalias, &String::from_utf8_lossy(&aliases))
    }

    /// The host's driver for a device with this `modalias`, if the running kernel has the driver
    /// built in. Kernels before 5.2 have no list of these.
    pub(super) fn built_in(&self, modalias: &str) -> Option<String> {
        driver::built_in(modalias, &self.modules_file("modules.builtin.modinfo"))
    }

    /// A file of the running kernel's modules; empty if there is none.
    fn modules_file(&self, name: &str) -> Vec<u8> {
        let release = fs::read_to_string(self.paths.proc.join("sys/kernel/osrelease"));
        let release = release.unwrap_or_default();
        let folder = self.paths.modules.join(release.trim());
        fs::read(folder.join(name)).unwrap_or_default()
    }
}
