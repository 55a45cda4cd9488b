//! Fields as text.

use crate::decode::value::{Field, Value};
use crate::event::Names;

/// Bytes of a value that are shown.
const SHOWN: usize = 32;

/// `name=value, …` of all fields; padding that is zero only if `all`.
pub fn text(fields: &[Field], names: &Names, all: bool) -> String {
    let mut text = String::new();
    list(&mut text, fields, names, all);
    text
}

fn list(text: &mut String, fields: &[Field], names: &Names, all: bool) {
    let shown = fields.iter().filter(|field| all || !field.is_quiet());
    for (i, field) in shown.enumerate() {
        if i > 0 {
            text.push_str(", ");
        }
        text.push_str(&field.name);
        text.push('=');
        value(text, &field.value, names, all);
    }
}

fn value(text: &mut String, value: &Value, names: &Names, all: bool) {
    let end = match value {
        Value::Decimal(number) => number.to_string(),
        Value::Signed(number) => number.to_string(),
        Value::Hex(number, _) | Value::Pointer(number) => format!("{number:#x}"),
        Value::Name(_, name) => (*name).into(),
        Value::Flags { raw, names, rest } => flags(*raw, names, *rest),
        Value::Descriptor(fd) => match names.descriptors.get(fd) {
            Some(name) => format!("{fd} ({name})"),
            None => fd.to_string(),
        },
        Value::Object(id) => match names.objects.get(id) {
            Some(name) => name.clone(),
            None => id.to_string(),
        },
        Value::Text(of) => format!("\"{of}\""),
        Value::Bytes(bytes) => {
            let shown = bytes.iter().take(SHOWN).map(|byte| format!("{byte:02x}"));
            let more = if bytes.len() > SHOWN { "…" } else { "" };
            shown.collect::<String>() + more
        }
        Value::Record(fields) => {
            text.push('{');
            list(text, fields, names, all);
            "}".into()
        }
        Value::List(values, left_out) => {
            elements(text, values, names, all);
            match (left_out, values.is_empty()) {
                (0, _) => "]".into(),
                (more, true) => format!("… {more} more]"),
                (more, false) => format!(", … {more} more]"),
            }
        }
        Value::Unreadable(at) => format!("{at:#x} (unreadable)"),
    };
    text.push_str(&end);
}

fn flags(raw: u64, names: &[&str], rest: u64) -> String {
    let names = names.join("|");
    match (raw, rest) {
        (0, _) => "0".into(),
        (_, 0) => names,
        _ if names.is_empty() => format!("{rest:#x}"),
        _ => format!("{names}|{rest:#x}"),
    }
}

fn elements(text: &mut String, values: &[Value], names: &Names, all: bool) {
    text.push('[');
    for (i, element) in values.iter().enumerate() {
        if i > 0 {
            text.push_str(", ");
        }
        value(text, element, names, all);
    }
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
            text(&fields, &names, false),
            "flags=A|0x10, fd=7 (eventfd 12), id=ioas 2, list=[-1, 0x10, … 3 more], in={b=01ab}"
        );
    }
}
