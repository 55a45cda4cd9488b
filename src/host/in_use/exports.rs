//! Disks that the kernel's targets export to other machines. A target opens a disk without a
//! holder in sysfs; configfs has the path that the administrator gave
//! (drivers/nvme/target/configfs.c, Documentation/target/).

use std::io;
use std::path::PathBuf;

use vmm::hostinfo::sysfs::Sysfs;

use crate::in_use::lookup::{names, text};

/// A path that a target exports.
pub(super) struct Export {
    /// The path, as the administrator gave it.
    pub(super) path: String,
    /// The directory in configfs.
    pub(super) by: PathBuf,
}

/// All that the NVMe target exports now, and all that the SCSI target has.
pub(super) fn all(sysfs: &Sysfs) -> io::Result<Vec<Export>> {
    let mut all = Vec::new();
    let mut add = |by: PathBuf, file: &str| -> io::Result<()> {
        let path = text(&by.join(file))?.trim().to_owned();
        if !path.is_empty() {
            all.push(Export { path, by });
        }
        Ok(())
    };
    let subsystems = sysfs.path("kernel/config/nvmet/subsystems");
    for subsystem in names(&subsystems)? {
        let namespaces = subsystems.join(subsystem).join("namespaces");
        for namespace in names(&namespaces)? {
            let namespace = namespaces.join(namespace);
            if text(&namespace.join("enable"))?.trim() == "1" {
                add(namespace, "device_path")?;
            }
        }
    }
    let core = sysfs.path("kernel/config/target/core");
    for adapter in names(&core)? {
        let adapter = core.join(adapter);
        for device in names(&adapter)? {
            let device = adapter.join(device);
            // The adapter's own files are beside its devices.
            if device.is_dir() {
                add(device, "udev_path")?;
            }
        }
    }
    Ok(all)
}
