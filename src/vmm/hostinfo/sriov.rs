//! Virtual functions and their physical functions (Documentation/ABI/testing/sysfs-bus-pci:
//! `physfn`, `sriov_totalvfs`).

use std::io;

use crate::hostinfo::sysfs::Sysfs;
use crate::hostinfo::sysfs::link_name;
use pci::Bdf;

impl Sysfs {
    /// The physical function of a virtual function; `None` for any other function.
    ///
    /// # Errors
    /// sysfs cannot be read.
    pub fn physical_function(&self, bdf: Bdf) -> io::Result<Option<Bdf>> {
        let name = link_name(&self.device_path(bdf).join("physfn"))?;
        Ok(name.and_then(|n| n.parse().ok()))
    }

    /// Whether a function can have virtual functions.
    pub fn has_virtual_functions(&self, bdf: Bdf) -> bool {
        self.device_path(bdf).join("sriov_totalvfs").exists()
    }
}
