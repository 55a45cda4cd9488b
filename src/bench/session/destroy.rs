//! Whether a disk may be written to: only if the user has named it by the serial number that the
//! disk reports itself, and what it holds is nothing, or may be erased.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::disks::{self, Disk};
use crate::error::{Context, Error, Result};
use crate::session::device::Device;
use crate::signatures::{BLOCK, Signature};
use crate::work::aligned::Aligned;
use crate::work::holds::{look, size};

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
        let disk = device.disk().ok_or_else(|| {
            let address = &device.address;
            Error::new(format!(
                "--destroy names a disk, and PCI device {address} is none"
            ))
        })?;
        disk.check_serial(Some(serial))?;
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
        let found = look(&disk.open(None)?)?;
        permit(disk, &found, &partitions(disk), wipe)?;
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
        let file = disk.open(Some(&self.serial))?;
        let mut found = look(&file)?;
        permit(disk, &found, &partitions(disk), self.wipe)?;
        for _ in 0..PASSES {
            if found.is_empty() {
                return Ok(());
            }
            erase(&file, &found)?;
            found = look(&file)?;
        }
        Err(Error::new(format!(
            "{} still holds what was erased on it",
            disk.node().display()
        )))
    }
}

/// Refuses a disk that holds something, unless it may be erased. Partitions of a table that is not
/// known cannot be erased.
fn permit(disk: &Disk, found: &[Signature], partitions: &[String], wipe: bool) -> Result<()> {
    let has_table = found.iter().any(Signature::is_partition_table);
    if (wipe && has_table) || partitions.is_empty() && (wipe || found.is_empty()) {
        return Ok(());
    }
    let node = disk.node();
    let node = node.display();
    let mut holds: Vec<String> = found.iter().map(ToString::to_string).collect();
    let partitions = partitions.iter();
    holds.extend(partitions.map(|name| format!("the partition {name}")));
    let holds = holds.join(", ");
    Err(match wipe {
        false => Error::new(format!("{node} holds {holds}; nothing was written to it"))
            .with_hint(format!("wipefs {node} shows it; --wipe erases it")),
        true => Error::new(format!(
            "{node} holds {holds}, and no partition table that --wipe knows; nothing was written \
             to it"
        ))
        .with_hint(format!(
            "erase the table with the tool that made it; if it is gone already: blockdev \
             --rereadpt {node}"
        )),
    })
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

/// Writes zeros over the signatures alone, as wipefs(8) does.
fn erase(file: &File, found: &[Signature]) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signatures;
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
        let file = disk::open(&path, true).unwrap();
        let found = look(&file).unwrap();
        assert_eq!(found.len(), 3, "{found:?}");
        erase(&file, &found).unwrap();
        assert!(look(&file).unwrap().is_empty());
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
        let refused = permit(&disk, &found, &[], false).unwrap_err();
        let said = refused.to_string();
        assert!(
            said.contains("holds a swap area (at byte 4086); nothing"),
            "{said}"
        );
        assert!(refused.hint().unwrap().contains("--wipe"));
        assert!(permit(&disk, &found, &[], true).is_ok());
        assert!(permit(&disk, &[], &[], false).is_ok());
    }

    #[test]
    fn partitions_are_erased_only_with_a_table_that_is_known() {
        let disk = Disk::of("nodisk", Some("S1"));
        let found = |at, bytes: &'static [u8]| {
            let found = signatures::find(1 << 20, &mut |start| {
                let mut block = vec![0; BLOCK as usize];
                if start == 0 {
                    block[at..at + bytes.len()].copy_from_slice(bytes);
                }
                Ok(block)
            });
            found.unwrap()
        };
        let partitions = ["nodiskp1".to_owned()];
        let table = found(512, b"EFI PART");
        assert!(permit(&disk, &table, &partitions, true).is_ok());
        let unknown = [Vec::new(), found(0, b"XFSB")];
        for found in unknown {
            let refused = permit(&disk, &found, &partitions, true).unwrap_err();
            assert!(
                refused
                    .to_string()
                    .contains("the partition nodiskp1, and no")
            );
            assert!(refused.hint().unwrap().contains("--rereadpt /dev/nodisk"));
        }
        let refused = permit(&disk, &table, &partitions, false).unwrap_err();
        assert!(refused.hint().unwrap().contains("--wipe erases it"));
    }
}
