//! An access of the guest to a port or to guest-physical memory.

/// Ports or guest-physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// An I/O port.
    Port,
    /// An address of guest-physical memory.
    Memory,
}

impl Space {
    /// The word in JSON, as in the report of `--stats`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Port => "port",
            Self::Memory => "memory",
        }
    }
}

/// A register as exits are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Register {
    /// Where it is.
    pub space: Space,
    /// The port or address.
    pub address: u64,
    /// Whether the guest writes.
    pub write: bool,
}

/// An access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// What is accessed.
    pub register: Register,
    /// Bytes of one access.
    pub width: u8,
    /// Accesses: more than one for a string instruction to a port.
    pub count: u32,
    /// What is written, or the answer to a read. A read that has no answer yet has no data. Of a
    /// string instruction, the first bytes.
    pub data: Vec<u8>,
}

/// Bytes of a string instruction that are kept.
pub const MOST_DATA: usize = 64;

impl Access {
    /// The value of the first access, if there is data.
    pub fn value(&self) -> Option<u64> {
        let bytes = self.data.get(..self.width.into())?;
        let mut value = [0; 8];
        value.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(u64::from_le_bytes(value))
    }

    /// The bytes of all accesses.
    pub fn len(&self) -> u64 {
        u64::from(self.count) * u64::from(self.width)
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
