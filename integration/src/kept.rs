//! Files of L1 that are too large for its serial port: L1 leaves them on a disk.

use std::collections::HashMap;

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::outcome::Outcome;

/// The shell function that keeps files, on the NVMe disk at 00:06.0.
pub const KEEP: &str = "\
# keep FILE...: leaves files on the lab's disk, and reports their names and sizes in order.
keep() {
	for file in \"$@\"; do
		say \"kept $(basename \"$file\") $(wc -c <\"$file\")\"
	done
	cat \"$@\" | dd of=$(disk_of 0000:00:06.0) bs=64k conv=fsync 2>/dev/null
	say written
}
";

/// What L1 has kept.
#[derive(Debug)]
pub struct Files(HashMap<String, Vec<u8>>);

impl Files {
    /// The files on this disk.
    ///
    /// # Errors
    /// L1 has not kept all files whole.
    pub fn of(outcome: &Outcome, disk: &Disk) -> Result<Self> {
        let image = outcome.image(disk.serial);
        let bytes = std::fs::read(&image)
            .map_err(|error| Error::failed(format!("read {}: {error}", image.display())))?;
        let mut rest = bytes.as_slice();
        let mut files = HashMap::new();
        for line in outcome.transcript.lab("kept") {
            let size = line.split_once(' ').and_then(|(name, size)| {
                let (file, after) = rest.split_at_checked(size.parse().ok()?)?;
                rest = after;
                files
                    .insert(name.to_string(), file.to_vec())
                    .map_or(Some(()), |_| None)
            });
            size.ok_or_else(|| Error::failed(format!("a file does not fit: {line}")))?;
        }
        match outcome.transcript.lab("written").next() {
            Some(_) => Ok(Self(files)),
            None => Err(Error::failed("L1 has kept no files")),
        }
    }

    /// A file as text.
    ///
    /// # Errors
    /// L1 has kept no such text.
    pub fn text(&self, name: &str) -> Result<String> {
        let bytes = self.0.get(name).cloned();
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        text.ok_or_else(|| Error::failed(format!("L1 has kept no text {name}")))
    }
}
