//! Fields as text.

use std::fmt::Write;

use crate::decode::value::{Field, Value};
use crate::event::Names;

/// Bytes of a value that are shown.
const SHOWN: usize = 32;

/// `name=value, …` of all fields.
pub fn text(fields: &[Field], names: &Names) -> String {
    let mut text = String::new();
    list(&mut text, fields, names);
    text
}

fn list(text: &mut String, fields: &[Field], names: &Names) {
    for (i, field) in fields.iter().enumerate() {
        if i > 0 {
            text.push_str(", ");
        }
        text.push_str(&field.name);
        text.push('=');
        value(text, &field.value, names);
    }
}

fn value(text: &mut String, value: &Value, names: &Names) {
    // Writing to a string does not fail.
    let _ = match value {
        Value::Decimal(number) => write!(text, "{number}"),
        Value::Signed(number) => write!(text, "{number}"),
        Value::Hex(number, _) | Value::Pointer(number) => write!(text, "{number:#x}"),
        Value::Name(_, name) => write!(text, "{name}"),
        Value::Flags { raw, names, rest } => flags(text, *raw, names, *rest),
        Value::Descriptor(fd) => match names.descriptors.get(fd) {
            Some(name) => write!(text, "{fd} ({name})"),
            None => write!(text, "{fd}"),
        },
        Value::Object(id) => match names.objects.get(id) {
            Some(name) => write!(text, "{name}"),
            None => write!(text, "{id}"),
        },
        Value::Text(of) => write!(text, "\"{of}\""),
        Value::Bytes(bytes) => {
            for byte in bytes.iter().take(SHOWN) {
                let _ = write!(text, "{byte:02x}");
            }
            write!(text, "{}", if bytes.len() > SHOWN { "…" } else { "" })
        }
        Value::Record(fields) => {
            text.push('{');
            list(text, fields, names);
            write!(text, "}}")
        }
        Value::List(values, left_out) => elements(text, values, *left_out, names),
        Value::Unreadable(at) => write!(text, "{at:#x} (unreadable)"),
    };
}

fn flags(text: &mut String, raw: u64, names: &[&str], rest: u64) -> std::fmt::Result {
    let mut names = names.join("|");
    if rest != 0 {
        let or = if names.is_empty() { "" } else { "|" };
        write!(names, "{or}{rest:#x}")?;
    }
    match raw {
        0 => write!(text, "0"),
        _ => write!(text, "{names}"),
    }
}

fn elements(text: &mut String, values: &[Value], left_out: u64, names: &Names) -> std::fmt::Result {
    text.push('[');
    for (i, element) in values.iter().enumerate() {
        if i > 0 {
            text.push_str(", ");
        }
        value(text, element, names);
    }
    if left_out > 0 {
        write!(
            text,
            "{}… {left_out} more",
            if values.is_empty() { "" } else { ", " }
        )?;
    }
    write!(text, "]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let mut names = Names::default();
        names.descriptors.insert(7, "eventfd 12".into());
        names.objects.insert(2, "ioas 2".into());
        let field = |name: &'static str, value| Field {
            name: name.into(),
            value,
        };
        let flags = Value::Flags {
            raw: 0x11,
            names: vec!["A"],
            rest: 0x10,
        };
        let fields = [
            field("flags", flags),
            field("fd", Value::Descriptor(7)),
            field("id", Value::Object(2)),
            field(
                "list",
                Value::List(vec![Value::Signed(-1), Value::Hex(16, 4)], 3),
            ),
            field(
                "in",
                Value::Record(vec![field("b", Value::Bytes(vec![1, 0xab]))]),
            ),
        ];
        assert_eq!(
            text(&fields, &names),
            "flags=A|0x10, fd=7 (eventfd 12), id=ioas 2, list=[-1, 0x10, … 3 more], in={b=01ab}"
        );
    }
}
