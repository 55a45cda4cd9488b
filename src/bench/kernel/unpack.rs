//! Compressed modules: distributions pack them with xz, zstd or not at all. The guest's kernel
//! loads them unpacked, because not every kernel can unpack them itself
//! (CONFIG_MODULE_DECOMPRESS).

use std::fs;
use std::io::Read;
use std::path::Path;

use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;

use crate::error::{Context, Error, Result};

/// No module is larger. A damaged file could unpack to any size.
const LARGEST: u64 = 256 << 20;

/// Reads a module, and unpacks it if its name says that it is packed.
///
/// # Errors
/// The file cannot be read, is damaged, or is packed in another way.
pub fn module(path: &Path) -> Result<Vec<u8>> {
    let packed = fs::read(path).context(format!("cannot read {}", path.display()))?;
    let damaged = || format!("cannot unpack {}", path.display());
    match path.extension().and_then(|end| end.to_str()) {
        Some("ko") => Ok(packed),
        Some("xz") => all(XzReader::new(packed.as_slice(), true), damaged),
        Some("zst") => {
            let reader = StreamingDecoder::new(packed.as_slice());
            let reader = reader.map_err(|e| Error::new(format!("{}: {e}", damaged())))?;
            all(reader, damaged)
        }
        _ => Err(Error::new(format!(
            "{} is packed in a way that is not known here",
            path.display()
        ))),
    }
}

fn all(reader: impl Read, damaged: impl Fn() -> String) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = reader.take(LARGEST + 1).read_to_end(&mut bytes);
    read.context(damaged())?;
    match bytes.len() as u64 <= LARGEST {
        true => Ok(bytes),
        false => Err(Error::new(format!("{}: it is too large", damaged()))),
    }
}
