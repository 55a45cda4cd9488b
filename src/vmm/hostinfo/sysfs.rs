//! The sysfs tree. Nothing is written.

use std::path::{Path, PathBuf};
use std::{fs, io};

use pci::Bdf;

use crate::hostinfo::name::HostName;

/// The sysfs tree, or an imitation for a test.
#[derive(Clone, Debug)]
pub struct Sysfs {
    root: PathBuf,
}

impl Default for Sysfs {
    fn default() -> Self {
        Self {
            root: "/sys".into(),
        }
    }
}

impl Sysfs {
    /// A tree in another directory than /sys.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The root directory of the tree.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// A path in the tree.
    pub fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// The file with the running kernel's release.
    pub fn kernel_release(&self) -> PathBuf {
        // Beside /sys, as /proc is.
        let proc = self.root.parent().unwrap_or(&self.root).join("proc");
        proc.join("sys/kernel/osrelease")
    }

    /// The directory of a PCI device, whether the device exists or not.
    pub fn device_path(&self, bdf: Bdf) -> PathBuf {
        self.root.join("bus/pci/devices").join(bdf.to_string())
    }

    /// The directory of a PCI device or mediated device, whether the device exists or not.
    pub fn path_of(&self, name: HostName) -> PathBuf {
        match name {
            HostName::Pci(bdf) => self.device_path(bdf),
            HostName::Mediated(uuid) => self.mediated_path(uuid),
        }
    }
}

/// The addresses by which the entries of a directory are named.
pub(super) fn addresses_in(dir: &Path) -> io::Result<Vec<Bdf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        found.extend(
            entry?
                .file_name()
                .to_str()
                .and_then(|n| n.parse::<Bdf>().ok()),
        );
    }
    Ok(found)
}

/// The last component of a link's target; `None` if there is no link.
pub fn link_name(link: &Path) -> io::Result<Option<String>> {
    match fs::read_link(link) {
        Ok(target) => Ok(target.file_name().map(|n| n.to_string_lossy().into_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
