//! Commands below the tracer.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::common::elf::TempFile;
use crate::process::{PROGRAM, Running};

/// The lines of a trace in JSON.
pub fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

/// The summary, which is the last line.
pub fn summary(lines: &[Value]) -> &Value {
    let last = lines.last().expect("a trace has a summary");
    assert_eq!(last["type"], "summary");
    last
}

/// `mini-vmm trace` with these options and command.
pub fn trace(options: &[&str], command: &[&str]) -> Command {
    let mut traced = Command::new(PROGRAM);
    traced.arg("trace").args(options).arg("--").args(command);
    traced
}

/// mini-vmm with a guest below the tracer: the trace's lines, and the report of `--stats`.
pub fn guest(kernel: TempFile, arguments: &[&str], status: i32) -> (Vec<Value>, Value) {
    let (out, stats) = (TempFile::new(b""), TempFile::new(b""));
    let stats_flag = format!("--stats={}", stats.path().display());
    let path = kernel.path().display().to_string();
    let mut command = vec![PROGRAM, "--kernel", &path, "--memory", "64M", &stats_flag];
    command.extend(arguments);
    let out_path = out.path().display().to_string();
    let mut run = Running::spawn(trace(&["--json", "-o", &out_path], &command), kernel);
    assert_eq!(run.status(), Some(status), "{}", run.stderr.text());
    let stats = serde_json::from_slice(&std::fs::read(stats.path()).unwrap()).unwrap();
    (lines(out.path()), stats)
}
