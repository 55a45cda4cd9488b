//! The machine whose facts are read.

use std::fs;
use std::path::{Path, PathBuf};

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

    /// The same for an attribute of the device.
    pub(super) fn device(&self, attribute: &str) -> Option<String> {
        self.text(&format!("sys/bus/pci/devices/{}/{attribute}", self.address))
    }

    /// The same for an attribute of the port or bridge above the device.
    pub(super) fn port(&self, attribute: &str) -> Option<String> {
        let device = format!("sys/bus/pci/devices/{}", self.address);
        let device = fs::canonicalize(self.root.join(device)).ok()?;
        let text = fs::read_to_string(device.parent()?.join(attribute)).ok()?;
        Some(text.trim().to_owned())
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
