//! Disks in sysfs.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};
use crate::work::task::DiskId;

/// A disk or NVMe namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its name, such as `nvme0n1`.
    pub name: String,
    /// What it is known by.
    pub id: DiskId,
    /// Its model, if the kernel has one.
    pub model: Option<String>,
    /// Its serial number, if the kernel has one.
    pub serial: Option<String>,
    /// Its directory below that of its device.
    path: PathBuf,
}

impl Disk {
    /// Its node.
    pub fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// Whether this is the disk with this identity. A disk without an identifier is known by its
    /// size alone.
    pub fn is(&self, id: &DiskId) -> bool {
        self.id == *id
    }

    /// Whether the disk is below a device's directory.
    pub fn is_below(&self, device: &Path) -> bool {
        fs::canonicalize(device).is_ok_and(|device| self.path.starts_with(device))
    }
}

/// All disks that are below a PCI device, in order of name. `sys` is /sys.
///
/// # Errors
/// sysfs cannot be read.
pub fn all(sys: &Path) -> Result<Vec<Disk>> {
    let blocks = sys.join("block");
    let mut disks = Vec::new();
    let entries = match fs::read_dir(&blocks) {
        Ok(entries) => entries,
        // A kernel has the directory from its first disk on.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(disks),
        Err(e) => return Err(e).context(format!("cannot read {}", blocks.display())),
    };
    for entry in entries.flatten() {
        let Ok(path) = fs::canonicalize(entry.path()) else {
            continue;
        };
        let below_pci = path
            .components()
            .any(|part| part.as_os_str().to_string_lossy().starts_with("pci"));
        let sectors = text(&path, "size").and_then(|size| size.parse().ok());
        let (true, Some(sectors)) = (below_pci, sectors) else {
            continue;
        };
        disks.push(Disk {
            name: entry.file_name().to_string_lossy().into_owned(),
            id: DiskId {
                wwid: text(&path, "wwid").or_else(|| text(&path, "device/wwid")),
                sectors,
            },
            model: text(&path, "device/model").map(|text| printable(&text)),
            serial: text(&path, "device/serial").map(|text| printable(&text)),
            path,
        });
    }
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(disks)
}

fn text(dir: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(dir.join(name)).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Escapes what a terminal would take for a command: a device says what it likes.
fn printable(text: &str) -> String {
    let escape = |c: char| match c.is_control() {
        true => c.escape_default().collect::<String>(),
        false => c.into(),
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_disks_of_pci_devices_are_found() {
        let sys = std::env::temp_dir().join(format!("bench-disks-{}", std::process::id()));
        assert!(all(&sys).unwrap().is_empty());
        fs::create_dir_all(sys.join("block")).unwrap();
        for (name, at, wwid) in [
            (
                "nvme0n1",
                "devices/pci0000:00/0000:00:05.0/nvme/nvme0/nvme0n1",
                "eui.1",
            ),
            ("loop0", "devices/virtual/block/loop0", ""),
        ] {
            let dir = sys.join(at);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("size"), "4096\n").unwrap();
            fs::write(dir.join("wwid"), wwid).unwrap();
            fs::create_dir(dir.join("device")).unwrap();
            fs::write(dir.join("device/serial"), " S\x1b[2J \n").unwrap();
            symlink(&dir, sys.join("block").join(name)).unwrap();
        }
        let found = all(&sys).unwrap();
        assert_eq!(found.len(), 1);
        let disk = &found[0];
        assert_eq!(disk.node(), Path::new("/dev/nvme0n1"));
        assert_eq!(disk.id.wwid.as_deref(), Some("eui.1"));
        assert_eq!(disk.serial.as_deref(), Some("S\\u{1b}[2J"));
        assert!(disk.is(&DiskId {
            wwid: Some("eui.1".into()),
            sectors: 4096
        }));
        assert!(!disk.is(&DiskId {
            wwid: None,
            sectors: 4096
        }));
        assert!(disk.is_below(&sys.join("devices/pci0000:00/0000:00:05.0")));
        assert!(!disk.is_below(&sys.join("devices/pci0000:00/0000:00:06.0")));
        fs::remove_dir_all(&sys).unwrap();
    }
}
