//! What the disk of a turn holds: before any subject writes, there must be nothing that is known.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use crate::error::{Context, Error, Result};
use crate::signatures::{self, BLOCK, Signature};
use crate::work::aligned::Aligned;

/// The signatures on an open disk.
///
/// # Errors
/// The disk cannot be read.
pub fn look(file: &File) -> Result<Vec<Signature>> {
    let size = size(file)?;
    signatures::find(size, &mut |at| {
        let len = BLOCK.min(size - at);
        let mut buffer = Aligned::new(len as usize);
        file.read_exact_at(buffer.bytes(), at)
            .context(format!("cannot read the disk at {at}"))?;
        Ok(buffer.bytes().to_vec())
    })
}

/// The size of an open disk.
///
/// # Errors
/// The kernel does not say it.
pub fn size(mut file: &File) -> Result<u64> {
    let end = file.seek(SeekFrom::End(0));
    end.context("cannot read the disk's size")
}

/// Checks right before the writes of a turn that the disk holds nothing. All signatures were erased
/// before the first turn, and no subject writes one. So what is there now is somebody else's: the
/// disk was nobody's between two turns.
///
/// # Errors
/// The disk holds something, or cannot be read.
pub(super) fn nothing(file: &File) -> Result<()> {
    let found = look(file)?;
    if found.is_empty() {
        return Ok(());
    }
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    Err(Error::new(format!(
        "the disk holds {}, which somebody else has written to it since the run began; this turn \
         has written nothing",
        found.join(", ")
    ))
    .with_hint("measure a disk that nobody else uses"))
}
