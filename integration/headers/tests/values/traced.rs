//! Compares a trace with what the traced program says.

use std::path::{Path, PathBuf};
use std::process::Command;

use headers::Headers;
use serde_json::Value as Json;

use crate::program::{self, Case, Expected, Made};

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

/// The tracer, built from this tree.
fn tracer() -> PathBuf {
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--package",
            "mini-vmm-trace",
            "--bin",
            "mini-vmm-trace",
        ])
        .current_dir(lab::host::workspace())
        .status()
        .unwrap();
    assert!(status.success());
    lab::host::target().join("debug/mini-vmm-trace")
}

/// Runs the program under the tracer.
pub fn compare(program: &Path, headers: &Headers) -> Seen {
    let trace = Path::new(env!("CARGO_TARGET_TMPDIR")).join("calls.json");
    let output = Command::new(tracer())
        .args(["--json", "--output"])
        .arg(&trace)
        .arg("--")
        .arg(program)
        .arg("call")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let cases = program::read(&String::from_utf8(output.stdout).unwrap());
    let made: Vec<(&Case, &Made)> = cases
        .iter()
        .filter_map(|case| Some((case, case.made.as_ref()?)))
        .collect();
    let trace = std::fs::read_to_string(&trace).unwrap();
    let events = calls(&trace);
    // Before them, the files were opened.
    let events = &events[events.len().checked_sub(made.len()).unwrap()..];
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
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    seen
}

/// The ioctls of a trace.
fn calls(trace: &str) -> Vec<Json> {
    let lines = trace
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    lines
        .filter(|event: &Json| {
            let name = event["call"].as_str().unwrap_or_default();
            ["KVM_", "VFIO_", "IOMMU_"]
                .iter()
                .any(|start| name.starts_with(start))
        })
        .collect()
}

/// The number under a path; `None` if it is not there, or has a name that is in no header.
fn number(fields: &Json, expected: &Expected, headers: &Headers) -> Option<u64> {
    let mut at = fields;
    for part in expected.path.split('.') {
        let (name, indexes) = part.split_once('[').unwrap_or((part, ""));
        at = at.get(name)?;
        for index in indexes.split(['[', ']']).filter(|index| !index.is_empty()) {
            let index: usize = index.parse().unwrap();
            let values = at.get("values").unwrap_or(at);
            at = match values {
                Json::Array(values) => values.get(index)?,
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
    let bits = 64 - 8 * u32::try_from(expected.size.clamp(1, 8)).unwrap();
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
