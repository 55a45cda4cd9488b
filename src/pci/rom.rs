//! The content of an expansion ROM (PCI Express 6.0, 7.5.1.2.4; PCI 3.0, 6.2.5.2 and 6.3).
//!
//! The register itself is the last of [`super::bar::Bars`]. The guest reads the content unchanged.
//! Some VMMs write the device's ID into an image for another device, and correct its checksum,
//! because their firmware would not run the image otherwise. In this VMM no firmware runs, Linux
//! checks neither, and a driver that reads tables in its ROM needs them unchanged.

/// Index of the expansion ROM among a function's BARs, as in VFIO and Linux.
pub const ROM: usize = 6;
/// The register's own enable bit. A ROM decodes while this bit and Memory Space Enable are set.
pub const ENABLE: u32 = 1 << 0;
/// The least size, because the register has no lower address bits.
pub const MIN_SIZE: u64 = 1 << 11;
/// The largest size of a ROM (PCI 3.0, 6.2.5.2).
pub const MAX_SIZE: u64 = 16 << 20;

/// The first bytes of an image (PCI 3.0, 6.3.1.1).
const SIGNATURE: [u8; 2] = [0x55, 0xaa];

/// The reason why bytes cannot be a ROM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// There are no bytes.
    #[error("is empty")]
    Empty,
    /// There are more bytes than [`MAX_SIZE`].
    #[error("has {0} bytes, and an expansion ROM has at most {max} (16 MiB)", max = MAX_SIZE)]
    TooLarge(u64),
}

/// The content of a ROM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image(Vec<u8>);

impl Image {
    /// Checks whether a ROM can have `size` bytes.
    ///
    /// # Errors
    /// The reason why no ROM can have this size.
    pub fn check_size(size: u64) -> Result<(), ImageError> {
        match size {
            0 => Err(ImageError::Empty),
            1..=MAX_SIZE => Ok(()),
            _ => Err(ImageError::TooLarge(size)),
        }
    }

    /// Makes a ROM with this content.
    ///
    /// # Errors
    /// As [`Image::check_size`].
    pub fn new(content: Vec<u8>) -> Result<Self, ImageError> {
        Self::check_size(content.len() as u64)?;
        Ok(Self(content))
    }

    /// Bytes of content, at least one; the register's size is the next power of two.
    pub fn size(&self) -> u64 {
        self.0.len() as u64
    }

    /// Whether software will recognise the content as a ROM.
    pub fn has_signature(&self) -> bool {
        self.0.starts_with(&SIGNATURE)
    }

    /// Reads any bytes. Bytes beyond the content are all ones, as in an erased flash chip, and as
    /// VFIO fills a ROM's range.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        let from = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.0.get(offset..));
        for (to, from) in data.iter_mut().zip(from.unwrap_or_default()) {
            *to = *from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_and_what_is_beyond_it() {
        let image = Image::new(vec![0x55, 0xaa, 3, 4, 5]).unwrap();
        assert!(image.has_signature());
        assert_eq!(image.size(), 5);
        for (offset, expected) in [
            (0, [0x55, 0xaa, 3, 4]),
            (3, [4, 5, 0xff, 0xff]),
            (5, [0xff; 4]),
            (u64::MAX, [0xff; 4]),
        ] {
            let mut data = [0; 4];
            image.read(offset, &mut data);
            assert_eq!(data, expected, "{offset:#x}");
        }
        assert!(!Image::new(vec![0x55]).unwrap().has_signature());
    }

    #[test]
    fn sizes_that_cannot_be() {
        assert_eq!(Image::new(Vec::new()), Err(ImageError::Empty));
        assert_eq!(Image::check_size(MAX_SIZE), Ok(()));
        for size in [MAX_SIZE + 1, u64::MAX] {
            assert_eq!(Image::check_size(size), Err(ImageError::TooLarge(size)));
        }
    }
}
