//! The files that a trace is written to.

use std::fs;
use std::process::Output;

use serde_json::Value;

use super::run::{lines, summary, trace};
use crate::common::elf::TempFile;

fn run(options: &[&str], command: &str) -> (Output, String) {
    let output = trace(options, &[command]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

#[test]
fn each_file_is_whole_though_the_command_cannot_be_executed() {
    let files = [(); 3].map(|()| TempFile::new(b""));
    let [json, perfetto, html] = files.each_ref().map(|f| f.path().display().to_string());
    let options = [
        "--json",
        "-o",
        &json,
        "--perfetto",
        &perfetto,
        "--html",
        &html,
    ];
    for (command, status) in [("/nonexistent", 127), ("/etc/passwd", 126)] {
        let (output, said) = run(&options, command);
        assert_eq!(output.status.code(), Some(status), "{said}");
        let lines = lines(files[0].path());
        assert_eq!(summary(&lines)["exits"]["total"], 0);
        let end = format!("ends with status {status}");
        assert_eq!(lines[0]["text"], end.as_str());
        let events: Value = serde_json::from_slice(&fs::read(&perfetto).unwrap()).unwrap();
        assert!(events.is_array(), "{events}");
        let page = fs::read_to_string(&html).unwrap();
        assert!(page.trim_end().ends_with("</html>"), "{page}");
    }
}

#[test]
fn a_file_that_is_not_whole_is_told() {
    for option in ["--output", "--perfetto", "--html"] {
        let (output, said) = run(&[option, "/dev/full"], "true");
        assert_eq!(output.status.code(), Some(0), "{said}");
        let message = "mini-vmm trace: /dev/full is not whole: No space left on device";
        assert_eq!(said.matches(message).count(), 1, "{option}: {said}");
        assert!(said.contains("\nhint: make room"), "{said}");
    }
}

#[test]
fn two_outputs_are_not_one_file() {
    let file = TempFile::new(b"");
    let path = file.path().display().to_string();
    let (output, said) = run(&["--output", &path, "--html", &path], "true");
    assert_eq!(output.status.code(), Some(125));
    let message = format!("mini-vmm trace: {path} cannot be written: another output is written");
    assert!(said.starts_with(&message), "{said}");
    let (output, said) = run(&["--output", "/dev/null", "--html", "/dev/null"], "true");
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""));
}
