//! Golden files: what the program must not change, as files in tests/golden/.
//!
//! `BLESS=1 cargo test` writes the files anew; the difference is then for people to judge. Golden
//! files hold no prose: the wording of messages and help may change.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// Compares `found` with the golden file `name`.
#[track_caller]
pub fn check(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("BLESS").is_some_and(|v| v == "1") {
        fs::write(&path, found).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        return;
    }
    let golden = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let path = path.display();
    let changes = difference(&golden, found);
    assert!(
        golden == found,
        "{path} differs (BLESS=1 writes it anew):\n{changes}"
    );
}

/// The lines that only one of the texts has: `-` before those of `golden`, `+` before the others.
fn difference(golden: &str, found: &str) -> String {
    let mut counts = BTreeMap::new();
    for line in golden.lines() {
        *counts.entry(line).or_insert(0) -= 1;
    }
    for line in found.lines() {
        *counts.entry(line).or_insert(0) += 1;
    }
    let mut text = String::new();
    for (line, count) in counts.into_iter().filter(|(_, count)| *count != 0) {
        let sign = if count < 0 { '-' } else { '+' };
        let _ = writeln!(text, "{sign} {line}");
    }
    if text.is_empty() {
        text.push_str("the same lines, in another order");
    }
    text
}

/// Each path of a JSON value with the types that the path has, a line each, in order of path. All
/// elements of an array share one path.
pub fn shape(value: &Value) -> String {
    let mut types = BTreeMap::new();
    add_shape(value, String::new(), &mut types);
    let mut text = String::new();
    for (path, kinds) in types {
        let _ = writeln!(text, "{path}: {}", kinds.join("|"));
    }
    text
}

fn add_shape(value: &Value, path: String, types: &mut BTreeMap<String, Vec<&'static str>>) {
    let kind = match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                add_shape(field, format!("{path}.{name}"), types);
            }
            return;
        }
        Value::Array(elements) if !elements.is_empty() => {
            for element in elements {
                add_shape(element, format!("{path}[]"), types);
            }
            return;
        }
        Value::Array(_) => "[]",
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
    };
    let kinds = types.entry(path).or_default();
    if !kinds.contains(&kind) {
        kinds.push(kind);
        kinds.sort_unstable();
    }
}

/// The values, as JSON, of one key of each element of an array: sorted, each once.
pub fn values_of(array: &Value, key: &str) -> String {
    let elements = array.as_array().into_iter().flatten();
    let mut values: Vec<_> = elements.map(|e| e[key].to_string()).collect();
    values.sort();
    values.dedup();
    values.join(" ")
}
