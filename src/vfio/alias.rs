//! A device's directory under another name.
//!
//! VFIO takes a VF token behind the name of a device, `0000:01:00.1 vf_token=UUID`, when the device is
//! asked of its group (drivers/vfio/pci/vfio_pci_core.c, vfio_pci_core_match). vfio-ioctls takes that
//! name from the last part of the device's path, and the group from the directory which the path
//! leads to: so a link that is called so opens the device with its token.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use uuid::Uuid;
use vmm_sys_util::tempdir::TempDir;

/// A link to a device's directory, in a directory of its own that only we can read. It goes when this
/// is dropped, and must be there for as long as the device is open: a run that is killed leaves it.
pub struct Alias {
    /// Taken away, with the link in it, when dropped.
    _dir: TempDir,
    path: PathBuf,
}

impl Alias {
    /// Links to `device`, whose last part is the device's name.
    ///
    /// # Errors
    /// When there is no directory for temporary files that can be written to.
    pub fn with_token(device: &Path, token: Uuid) -> io::Result<Self> {
        let name = device.file_name().unwrap_or_default().to_string_lossy();
        let dir = TempDir::new().map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
        let path = dir
            .as_path()
            .join(format!("{name} vf_token={}", token.hyphenated()));
        symlink(device, &path)?;
        Ok(Self { _dir: dir, path })
    }

    /// The link.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_link_with_the_token_in_its_name() {
        let host = TempDir::new().unwrap();
        let device = host.as_path().join("0000:01:00.1");
        fs::create_dir(&device).unwrap();
        symlink("../groups/7", device.join("iommu_group")).unwrap();
        let token = "BD8D9D2B-5A5F-4F5A-A211-F591514BA1F3".parse().unwrap();
        let alias = Alias::with_token(&device, token).unwrap();
        let path = alias.path().to_path_buf();
        assert_eq!(
            path.file_name().unwrap(),
            "0000:01:00.1 vf_token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3"
        );
        let group = fs::read_link(path.join("iommu_group")).unwrap();
        assert_eq!(group, Path::new("../groups/7"));
        drop(alias);
        assert!(!path.parent().unwrap().exists());
        assert!(device.exists());
    }
}
