//! The macro `scenarios!` declares the files of tests/lab. `cargo fmt` does not follow macros, so
//! this test checks the format of these files.

use std::path::Path;
use std::process::Command;

#[test]
fn scenario_files_are_formatted() {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab");
    let files: Vec<_> = std::fs::read_dir(files)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    assert!(files.len() > 10, "{files:?}");
    let rustfmt = Command::new("rustfmt")
        .args(["--check", "--edition", "2024"])
        .args(&files)
        .output();
    let version = Command::new("rustfmt").arg("--version").status();
    if !version.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED scenario_files_are_formatted: there is no rustfmt");
        return;
    }
    let output = rustfmt.unwrap();
    assert!(
        output.status.success(),
        "run rustfmt --edition 2024 integration/tests/lab/*.rs:\n{}",
        String::from_utf8_lossy(&output.stdout)
    );
}
