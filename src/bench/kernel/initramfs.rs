//! The archive that the guest boots from: this program as /init, its task, modules, and their
//! firmware. The format is "newc", uncompressed
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::kernel::{firmware, unpack};
use crate::work::task::Task;

/// The task's file in the archive.
pub const TASK: &str = "task.json";

/// The directory of the modules in the archive. Their names sort in the order of loading.
pub const MODULES: &str = "modules";

/// The directory of firmware, for the host's kernel and the guest's.
const FIRMWARE: &str = "lib/firmware";

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// The kernel's modules that the guest gets.
#[derive(Clone, Copy, Debug)]
pub struct Modules<'a> {
    /// The root directory of the host.
    pub root: &'a Path,
    /// The kernel's release.
    pub release: &'a str,
    /// The directory of the kernel's lists and modules.
    pub lists: &'a Path,
    /// The modules' files there, in the order of loading.
    pub files: &'a [PathBuf],
}

/// Makes the archive.
///
/// # Errors
/// A module or its firmware cannot be read or unpacked.
pub fn make(program: &[u8], task: &Task, modules: Modules<'_>) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys", MODULES] {
        archive.add(directory, DIRECTORY, b"", (0, 0))?;
    }
    // The kernel opens the console for /init before devtmpfs is mounted (Documentation/filesystems/
    // ramfs-rootfs-initramfs.rst).
    archive.add("dev/console", CHARACTER_DEVICE, b"", (5, 1))?;
    archive.add("init", PROGRAM, program, (0, 0))?;
    let task = serde_json::to_vec(task).map_err(|e| Error::new(format!("the task: {e}")))?;
    archive.add(TASK, FILE, &task, (0, 0))?;
    let mut asked = BTreeSet::new();
    for (number, module) in modules.files.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{MODULES}/{number:04}-{name}");
        let module = unpack::module(&modules.lists.join(module))?;
        archive.add(&name, FILE, &module, (0, 0))?;
        asked.extend(firmware::names(&module));
    }
    archive.add_firmware(&modules, &asked)?;
    archive.add("TRAILER!!!", 0, b"", (0, 0))?;
    Ok(archive.bytes)
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds what the host has of the firmware that modules have asked for.
    fn add_firmware(&mut self, modules: &Modules<'_>, names: &BTreeSet<String>) -> Result<()> {
        let directory = modules.root.join(FIRMWARE);
        let mut made = BTreeSet::new();
        for name in names {
            let Some(file) = firmware::find(&directory, modules.release, name) else {
                continue;
            };
            let path = Path::new(FIRMWARE).join(name);
            let parents: Vec<_> = path.ancestors().skip(1).collect();
            // The last ancestor is empty. A directory comes before what is in it.
            for parent in parents.iter().rev().skip(1) {
                if made.insert(parent.to_path_buf()) {
                    self.add(&parent.to_string_lossy(), DIRECTORY, b"", (0, 0))?;
                }
            }
            let data = unpack::firmware(&file)?;
            self.add(&path.to_string_lossy(), FILE, &data, (0, 0))?;
        }
        Ok(())
    }

    fn add(&mut self, name: &str, mode: u32, data: &[u8], device: (u32, u32)) -> Result<()> {
        self.entries += 1;
        let size = u32::try_from(data.len());
        let size = size.map_err(|_| Error::new(format!("{name} is too large for a guest")))?;
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let links = if mode == DIRECTORY { 2 } else { 1 };
        // Inode, mode, owner, group, links, time, size; the numbers of the file system and of the
        // device; size of the name, checksum.
        let fields = [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            device.0,
            device.1,
            name_size,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::task::{DiskId, Engine, FunctionId, Target};

    #[test]
    fn the_archive_has_the_layout_of_newc() {
        let task = Task {
            works: Vec::new(),
            warm_up_ms: 1,
            measure_ms: 2,
            engine: Engine::Threads,
            target: Target::Disk(DiskId {
                wwid: None,
                sectors: 3,
            }),
            function: FunctionId::default(),
            destroy: None,
        };
        let dir = std::env::temp_dir().join(format!("bench-initramfs-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("kernel")).unwrap();
        std::fs::create_dir_all(dir.join("lib/firmware/maker")).unwrap();
        std::fs::write(dir.join("lib/firmware/maker/a.fw"), "firmware").unwrap();
        let module = b"module\0firmware=maker/a.fw\0firmware=maker/absent.fw\0";
        std::fs::write(dir.join("kernel/nvme.ko"), module).unwrap();
        let modules = Modules {
            root: &dir,
            release: "6.1",
            lists: &dir,
            files: &["kernel/nvme.ko".into()],
        };
        let bytes = make(b"program", &task, modules).unwrap();
        let mut names = Vec::new();
        let mut at = 0;
        // Each header is six letters and thirteen numbers of eight digits; the name follows.
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |index: usize| {
                let from = at + 6 + 8 * index;
                let digits = std::str::from_utf8(&bytes[from..from + 8]).unwrap();
                usize::from_str_radix(digits, 16).unwrap()
            };
            let (size, name_size) = (field(6), field(11));
            let name = &bytes[at + 110..at + 110 + name_size - 1];
            names.push((String::from_utf8(name.to_vec()).unwrap(), size));
            at = (at + 110 + name_size).next_multiple_of(4) + size.next_multiple_of(4);
        }
        assert_eq!(at, bytes.len());
        let size = |name: &str| names.iter().find(|(n, _)| n == name).map(|(_, size)| *size);
        assert_eq!(size("init"), Some(7));
        assert_eq!(size("modules/0000-nvme.ko"), Some(module.len()));
        let firmware: Vec<_> = names.iter().filter(|(n, _)| n.starts_with("lib")).collect();
        let expected = [("lib", 0), ("lib/firmware", 0), ("lib/firmware/maker", 0)];
        let expected = expected.into_iter().chain([("lib/firmware/maker/a.fw", 8)]);
        assert!(firmware.iter().map(|(n, s)| (n.as_str(), *s)).eq(expected));
        assert_eq!(size("dev/console"), Some(0));
        assert_eq!(names.last().unwrap().0, "TRAILER!!!");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
