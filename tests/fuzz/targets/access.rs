//! A guest's access: any register, any width, any alignment.

use libfuzzer_sys::arbitrary::{self, Arbitrary};

/// One read or write.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub struct Access {
    /// Where.
    pub offset: u16,
    /// How many bytes: the width is 1, 2, 4 or 8.
    width: u8,
    /// A write; else a read.
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
