//! Fields of a call as numbers.

use crate::decode::value::{Field, Value};

/// The number of a value, if the value is one.
fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Decimal(number) | Value::Hex(number, _) | Value::Pointer(number) => Some(*number),
        Value::Name(number, _) => Some(*number),
        Value::Flags { raw, .. } => Some(*raw),
        Value::Signed(number) => u64::try_from(*number).ok(),
        Value::Descriptor(fd) => u64::try_from(*fd).ok(),
        Value::Object(id) => Some(u64::from(*id)),
        _ => None,
    }
}

/// The number of the field with this name. Of two such fields, the last: the kernel's answer stands
/// behind what was handed in.
pub fn of<'a>(fields: impl DoubleEndedIterator<Item = &'a Field>, name: &str) -> Option<u64> {
    fields
        .rev()
        .find(|field| field.name == name)
        .and_then(|field| number(&field.value))
}
