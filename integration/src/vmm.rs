//! Builds static programs: the mini-vmm under test, and the guest's program. If MINI_VMM_BIN names
//! another mini-vmm, the lab tests that one.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

use crate::error::{Context, Error, Result};
use crate::host;
use crate::progress::Step;

/// The variable with the path of a static mini-vmm to test.
pub const BINARY: &str = "MINI_VMM_BIN";

/// The target triple. Without a named target, cargo would also apply `crt-static` to build scripts
/// and procedural macros, which cannot be static.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The programs of a scenario.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The mini-vmm under test.
    pub vmm: PathBuf,
    /// The static program that L2's /init calls (integration/src/bin/guest).
    pub guest: PathBuf,
}

/// Builds both programs.
pub fn build() -> Result<Programs> {
    let given = env::var_os(BINARY).map(PathBuf::from);
    if let Some(path) = given.as_ref().filter(|path| !path.is_file()) {
        return Err(Error::failed(format!(
            "{BINARY} names {}, and there is no such file",
            path.display()
        )));
    }
    let step = Step::start("building static programs: mini-vmm, and the guest's program");
    let vmm = match given {
        Some(path) => path,
        None => program("mini-vmm", "mini-vmm")?,
    };
    let guest = program("lab", "guest")?;
    step.done();
    Ok(Programs { vmm, guest })
}

/// Builds a static program of the workspace and returns its path.
pub fn program(package: &str, name: &str) -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(host::workspace())
        .args(["build", "--quiet", "--release", "--target", TARGET])
        .args(["--package", package, "--bin", name])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .output()
        .context("run cargo")?;
    if !output.status.success() {
        return Err(Error::failed(format!(
            "{name} does not build:\n{}",
            String::from_utf8_lossy(&output.stderr)
        )));
    }
    Ok(host::target().join(TARGET).join("release").join(name))
}

/// Builds the static program that measures a device, once, and returns its path.
pub fn bench() -> Result<PathBuf> {
    static PROGRAM: OnceLock<Result<PathBuf>> = OnceLock::new();
    let build = || {
        let step = Step::start("building mini-vmm-bench as a static program");
        let path = program("mini-vmm-bench", "mini-vmm-bench")?;
        step.done();
        Ok(path)
    };
    PROGRAM.get_or_init(build).clone()
}

/// Builds the program that `mini-vmm trace` starts, once, and returns its path.
pub fn tracer() -> Result<PathBuf> {
    static PROGRAM: OnceLock<Result<PathBuf>> = OnceLock::new();
    let build = || {
        let step = Step::start("building the static mini-vmm-trace");
        let program = program("mini-vmm", "mini-vmm-trace")?;
        step.done();
        Ok(program)
    };
    PROGRAM.get_or_init(build).clone()
}

/// Builds the container image of the static programs, once, and returns its archive.
pub fn image() -> Result<PathBuf> {
    static IMAGE: OnceLock<Result<PathBuf>> = OnceLock::new();
    IMAGE.get_or_init(build_image).clone()
}

fn build_image() -> Result<PathBuf> {
    let folder = host::target().join("lab-image");
    fs::create_dir_all(&folder).context(format!("make {}", folder.display()))?;
    for (name, path) in [
        ("mini-vmm", build()?.vmm),
        ("mini-vmm-trace", tracer()?),
        ("mini-vmm-bench", bench()?),
    ] {
        fs::copy(&path, folder.join(name)).context(format!("copy {}", path.display()))?;
    }
    let mut make = Command::new(host::workspace().join("resources/package/image.sh"));
    let path = host::output(make.args([&folder, &folder]))?;
    Ok(PathBuf::from(path.trim()))
}

/// Builds the tests of tests/guests as a static program, once, and returns its path. Their code is
/// optimised a little, because an emulator runs it.
pub fn tiny_guests() -> Result<PathBuf> {
    static PROGRAM: OnceLock<Result<PathBuf>> = OnceLock::new();
    PROGRAM.get_or_init(build_tiny_guests).clone()
}

fn build_tiny_guests() -> Result<PathBuf> {
    let step = Step::start("building the tests of tests/guests as a static program");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(host::workspace())
        .args(["test", "--quiet", "--no-run", "--message-format=json"])
        .args([
            "--package",
            "mini-vmm",
            "--test",
            "guests",
            "--target",
            TARGET,
        ])
        .args(["--config", "profile.dev.opt-level=1"])
        .args(["--config", "profile.dev.strip=true"])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .output()
        .context("run cargo")?;
    // The messages of other programs have no executable (cargo's external-tools.md).
    let messages = String::from_utf8_lossy(&output.stdout);
    let program = messages
        .lines()
        .filter(|message| message.contains("\"name\":\"guests\""))
        .find_map(|message| message.split_once("\"executable\":\"")?.1.split('"').next())
        .map(PathBuf::from);
    match program {
        Some(program) if output.status.success() => {
            step.done();
            Ok(program)
        }
        _ => Err(Error::failed(format!(
            "the tests of tests/guests do not build:\n{}",
            String::from_utf8_lossy(&output.stderr)
        ))),
    }
}
