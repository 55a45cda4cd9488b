//! The file behind a made-up device's BARs.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

/// A file of `size` bytes without a name.
pub fn file(size: u64) -> io::Result<File> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("mini-vmm-device-{}-{number}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    fs::remove_file(&path)?;
    file.set_len(size)?;
    Ok(file)
}
