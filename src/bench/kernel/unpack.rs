//! Compressed modules and firmware: distributions pack them with xz, zstd or not at all. The guest
//! gets them unpacked, because not every kernel can unpack them itself (CONFIG_MODULE_DECOMPRESS,
//! CONFIG_FW_LOADER_COMPRESS).

use std::fs;
use std::io::Read;
use std::path::Path;

use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;

use crate::error::{Context, Error, Result};

/// No file is larger. A damaged file could unpack to any size.
const LARGEST: u64 = 256 << 20;

/// Reads a module, and unpacks it if its name says that it is packed.
///
/// # Errors
/// The file cannot be read, is damaged, or is packed in another way.
pub fn module(path: &Path) -> Result<Vec<u8>> {
    match path.extension().and_then(|end| end.to_str()) {
        Some("ko" | "xz" | "zst") => firmware(path),
        _ => Err(Error::new(format!(
            "{} is packed in a way that is not known here",
            path.display()
        ))),
    }
}

/// Reads a firmware file, and unpacks it if its name says that it is packed.
///
/// # Errors
/// The file cannot be read, or is damaged.
pub fn firmware(path: &Path) -> Result<Vec<u8>> {
    let packed = fs::read(path).context(format!("cannot read {}", path.display()))?;
    let damaged = || format!("cannot unpack {}", path.display());
    match path.extension().and_then(|end| end.to_str()) {
        Some("xz") => all(XzReader::new(packed.as_slice(), true), damaged),
        Some("zst") => {
            let reader = StreamingDecoder::new(packed.as_slice());
            let reader = reader.map_err(|e| Error::new(format!("{}: {e}", damaged())))?;
            all(reader, damaged)
        }
        _ => Ok(packed),
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

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a module\n";

    /// `xz --check=crc32 --lzma2=dict=1MiB`, as the kernel's scripts/Makefile.modinst has it, of
    /// forty times the text.
    const XZ: [u8; 80] = [
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x01, 0x69, 0x22, 0xde, 0x36, 0x02, 0x00, 0x21,
        0x01, 0x10, 0x00, 0x00, 0x00, 0xa8, 0x70, 0x8e, 0x86, 0xe0, 0x01, 0x67, 0x00, 0x12, 0x5d,
        0x00, 0x30, 0x88, 0x09, 0xa7, 0x33, 0xa9, 0x42, 0x8c, 0x5a, 0xd5, 0xdc, 0xe8, 0x51, 0x3a,
        0x56, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00, 0x2f, 0x7a, 0x9a, 0x26, 0x00, 0x01, 0x2a, 0xe8,
        0x02, 0x00, 0x00, 0x00, 0x18, 0xb6, 0xcf, 0xd7, 0x3e, 0x30, 0x0d, 0x8b, 0x02, 0x00, 0x00,
        0x00, 0x00, 0x01, 0x59, 0x5a,
    ];

    /// `zstd` of the same.
    const ZST: [u8; 30] = [
        0x28, 0xb5, 0x2f, 0xfd, 0x64, 0x68, 0x00, 0x85, 0x00, 0x00, 0x48, 0x61, 0x20, 0x6d, 0x6f,
        0x64, 0x75, 0x6c, 0x65, 0x0a, 0x01, 0x00, 0x5c, 0x54, 0xcb, 0x11, 0x64, 0x5c, 0xcc, 0x09,
    ];

    #[test]
    fn modules_are_unpacked_by_their_names() {
        let dir = std::env::temp_dir().join(format!("bench-unpack-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let text = TEXT.repeat(40);
        let unpack = |name: &str, bytes: &[u8]| {
            let path = dir.join(name);
            fs::write(&path, bytes).unwrap();
            module(&path)
        };
        for (name, bytes) in [
            ("a.ko", text.as_bytes()),
            ("a.ko.xz", &XZ),
            ("a.ko.zst", &ZST),
        ] {
            assert_eq!(unpack(name, bytes).unwrap(), text.as_bytes(), "{name}");
        }
        for (name, bytes) in [
            ("a.ko.xz", &XZ[..50]),
            ("a.ko.zst", &ZST[..20]),
            ("a.ko.zst", &XZ),
            ("a.ko.gz", text.as_bytes()),
        ] {
            let error = unpack(name, bytes).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        fs::write(dir.join("a.bin"), "plain").unwrap();
        assert_eq!(firmware(&dir.join("a.bin")).unwrap(), b"plain");
        assert!(firmware(&dir.join("a.ko.zst")).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
