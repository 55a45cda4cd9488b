//! Builds the programs and the guest of docs/tour that run in L1.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Context, Error, Result};
use crate::{host, vmm};

/// The program that takes a device, one word for each call.
pub fn take() -> Result<PathBuf> {
    vmm::program("tour-vmm", "take")
}

/// The VMM of at most 200 lines.
pub fn own() -> Result<PathBuf> {
    vmm::program("tour-vmm", "own")
}

/// The guests that drive QEMU's teaching device, of docs/tour/guests. Each is made for mini-vmm
/// (`.elf`) and for the VMM of at most 200 lines (`.img`).
pub const GUESTS: [&str; 6] = ["edu", "stray", "pages", "bits", "pin", "messages"];

/// Guests that are made for mini-vmm alone.
const FOR_MINI_VMM: [&str; 5] = ["mark-edu", "mark-nvme", "twice", "stay", "scan"];

/// Assembles all guests, and returns their names with their bytes.
///
/// # Errors
/// The assembler's message.
pub fn guests() -> Result<Vec<(String, Vec<u8>)>> {
    // Several labs may do this at the same time.
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let dir = format!("tour/lab/{}-{number}", process::id());
    let dir = host::target().join(dir);
    let guests = guests_in(&dir);
    host::forget(&dir)?;
    guests
}

fn guests_in(dir: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let names = GUESTS.iter().flat_map(|name| {
        let kinds = ["elf", "img"].into_iter();
        kinds.map(move |kind| (*name, kind))
    });
    let others = FOR_MINI_VMM.iter().map(|name| (*name, "elf"));
    let made = names.chain(others).map(|(name, kind)| {
        let path = guest(dir, name, kind)?;
        let bytes = fs::read(&path).context(format!("read {}", path.display()))?;
        Ok((format!("{name}.{kind}"), bytes))
    });
    made.collect()
}

/// Assembles a guest into a directory.
fn guest(dir: &Path, name: &str, kind: &str) -> Result<PathBuf> {
    let program = dir.join(format!("{name}.{kind}"));
    let tour = host::workspace().join("docs/tour");
    let output = Command::new("sh")
        .arg(tour.join("assemble.sh"))
        .arg(tour.join(format!("guests/{name}.s")))
        .arg(&program)
        .output()
        .context("run sh")?;
    match output.status.success() {
        true => Ok(program),
        false => Err(Error::failed(format!(
            "{name}.s is not assembled:\n{}",
            String::from_utf8_lossy(&output.stderr)
        ))),
    }
}
