//! Compares a trace with what the traced program says.

use serde_json::Value as Json;

use super::output::{self, Case, Expected, Made};
use crate::headers::Headers;

/// What was compared.
#[derive(Debug, Default)]
pub struct Seen {
    /// Calls that were made.
    pub calls: usize,
    /// Those that succeeded.
    pub succeeded: usize,
    /// Values that were found and are right.
    pub values: usize,
}

/// Compares what the program printed with the trace of the same run, which is JSON.
///
/// # Errors
/// A call or a value differs.
pub fn compare(said: &str, trace: &str, headers: &Headers) -> Result<Seen, String> {
    let cases = output::read(said)?;
    let made: Vec<(&Case, &Made)> = cases
        .iter()
        .filter_map(|case| Some((case, case.made.as_ref()?)))
        .collect();
    let events = calls(trace)?;
    // Before them, the files were opened.
    let before = events.len().checked_sub(made.len());
    let before = before.ok_or_else(|| format!("the trace has {} calls alone", events.len()))?;
    let events = &events[before..];
    let mut seen = Seen::default();
    let mut wrong = Vec::new();
    for ((case, made), event) in made.iter().zip(events) {
        seen.calls += 1;
        seen.succeeded += usize::from(made.result >= 0);
        if event["call"] != case.name.as_str() || event["result"] != made.result {
            wrong.push(format!("{} = {}: {event}", case.name, made.result));
            continue;
        }
        for (part, expected) in [("in", &made.before), ("out", &case.expected)] {
            for one in expected {
                // The kernel has written a chain of its own, at offsets of its own.
                if part == "out" && one.path.starts_with("capabilities") {
                    continue;
                }
                let Some(number) = number(&event[part], one, headers) else {
                    continue;
                };
                if number == one.value {
                    seen.values += 1;
                } else {
                    let (path, value) = (&one.path, one.value);
                    wrong.push(format!(
                        "{}: {path} is {number:#x}, not {value:#x}",
                        case.name
                    ));
                }
            }
        }
    }
    if wrong.is_empty() {
        Ok(seen)
    } else {
        Err(wrong.join("\n"))
    }
}

/// The ioctls of a trace.
fn calls(trace: &str) -> Result<Vec<Json>, String> {
    let mut calls = Vec::new();
    for line in trace.lines() {
        let event: Json = serde_json::from_str(line).map_err(|error| format!("{line}: {error}"))?;
        let name = event["call"].as_str().unwrap_or_default();
        let ioctl = ["KVM_", "VFIO_", "IOMMU_"];
        if ioctl.iter().any(|start| name.starts_with(start)) {
            calls.push(event);
        }
    }
    Ok(calls)
}

/// The number under a path; `None` if it is not there, or has a name that is in no header.
fn number(fields: &Json, expected: &Expected, headers: &Headers) -> Option<u64> {
    let mut at = fields;
    for part in expected.path.split('.') {
        let (name, indexes) = part.split_once('[').unwrap_or((part, ""));
        at = at.get(name)?;
        for index in indexes.split(['[', ']']).filter(|index| !index.is_empty()) {
            let index: usize = index.parse().ok()?;
            let values = at.get("values").unwrap_or(at);
            at = match values {
                Json::Array(values) => values.get(index)?,
                // A device's name is text.
                Json::String(text) if text.contains(':') => {
                    return text.as_bytes().get(index).copied().map(u64::from);
                }
                Json::String(digits) if expected.size > 0 && !digits.starts_with("0x") => {
                    return bytes(digits, index, expected.size);
                }
                Json::Object(_) if index == 0 => values,
                Json::String(_) | Json::Number(_) if index == 0 && is_target(expected) => values,
                _ => return None,
            };
        }
    }
    let number = plain(at, headers)?;
    let bits = 64 - 8 * u32::try_from(expected.size.clamp(1, 8)).ok()?;
    // A bit field has no size.
    Some(if expected.size == 0 {
        number
    } else {
        number << bits >> bits
    })
}

/// Whether the path leads to what a pointer points to. Before the call, the pointer may be shown.
fn is_target(expected: &Expected) -> bool {
    expected.size < 8
}

fn bytes(digits: &str, index: usize, size: usize) -> Option<u64> {
    let start = index * size * 2;
    let mut raw = [0; 8];
    for (at, byte) in raw[..size].iter_mut().enumerate() {
        let digits = digits.get(start + at * 2..start + at * 2 + 2)?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(u64::from_le_bytes(raw))
}

fn plain(value: &Json, headers: &Headers) -> Option<u64> {
    match value {
        Json::Number(number) => number
            .as_u64()
            .or_else(|| number.as_i64().map(i64::cast_unsigned)),
        Json::String(text) => match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => headers.constant(text),
        },
        Json::Object(fields) => ["raw", "fd", "id"]
            .iter()
            .find_map(|name| fields.get(*name))
            .and_then(|value| plain(value, headers)),
        _ => None,
    }
}
