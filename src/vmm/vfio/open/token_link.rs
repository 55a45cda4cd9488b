//! A device's directory under another name.
//!
//! VFIO takes a VF token behind the name of a device, `0000:01:00.1 vf_token=UUID`, when the device is
//! asked of its group (drivers/vfio/pci/vfio_pci_core.c, vfio_pci_core_match). vfio-ioctls takes that
//! name from the last part of the device's path, and the group from the directory which the path
//! leads to: so a link that is called so opens the device with its token.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::{env, io};

use uuid::Uuid;
use vmm_sys_util::tempdir::TempDir;

/// A name for a device's directory, which leads there while it is [shown](Alias::show).
pub struct Alias {
    device: PathBuf,
    path: PathBuf,
}

/// A link, in a directory of its own that only we can read. Both go when this is dropped; a run that
/// is killed before leaves them.
pub struct Shown<'a>(&'a Alias);

impl Alias {
    /// A name that nobody has for `device`, whose last part is the device's own.
    ///
    /// # Errors
    /// When there is no directory for temporary files that can be written to.
    pub fn with_token(device: &Path, token: Uuid) -> io::Result<Self> {
        let name = device.file_name().unwrap_or_default().to_string_lossy();
        // Made to have its name, and removed.
        let dir = TempDir::new_with_prefix(env::temp_dir().join("mini-vmm-"))
            .map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
        let path = dir
            .as_path()
            .join(format!("{name} vf_token={}", token.hyphenated()));
        Ok(Self {
            device: device.into(),
            path,
        })
    }

    /// The link's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the link: for the time in which somebody looks at it.
    ///
    /// # Errors
    /// When it cannot be made, or somebody has made something else there.
    pub fn show(&self) -> io::Result<Shown<'_>> {
        if let Some(dir) = self.path.parent() {
            DirBuilder::new().mode(0o700).create(dir)?;
        }
        let shown = Shown(self);
        symlink(&self.device, &self.path)?;
        Ok(shown)
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0.path);
        let _ = self.0.path.parent().map(fs::remove_dir);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_link_with_the_token_in_its_name() {
        let host = TempDir::new().unwrap();
        let device = host.as_path().join("0000:01:00.1");
        fs::create_dir(&device).unwrap();
        symlink("../groups/7", device.join("iommu_group")).unwrap();
        let token = "BD8D9D2B-5A5F-4F5A-A211-F591514BA1F3".parse().unwrap();
        let alias = Alias::with_token(&device, token).unwrap();
        let path = alias.path();
        assert_eq!(
            path.file_name().unwrap(),
            "0000:01:00.1 vf_token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3"
        );
        let dir = path.parent().unwrap();
        assert!(!dir.exists());
        for _ in ["to open", "to close"] {
            let shown = alias.show().unwrap();
            let group = fs::read_link(path.join("iommu_group")).unwrap();
            assert_eq!(group, Path::new("../groups/7"));
            let mode = fs::metadata(dir).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
            // It is there already.
            assert!(alias.show().is_err() && path.exists());
            drop(shown);
            assert!(!dir.exists() && device.exists());
        }
        // Somebody else's: it stays, and is not used.
        fs::create_dir(dir).unwrap();
        assert!(alias.show().is_err());
        fs::remove_dir(dir).unwrap();
    }
}
