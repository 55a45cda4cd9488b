//! A device's configuration space as the hardware has it, from sysfs. VFIO unlinks each capability
//! that it does not know, but passes the bytes; only the hardware's own chains tell where they are.

use std::io;
use std::path::Path;

use pci::Bdf;

use crate::hostinfo::sysfs::Sysfs;

/// Reads the configuration space. sysfs shows root all of it, and others the first 64 bytes. A
/// mediated device has none. `read` reads a file with a time limit: the kernel lets a reader of
/// this one wait for a reset of the device.
pub(super) fn read(
    sysfs: &Sysfs,
    name: &str,
    read: impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> Vec<u8> {
    let Ok(bdf) = name.parse::<Bdf>() else {
        return Vec::new();
    };
    // Without the file the chains are not known, and the policy is the stricter one.
    read(&sysfs.device_path(bdf).join("config")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    #[test]
    fn only_a_pci_device_has_a_file() {
        let from = |path: &Path| fs::read(path);
        let dir = TempDir::new().unwrap();
        let sysfs = Sysfs::at(dir.as_path());
        let name = "0000:01:00.0";
        assert!(read(&sysfs, name, from).is_empty());
        let device = sysfs.device_path(name.parse().unwrap());
        fs::create_dir_all(&device).unwrap();
        fs::write(device.join("config"), [7; 64]).unwrap();
        assert_eq!(read(&sysfs, name, from), [7; 64]);
        assert!(read(&sysfs, "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", from).is_empty());
    }
}
