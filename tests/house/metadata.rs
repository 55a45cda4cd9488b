//! What cargo says about the packages of this workspace and their dependencies.

use std::env;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The folder of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `packages` of `cargo metadata`: every package that is built here.
pub fn packages() -> Vec<Value> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(cargo)
        .current_dir(root())
        .args(["metadata", "--format-version=1", "--locked"])
        // Packages of other targets need not be there.
        .arg("--filter-platform=x86_64-unknown-linux-gnu")
        .output()
        .expect("run cargo metadata");
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "cargo metadata failed: {error}");
    let metadata: Value = serde_json::from_slice(&out.stdout).expect("JSON from cargo metadata");
    metadata["packages"].as_array().expect("packages").clone()
}

/// Whether a package is a member of this workspace.
pub fn is_member(package: &Value) -> bool {
    package["source"].is_null()
}
