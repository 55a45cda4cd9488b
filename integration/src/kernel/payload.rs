//! Unpacks the ELF kernel inside of a bzImage. The header of the boot protocol has the payload's
//! offset and length (Documentation/arch/x86/boot.rst, setup_sects, payload_offset,
//! payload_length); the payload's first bytes tell its format.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::error::{Context, Error, Result};

const SETUP_SECTS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// The first bytes of each format, and the command that unpacks the format.
const FORMATS: [(&[u8], &[&str]); 6] = [
    (b"\x28\xb5\x2f\xfd", &["zstd", "-dc"]),
    (b"\xfd7zXZ\0", &["xz", "-dc", "--single-stream"]),
    (b"\x1f\x8b", &["gzip", "-dc"]),
    (b"\x02\x21\x4c\x18", &["lz4", "-dc"]),
    (b"BZh", &["bzip2", "-dc"]),
    (b"\x5d\0\0", &["xz", "-dc", "--format=lzma"]),
];

/// Returns the ELF kernel.
pub fn unpack(image: &[u8]) -> Result<Vec<u8>> {
    let packed = find(image)?;
    if packed.starts_with(b"\x7fELF") {
        return Ok(packed.to_vec());
    }
    let (_, tool) = FORMATS
        .iter()
        .find(|(magic, _)| packed.starts_with(magic))
        .ok_or_else(|| Error::failed("the kernel inside of the bzImage has an unknown format"))?;
    let mut child = Command::new(tool[0])
        .args(&tool[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context(format!("run {} to unpack the kernel", tool[0]))?;
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let input = packed.to_vec();
    // A tool may stop reading at the end of its stream, before the end of the payload.
    let feeder = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child
        .wait_with_output()
        .context(format!("read what {} unpacks", tool[0]))?;
    let _ = feeder.join();
    // The last four bytes are the unpacked size. Some tools fail on them as trailing garbage, so
    // the exit status is ignored, and the size of the output is checked.
    let size = packed
        .last_chunk::<4>()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes));
    if output.stdout.starts_with(b"\x7fELF") && output.stdout.len() == size as usize {
        Ok(output.stdout)
    } else {
        Err(Error::failed(format!(
            "{} unpacked {} bytes of the kernel's {size}",
            tool[0],
            output.stdout.len()
        )))
    }
}

fn find(image: &[u8]) -> Result<&[u8]> {
    let field = |at: usize| {
        let bytes = image.get(at..at + 4)?;
        Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
    };
    let payload = || {
        (image.get(MAGIC..MAGIC + 4)? == b"HdrS").then_some(())?;
        let setup = (usize::from(*image.get(SETUP_SECTS)?) + 1) * 512;
        let start = setup.checked_add(field(PAYLOAD_OFFSET)?)?;
        image.get(start..start.checked_add(field(PAYLOAD_LENGTH)?)?)
    };
    payload().ok_or_else(|| Error::failed("the file is not a whole bzImage"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[SETUP_SECTS] = 0;
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&512u32.to_le_bytes());
        let length = u32::try_from(payload.len()).unwrap();
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    #[test]
    fn an_unpacked_kernel_is_taken_as_it_is() {
        assert_eq!(
            unpack(&bzimage(b"\x7fELF and so on")).unwrap(),
            b"\x7fELF and so on"
        );
    }

    #[test]
    fn a_truncated_or_foreign_file_is_an_error() {
        let image = bzimage(b"\x7fELF and so on");
        assert!(unpack(&image[..image.len() - 1]).is_err());
        assert!(unpack(b"short").is_err());
        assert!(unpack(&bzimage(b"who knows")).is_err());
    }
}
