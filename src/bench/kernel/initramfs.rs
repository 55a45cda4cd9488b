//! The archive that the guest boots from: this program as /init, its task, and modules. The format
//! is "newc", uncompressed (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::kernel::unpack;
use crate::work::task::Task;

/// The task's file in the archive.
pub const TASK: &str = "task.json";

/// The directory of the modules in the archive. Their names sort in the order of loading.
pub const MODULES: &str = "modules";

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Makes the archive. `modules` are files of the directory `lists`.
///
/// # Errors
/// A module cannot be read or unpacked.
pub fn make(program: &[u8], task: &Task, lists: &Path, modules: &[PathBuf]) -> Result<Vec<u8>> {
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
    for (number, module) in modules.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{MODULES}/{number:04}-{name}");
        archive.add(&name, FILE, &unpack::module(&lists.join(module))?, (0, 0))?;
    }
    archive.add("TRAILER!!!", 0, b"", (0, 0))?;
    Ok(archive.bytes)
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
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
    use crate::work::task::{DiskId, Engine, Target};

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
            destroy: None,
        };
        let dir = std::env::temp_dir().join(format!("bench-initramfs-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("kernel")).unwrap();
        std::fs::write(dir.join("kernel/nvme.ko"), "module").unwrap();
        let bytes = make(b"program", &task, &dir, &["kernel/nvme.ko".into()]).unwrap();
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
        assert_eq!(size("modules/0000-nvme.ko"), Some(6));
        assert_eq!(size("dev/console"), Some(0));
        assert_eq!(names.last().unwrap().0, "TRAILER!!!");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
