//! Whether a disk may be written to: only if the user has named it by the serial number that the
//! disk reports itself, and what it holds is nothing, or may be erased.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::disks::{self, Disk};
use crate::error::{Context, Error, Result};
use crate::session::device::Device;
use crate::signatures::{self, BLOCK, Signature};
use crate::work::aligned::Aligned;

/// After so many passes a disk still has a signature that was erased: its writes are lost.
const PASSES: usize = 4;

/// The user's permission to write to a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destroy {
    /// The serial number that the user has named.
    pub serial: String,
    /// Whether what the disk holds may be erased.
    pub wipe: bool,
    /// What the disk holds.
    pub found: Vec<Signature>,
}

impl Destroy {
    /// Checks the permission. Nothing is written.
    ///
    /// # Errors
    /// The disk has another serial number or none, or is one of several; or it holds something that
    /// may not be erased, or cannot be read.
    pub fn check(device: &Device, serial: &str, wipe: bool) -> Result<Self> {
        device.disk.check_serial(Some(serial))?;
        let all = disks::all(Path::new("/sys"))?;
        let names: Vec<&str> = all
            .iter()
            .filter(|disk| disk.is_below(&device.path))
            .map(|disk| disk.name.as_str())
            .collect();
        if names.len() != 1 {
            return Err(Error::new(format!(
                "PCI device {} has {} disks ({}), which one serial number does not tell apart; \
                 only a single disk is written to",
                device.address,
                names.len(),
                names.join(", ")
            )));
        }
        let mut file = device.disk.open(None)?;
        let found = look(&mut file)?;
        permit(&device.disk, &found, wipe)?;
        Ok(Self {
            serial: serial.to_owned(),
            wipe,
            found,
        })
    }

    /// Erases what the disk holds, if the user has said so, right before the first turn. `disk` was
    /// looked up anew, and what it holds is looked at once more: both may have changed.
    ///
    /// # Errors
    /// The disk may not be written to, or keeps what was erased.
    pub fn prepare(&self, disk: &Disk) -> Result<()> {
        let mut file = disk.open(Some(&self.serial))?;
        for _ in 0..PASSES {
            let found = look(&mut file)?;
            permit(disk, &found, self.wipe)?;
            if found.is_empty() {
                return Ok(());
            }
            erase(&mut file, &found)?;
        }
        Err(Error::new(format!(
            "{} still holds what was erased on it",
            disk.node().display()
        )))
    }
}

/// Refuses a disk that holds something, unless it may be erased.
fn permit(disk: &Disk, found: &[Signature], wipe: bool) -> Result<()> {
    let partitions = partitions(disk);
    if wipe || (found.is_empty() && partitions.is_empty()) {
        return Ok(());
    }
    let mut holds: Vec<String> = found.iter().map(ToString::to_string).collect();
    holds.extend(
        partitions
            .iter()
            .map(|name| format!("the partition {name}")),
    );
    Err(Error::new(format!(
        "{} holds {}; nothing was written to it",
        disk.node().display(),
        holds.join(", ")
    ))
    .with_hint(format!(
        "wipefs {} shows it; --wipe erases it",
        disk.node().display()
    )))
}

/// The partitions that the kernel has found on the disk.
fn partitions(disk: &Disk) -> Vec<String> {
    let dir = Path::new("/sys/block").join(&disk.name);
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let partitions = entries.filter(|entry| entry.path().join("partition").is_file());
    partitions
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The signatures on a disk.
fn look(file: &mut File) -> Result<Vec<Signature>> {
    let size = size(file)?;
    signatures::find(size, &mut |at| {
        let len = BLOCK.min(size - at);
        let mut buffer = Aligned::new(len as usize);
        file.read_exact_at(buffer.bytes(), at)
            .context(format!("cannot read the disk at {at}"))?;
        Ok(buffer.bytes().to_vec())
    })
}

/// Writes zeros over the signatures alone, as wipefs(8) does.
fn erase(file: &mut File, found: &[Signature]) -> Result<()> {
    let size = size(file)?;
    for signature in found {
        let end = signature.at + signature.len;
        for start in (signature.at / BLOCK * BLOCK..end).step_by(BLOCK as usize) {
            let len = BLOCK.min(size - start);
            let mut buffer = Aligned::new(len as usize);
            let block = buffer.bytes();
            file.read_exact_at(block, start)
                .context(format!("cannot read the disk at {start}"))?;
            let from = signature.at.max(start) - start;
            let to = end.min(start + len) - start;
            block[from as usize..to as usize].fill(0);
            file.write_all_at(block, start)
                .context(format!("cannot write to the disk at {start}"))?;
        }
    }
    file.sync_all().context("cannot flush the disk's cache")
}

fn size(file: &mut File) -> Result<u64> {
    let end = file.seek(SeekFrom::End(0));
    end.context("cannot read the disk's size")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::disk;

    /// A file stands for the disk.
    #[test]
    fn nothing_but_the_signatures_is_erased() {
        let name = format!("destroy-{}", std::process::id());
        let path = std::env::current_exe().unwrap().with_file_name(name);
        let mut bytes = vec![1; 24 << 20];
        bytes[1080..1082].copy_from_slice(&[0x53, 0xef]);
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        let end = bytes.len() - 512;
        bytes[end..end + 8].copy_from_slice(b"EFI PART");
        fs::write(&path, &bytes).unwrap();
        let mut file = disk::open(&path, true).unwrap();
        let found = look(&mut file).unwrap();
        assert_eq!(found.len(), 3, "{found:?}");
        erase(&mut file, &found).unwrap();
        assert!(look(&mut file).unwrap().is_empty());
        bytes[1080..1082].fill(0);
        bytes[510..512].fill(0);
        bytes[end..end + 8].fill(0);
        let same = fs::read(&path).unwrap() == bytes;
        fs::remove_file(&path).unwrap();
        assert!(same);
    }

    #[test]
    fn a_disk_that_holds_something_is_refused_unless_it_may_be_erased() {
        let disk = Disk::of("nodisk", Some("S1"));
        let found = [Signature {
            what: "a swap area",
            at: 4086,
            len: 10,
        }];
        let refused = permit(&disk, &found, false).unwrap_err();
        let said = refused.to_string();
        assert!(
            said.contains("holds a swap area (at byte 4086); nothing"),
            "{said}"
        );
        assert!(refused.hint().unwrap().contains("--wipe"));
        assert!(permit(&disk, &found, true).is_ok() && permit(&disk, &[], false).is_ok());
    }
}
