//! Disks in sysfs.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};
use crate::work::disk;
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
    /// The device number, such as `259:0`.
    number: String,
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

    /// Checks that the disk may be written to: it reports the serial number that the user has
    /// named. Without a name there is nothing to check, and nobody writes.
    ///
    /// # Errors
    /// It reports another serial number, or none.
    pub fn check_serial(&self, wanted: Option<&str>) -> Result<()> {
        let Some(wanted) = wanted else {
            return Ok(());
        };
        let node = self.node();
        let node = node.display();
        match &self.serial {
            Some(serial) if serial == wanted => Ok(()),
            Some(serial) => Err(Error::new(format!(
                "{node} has the serial number {serial:?}, and not {wanted:?}; nothing was written \
                 to it"
            ))
            .with_hint("--destroy names the disk by the serial number that --dry-run shows")),
            None => Err(Error::new(format!(
                "{node} reports no serial number, so it cannot be named for writes"
            ))),
        }
    }

    /// A disk for tests.
    #[cfg(test)]
    pub(crate) fn of(name: &str, serial: Option<&str>) -> Self {
        Self {
            name: name.into(),
            id: DiskId {
                wwid: None,
                sectors: 0,
            },
            model: None,
            serial: serial.map(str::to_owned),
            path: PathBuf::new(),
            number: String::new(),
        }
    }

    /// Opens the disk exclusively for direct reads, and for writes too if the user has named it by
    /// its serial number.
    ///
    /// # Errors
    /// It has another serial number, cannot be opened, or is no longer there.
    pub fn open(&self, destroy: Option<&str>) -> Result<File> {
        self.check_serial(destroy)?;
        self.open_node(destroy.is_some())
    }

    /// Opens a disk that this machine's VMM emulates, whose serial number is the VMM's. It is
    /// opened for writes if the host's disk was named for them.
    ///
    /// # Errors
    /// It cannot be opened, or is no longer there.
    pub fn open_emulated(&self, destroy: Option<&str>) -> Result<File> {
        self.open_node(destroy.is_some())
    }

    fn open_node(&self, writes: bool) -> Result<File> {
        let node = self.node();
        let file = disk::open(&node, writes)?;
        self.check_open(Path::new("/sys"), &file)?;
        Ok(file)
    }

    /// Checks that an open node is of this disk. The name may have gone to another disk since it
    /// was looked up; from now on it cannot, because an open disk keeps its name.
    fn check_open(&self, sys: &Path, file: &File) -> Result<()> {
        let node = self.node();
        let node = node.display();
        let opened = file
            .metadata()
            .context(format!("cannot look at {node}"))?
            .rdev();
        let opened = format!("{}:{}", libc::major(opened), libc::minor(opened));
        let now = all(sys)?;
        match now.iter().find(|disk| disk.number == opened) {
            Some(disk) if disk == self => Ok(()),
            _ => Err(Error::new(format!(
                "{node} is another disk than a moment ago"
            ))),
        }
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
        if is_hidden(&path) {
            continue;
        }
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
            serial: serial(&path).map(|text| printable(&text)),
            number: text(&path, "dev").unwrap_or_default(),
            path,
        });
    }
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(disks)
}

/// The disks below a PCI device that the kernel hides. A path of native NVMe multipath is one: it
/// has no node, and the disk of all paths is below none of their devices
/// (Documentation/ABI/stable/sysfs-block, `hidden`). `sys` is /sys.
pub fn hidden(sys: &Path, device: &Path) -> Vec<String> {
    let entries = fs::read_dir(sys.join("block"));
    let entries = entries.into_iter().flatten().flatten();
    let device = fs::canonicalize(device).unwrap_or_else(|_| device.to_owned());
    let mut names: Vec<String> = entries
        .filter(|entry| {
            let path = fs::canonicalize(entry.path());
            path.is_ok_and(|path| path.starts_with(&device) && is_hidden(&path))
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn is_hidden(path: &Path) -> bool {
    text(path, "hidden").as_deref() == Some("1")
}

/// The serial number that a disk reports: NVMe's, virtio-blk's, or that of SCSI and SATA disks
/// (SPC, Unit Serial Number VPD page).
fn serial(path: &Path) -> Option<String> {
    text(path, "device/serial")
        .or_else(|| text(path, "serial"))
        .or_else(|| {
            let page = fs::read(path.join("device/vpd_pg80")).ok()?;
            let (head, rest) = page.split_at_checked(4)?;
            let len = u16::from_be_bytes([*head.get(2)?, *head.get(3)?]);
            let number = rest.get(..usize::from(len))?;
            let number = String::from_utf8_lossy(number);
            let number = number.trim_matches(['\0', ' ']);
            (!number.is_empty()).then(|| number.to_owned())
        })
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

    /// A disk of a fake sysfs, whose node is a character device that every machine has.
    fn fake(name: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let sys = std::env::temp_dir().join(format!("bench-{name}-{}", std::process::id()));
        let disk = sys.join("devices/pci0000:00/0000:00:05.0/nvme/nvme0/null");
        fs::create_dir_all(disk.join("device")).unwrap();
        fs::create_dir_all(sys.join("block")).unwrap();
        for (file, bytes) in files {
            fs::write(disk.join(file), bytes).unwrap();
        }
        symlink(&disk, sys.join("block/null")).unwrap();
        sys
    }

    #[test]
    fn a_node_that_is_another_disk_now_is_refused() {
        let serial: (&str, &[u8]) = ("device/serial", b"S1");
        let sys = fake("node", &[("size", b"8\n"), ("dev", b"1:3\n"), serial]);
        let disk = all(&sys).unwrap().remove(0);
        let null = File::open("/dev/null").unwrap();
        assert!(disk.check_open(&sys, &null).is_ok());
        let zero = File::open("/dev/zero").unwrap();
        let refused = disk.check_open(&sys, &zero).unwrap_err();
        assert!(refused.to_string().contains("another disk"));
        // The same number, but a disk with another serial number has it now.
        let file = sys.join("block/null/device/serial");
        fs::write(file, "S2").unwrap();
        assert!(disk.check_open(&sys, &null).is_err());
        fs::remove_dir_all(&sys).unwrap();
    }

    #[test]
    fn a_path_of_several_is_no_disk() {
        for (name, hidden_is, found) in [("path", &b"1\n"[..], 0), ("whole", b"0\n", 1)] {
            let sys = fake(name, &[("size", b"8\n"), ("hidden", hidden_is)]);
            let device = sys.join("devices/pci0000:00/0000:00:05.0");
            let names = (all(&sys).unwrap().len(), hidden(&sys, &device).len());
            fs::remove_dir_all(&sys).unwrap();
            assert_eq!(names, (found, 1 - found), "{name}");
        }
    }

    #[test]
    fn serial_numbers_are_where_each_kind_of_disk_has_them() {
        let size: (&str, &[u8]) = ("size", b"8");
        for (name, file, bytes, wanted) in [
            ("nvme", "device/serial", &b"S1   \n"[..], Some("S1")),
            ("virtio", "serial", b"V1", Some("V1")),
            (
                "sata",
                "device/vpd_pg80",
                b"\0\x80\0\x06  W1X ",
                Some("W1X"),
            ),
            ("short", "device/vpd_pg80", b"\0\x80\0\x09W1X", None),
            ("empty", "device/vpd_pg80", b"\0\x80\0\x02  ", None),
            ("cut", "device/vpd_pg80", b"\0\x80", None),
        ] {
            let sys = fake(name, &[size, (file, bytes)]);
            let disk = all(&sys).unwrap().remove(0);
            fs::remove_dir_all(&sys).unwrap();
            assert_eq!(disk.serial.as_deref(), wanted, "{name}");
        }
    }

    #[test]
    fn a_disk_is_named_by_its_own_serial_number_alone() {
        let disk = Disk::of("nvme0n1", Some("S1"));
        assert!(disk.check_serial(Some("S1")).is_ok());
        for wrong in ["", "S", "s1", "S1 ", "S11"] {
            let refused = disk.check_serial(Some(wrong)).unwrap_err();
            assert!(
                refused.to_string().contains("nothing was written"),
                "{wrong}"
            );
        }
        let unnamed = Disk::of("nvme0n1", None);
        assert!(unnamed.check_serial(Some("")).is_err());
        assert!(unnamed.check_serial(None).is_ok());
    }
}
