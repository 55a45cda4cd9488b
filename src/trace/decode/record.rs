//! A structure in the program's memory, and what its fields say of each other.

use super::form::{Length, Way};
use super::headers::{Type, plain};
use super::scalar::Scalar;
use super::tables::Tables;
use super::value::{Memory, Value};

/// How many bytes without further meaning a field may have.
const BYTES: u64 = 16_384;

/// How long a name may be.
const NAME: usize = 256;

/// A structure in the program's memory.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The type's name, with its view.
    pub name: &'static str,
    /// The type.
    pub known: &'static Type,
    /// The address.
    pub at: u64,
    /// Its bytes, as far as they could be read.
    pub bytes: &'a [u8],
    /// The end that the program gave, if any.
    pub end: Option<u64>,
    /// The way of the structure itself.
    pub way: Way,
}

impl Record<'_> {
    /// A field as a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        let mut members = self.known.fields.iter();
        let member = members.find(|member| member.name == name)?;
        let bytes = self.bytes.get(member.offset..)?;
        Some(Scalar::read(member.base, bytes)?.bits(member.bits).raw)
    }

    /// How many elements there are.
    pub fn length(&self, length: Length) -> Option<u64> {
        match length {
            Length::Number(count) => Some(count),
            Length::Field(name, less, by) => {
                self.number(name)?.saturating_sub(less).checked_div(by)
            }
        }
    }
}

/// A type by its name, with or without a view.
pub fn known(name: &str) -> Option<&'static Type> {
    Tables::get().headers.types.get(plain(name))
}

/// Reads up to `size` bytes. The size is one of the headers' structures, or bounded.
pub fn read(memory: &dyn Memory, at: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    let read = memory.read(at, &mut bytes);
    bytes.truncate(read);
    bytes
}

/// Bytes without further meaning.
pub fn bytes(memory: &dyn Memory, at: u64, count: u64) -> Value {
    let taken = usize::try_from(count.min(BYTES)).unwrap_or(0);
    let bytes = read(memory, at, taken);
    let missing = count - bytes.len() as u64;
    if bytes.is_empty() && count > 0 {
        Value::Unreadable(at)
    } else if missing == 0 {
        Value::Bytes(bytes)
    } else {
        Value::List(vec![Value::Bytes(bytes)], missing)
    }
}

/// A name up to its zero.
pub fn text(memory: &dyn Memory, at: u64) -> Value {
    let bytes = read(memory, at, NAME);
    if bytes.is_empty() {
        return Value::Unreadable(at);
    }
    let end = bytes.iter().position(|byte| *byte == 0);
    let name = &bytes[..end.unwrap_or(bytes.len())];
    Value::Text(name.escape_ascii().to_string())
}

/// Whether nothing of a value could be read.
pub fn is_unreadable(value: &Value) -> bool {
    match value {
        Value::Unreadable(_) => true,
        Value::Record(fields) => fields
            .first()
            .is_some_and(|first| is_unreadable(&first.value)),
        _ => false,
    }
}
