//! The machine whose facts are read.

use std::fs;
use std::path::{Path, PathBuf};

use host::limited;

/// This machine, or made-up directories for a test.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The directory that has /sys and /proc.
    root: PathBuf,
    /// The device's address.
    pub(super) address: String,
    /// The CPUs of all subjects.
    pub(super) cpus: Vec<usize>,
}

impl Machine {
    /// The machine below `root`, with this device and these CPUs.
    pub fn at(root: &Path, address: &str, cpus: &[usize]) -> Self {
        Self {
            root: root.to_owned(),
            address: address.to_owned(),
            cpus: cpus.to_vec(),
        }
    }

    /// A file's text without the end of its line; `None` if there is no such file, or it is empty.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.root.join(path)).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// The same for an attribute of the device. The kernel may wake the device, or wait for its
    /// reset, so the attribute is read with a limit.
    pub(super) fn device(&self, attribute: &str) -> Option<String> {
        let device = format!("sys/bus/pci/devices/{}", self.address);
        limited(&self.root.join(device).join(attribute))
    }

    /// The same for an attribute of the port or bridge above the device.
    pub(super) fn port(&self, attribute: &str) -> Option<String> {
        let device = format!("sys/bus/pci/devices/{}", self.address);
        let device = fs::canonicalize(self.root.join(device)).ok()?;
        limited(&device.parent()?.join(attribute))
    }

    /// The same for an attribute of a CPU.
    pub(super) fn cpu(&self, cpu: usize, attribute: &str) -> Option<String> {
        self.text(&format!("sys/devices/system/cpu/cpu{cpu}/{attribute}"))
    }

    /// The names in a directory, sorted.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(path));
        let mut names: Vec<String> = entries
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }
}

fn limited(path: &Path) -> Option<String> {
    let text = String::from_utf8(limited::read(path).ok()?).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}
