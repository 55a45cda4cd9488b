//! A buffer for direct I/O, whose address must be a multiple of the disk's block size (open(2),
//! O_DIRECT).

/// A multiple of every block size that disks have.
const ALIGNMENT: usize = 4096;

/// A buffer at an aligned address.
pub(crate) struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    pub(crate) fn new(len: usize) -> Self {
        let bytes = vec![0; len + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        Self { bytes, start, len }
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_aligned() {
        for len in [512, 4096, 131_072] {
            let mut buffer = Aligned::new(len);
            assert_eq!(buffer.bytes().as_ptr().addr() % ALIGNMENT, 0);
            assert_eq!(buffer.bytes().len(), len);
        }
    }
}
