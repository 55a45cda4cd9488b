//! The calls by kind of file and number.

use crate::decode::value::{Field, Kind, Memory};

/// An ioctl of the traced program.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The kind of the file.
    pub kind: Kind,
    /// The second argument of ioctl(2). Only its low 32 bits count.
    pub request: u32,
    /// The third argument.
    pub argument: u64,
}

/// The name of the call, by the kernel's headers. `None` if the kind has no such call.
pub fn name(_kind: Kind, _request: u32) -> Option<&'static str> {
    None
}

/// The fields that the program hands to the kernel. To be called when the call starts. Makes at
/// most a bounded number of fields, whatever the memory has.
pub fn enter(_call: &Call, _memory: &dyn Memory) -> Vec<Field> {
    Vec::new()
}

/// The fields that the kernel has written. To be called when the call has ended; `result` is the
/// value of the call, or the negated errno.
pub fn leave(_call: &Call, _result: i64, _memory: &dyn Memory) -> Vec<Field> {
    Vec::new()
}
