//! The mini-vmm binary under test: built here as a static release binary, once a run.
//! MINI_VMM_BIN names another one to take instead.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use crate::error::{Context, Error, Result};
use crate::host;
use crate::progress::Step;

/// A path to a static mini-vmm to take instead of building one.
pub const BINARY: &str = "MINI_VMM_BIN";

/// The target is always given: without it, `crt-static` would reach build scripts and procedural
/// macros too, which cannot be linked that way.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the binary and returns its path.
pub fn build() -> Result<PathBuf> {
    if let Some(path) = env::var_os(BINARY).map(PathBuf::from) {
        return if path.is_file() {
            Ok(path)
        } else {
            Err(Error::failed(format!(
                "{BINARY} names {}, and there is no such file",
                path.display()
            )))
        };
    }
    let step = Step::start("building mini-vmm, static and optimised");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(host::workspace())
        .args(["build", "--quiet", "--release", "--target", TARGET])
        .args(["--package", "mini-vmm"])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .output()
        .context("run cargo")?;
    if !output.status.success() {
        return Err(Error::failed(format!(
            "mini-vmm does not build:\n{}",
            String::from_utf8_lossy(&output.stderr)
        )));
    }
    step.done();
    Ok(host::target().join(TARGET).join("release/mini-vmm"))
}
