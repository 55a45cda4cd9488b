//! An ELF image with a PVH note around a guest's code (System V ABI, "Object Files"; Xen,
//! docs/misc/pvh.pandoc).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::asm::BASE;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
const HEADERS: usize = 64 + 2 * 56;

/// The image of `code`, which is loaded and entered at [`BASE`].
pub fn image(code: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    // Lengths of name and content, type, name, content.
    for word in [4, 8, XEN_ELFNOTE_PHYS32_ENTRY] {
        note.extend_from_slice(&word.to_le_bytes());
    }
    note.extend_from_slice(b"Xen\0");
    note.extend_from_slice(&u64::from(BASE).to_le_bytes());

    let mut image = b"\x7fELF\x02\x01\x01".to_vec();
    image.resize(16, 0);
    image.extend_from_slice(&2u16.to_le_bytes()); // executable
    image.extend_from_slice(&62u16.to_le_bytes()); // x86-64
    image.extend_from_slice(&1u32.to_le_bytes()); // version
    for word in [u64::from(BASE), 64, 0] {
        image.extend_from_slice(&word.to_le_bytes()); // entry, program and section headers
    }
    image.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, 2, 0, 0, 0] {
        image.extend_from_slice(&half.to_le_bytes());
    }
    let code_at = HEADERS + note.len();
    program_header(&mut image, PT_NOTE, HEADERS, 0, note.len());
    program_header(&mut image, PT_LOAD, code_at, BASE, code.len());
    image.extend_from_slice(&note);
    image.extend_from_slice(code);
    image
}

fn program_header(image: &mut Vec<u8>, kind: u32, offset: usize, address: u32, size: usize) {
    image.extend_from_slice(&kind.to_le_bytes());
    image.extend_from_slice(&7u32.to_le_bytes());
    let (address, size) = (u64::from(address), size as u64);
    for word in [offset as u64, address, address, size, size, 4] {
        image.extend_from_slice(&word.to_le_bytes());
    }
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
