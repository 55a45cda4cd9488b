//! Finds a value among decoded fields.

use headers::calls::output::Expected;
use trace::decode::value::{Field, Value};

/// The number under a path such as `entries[1].u.msi.data`.
pub fn number(fields: &[Field], expected: &Expected) -> Option<u64> {
    find(fields, &expected.path, expected.size).map(|(number, _)| number)
}

/// The names of a number under a path.
pub fn names(fields: &[Field], path: &str) -> Vec<&'static str> {
    find(fields, path, 8).map_or_else(Vec::new, |(_, names)| names)
}

fn find(fields: &[Field], path: &str, size: usize) -> Option<(u64, Vec<&'static str>)> {
    let mut fields = fields;
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        let (name, indexes) = part.split_once('[').unwrap_or((part, ""));
        let field = fields.iter().find(|field| field.name == name)?;
        let mut value = &field.value;
        for index in indexes.split(['[', ']']).filter(|index| !index.is_empty()) {
            let index: usize = index.parse().unwrap();
            value = match value {
                Value::List(values, _) => values.get(index)?,
                Value::Bytes(bytes) => return Some((bytes_at(bytes, index, size)?, Vec::new())),
                Value::Text(text) => {
                    let byte = *text.as_bytes().get(index)?;
                    return Some((u64::from(byte), Vec::new()));
                }
                // What is not read yet.
                Value::Pointer(_) => return None,
                // A pointer to one structure has no index.
                value if index == 0 => value,
                _ => return None,
            };
        }
        match value {
            Value::Record(inner) if parts.peek().is_some() => fields = inner,
            value => return Some((plain(value, size)?, named(value))),
        }
    }
    None
}

fn named(value: &Value) -> Vec<&'static str> {
    match value {
        Value::Name(_, name) => vec![name],
        Value::Flags { names, .. } => names.clone(),
        _ => Vec::new(),
    }
}

fn bytes_at(bytes: &[u8], index: usize, size: usize) -> Option<u64> {
    let mut raw = [0; 8];
    raw[..size].copy_from_slice(bytes.get(index * size..(index + 1) * size)?);
    Some(u64::from_le_bytes(raw))
}

fn plain(value: &Value, size: usize) -> Option<u64> {
    let signed = |number: i64| match size {
        1 => u64::from(number as u8),
        2 => u64::from(number as u16),
        4 => u64::from(number as u32),
        _ => number as u64,
    };
    match value {
        Value::Decimal(number)
        | Value::Hex(number, _)
        | Value::Name(number, _)
        | Value::Pointer(number) => Some(*number),
        Value::Signed(number) => Some(signed(*number)),
        Value::Flags { raw, .. } => Some(*raw),
        Value::Descriptor(number) => Some(signed(i64::from(*number))),
        Value::Object(number) => Some(u64::from(*number)),
        Value::Bytes(bytes) => bytes_at(bytes, 0, size),
        _ => None,
    }
}
