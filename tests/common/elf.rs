//! The files that guests boot from.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::asm::BASE;
use super::kernels::Elf;

/// An ELF image with a PVH note around a guest's code, which is loaded and entered at [`BASE`].
pub fn image(code: &[u8]) -> Vec<u8> {
    Elf {
        address: BASE.into(),
        content: code,
        in_memory: code.len() as u64,
        pvh_entry: Some(&u64::from(BASE).to_le_bytes()),
    }
    .image()
}

/// A file that is gone when dropped.
pub struct TempFile(PathBuf);

impl TempFile {
    pub fn new(content: &[u8]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mini-vmm-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, content).expect("a temporary file can be written");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
