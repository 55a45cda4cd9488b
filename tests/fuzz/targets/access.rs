//! What the targets share: a guest's access (any register, any width, any alignment), and a
//! configuration space with capabilities.

use libfuzzer_sys::arbitrary::{self, Arbitrary};

/// One read or write.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub struct Access {
    /// Where.
    pub offset: u16,
    /// How many bytes: the width is 1, 2, 4 or 8.
    width: u8,
    /// A write; else a read.
    #[allow(dead_code)] // A ROM is only read.
    pub write: bool,
    /// What is written.
    value: u64,
}

impl Access {
    /// Its bytes: what is written, or what a read must overwrite.
    pub fn bytes(&self) -> Vec<u8> {
        let len = 1usize << (self.width % 4);
        self.value.to_le_bytes().into_iter().take(len).collect()
    }
}

/// An image of zeros with a list of capabilities that begins at 0x40: STATUS and the capabilities
/// pointer say so (PCI Express 6.0, 7.5.1.1.4 and 7.5.1.1.11).
#[allow(dead_code)] // Not each target has one.
pub fn config_space(size: usize) -> Vec<u8> {
    let mut image = vec![0; size];
    image[0x06] = 0x10;
    image[0x34] = 0x40;
    image
}
