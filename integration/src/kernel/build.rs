//! Builds one of the lab's own kernels from Debian's source. Its configuration is `make tinyconfig`
//! with the options of integration/resources/lab-kernel.config and those of
//! lab-kernel-release.config or, for the newest kernel, of lab-kernel-newest.config.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Context, Error, Result};
use crate::host::{self, entries};
use crate::progress::Step;

/// A copy of the options in the cache. resources/install-deps.sh compares the copy with the current
/// options, to tell whether the cached kernel is current.
const COPY: &str = "lab-kernel.config";

/// The tools that a build needs.
const TOOLS: [&str; 7] = ["make", "cc", "flex", "bison", "bc", "xz", "zstd"];

/// The kernel's build compiles objtool, which needs this header.
const LIBELF: &str = "/usr/include/libelf.h";

/// A hash of the options (FNV-1a), which is a part of the kernel's key in the cache. If the options
/// change, the key changes.
pub fn suffix(options: &str) -> String {
    let hash = options.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, b| {
        (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    });
    format!("-{hash:016x}")
}

/// Checks that this machine has all tools for a build.
pub fn can_build() -> Result<()> {
    let mut missing: Vec<&str> = TOOLS
        .into_iter()
        .filter(|tool| host::program(tool).is_none())
        .collect();
    if !Path::new(LIBELF).is_file() {
        missing.push("libelf's headers");
    }
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Error::cannot_run(
            format!(
                "the lab's kernel must be built once, and this machine lacks {}",
                missing.join(", ")
            ),
            "make deps",
        ))
    }
}

/// Builds the kernel of an unpacked `linux-source` package. The result has no modules.
pub fn fill(options: &str, tree: &Path, filled: &Path, step: &Step) -> Result<()> {
    step.at("unpacking the source");
    let archive = entries(&tree.join("usr/src"))
        .into_iter()
        .find(|path| path.to_string_lossy().contains(".tar."))
        .ok_or_else(|| Error::failed("the kernel's source package holds no archive"))?;
    let source = tree.join("source");
    fs::create_dir_all(&source).context(format!("make {}", source.display()))?;
    host::output(
        Command::new("tar")
            .args(["--extract", "--strip-components=1", "--file"])
            .arg(&archive)
            .arg("--directory")
            .arg(&source),
    )?;
    configure(&source, options)?;
    compile(&source, step)?;
    let image = source.join("arch/x86/boot/bzImage");
    fs::copy(&image, filled.join("vmlinuz")).context(format!("copy {}", image.display()))?;
    fs::write(filled.join("modules/order"), "").context("write the modules' order")?;
    fs::write(filled.join(COPY), options).context("keep the configuration")
}

/// Writes the configuration. The kernel's build drops options that are unknown or whose
/// dependencies are missing, so the result is compared with the options.
fn configure(source: &Path, options: &str) -> Result<()> {
    let config = source.join(".config");
    host::output(make(source).arg("tinyconfig"))?;
    let smallest = fs::read_to_string(&config).context("read the kernel's configuration")?;
    fs::write(&config, smallest + options).context("write the kernel's configuration")?;
    host::output(make(source).arg("olddefconfig"))?;
    let came_out = fs::read_to_string(&config).context("read the kernel's configuration")?;
    let lost = lost(options, &came_out);
    if lost.is_empty() {
        Ok(())
    } else {
        Err(Error::failed(format!(
            "this kernel does not take these lines of integration/resources/lab-kernel*.config: {}",
            lost.join(", ")
        )))
    }
}

/// The options that the configuration lacks. An option that must be off may also be unknown.
fn lost<'a>(wanted: &'a str, came_out: &str) -> Vec<&'a str> {
    wanted
        .lines()
        .filter(|line| match line.strip_prefix("# ") {
            Some(off) => off
                .strip_suffix(" is not set")
                .is_some_and(|name| came_out.contains(&format!("\n{name}="))),
            None => line.starts_with("CONFIG_") && !came_out.lines().any(|have| have == *line),
        })
        .collect()
}

fn compile(source: &Path, step: &Step) -> Result<()> {
    let log = source.join("lab-build.log");
    let errors = fs::File::create(&log).context(format!("make {}", log.display()))?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut child = make(source)
        .arg(format!("-j{jobs}"))
        .arg("bzImage")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .context("run make")?;
    let stdout = child.stdout.take().expect("stdout is a pipe");
    let mut compiled = 0;
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        if let Some(file) = line.trim_start().strip_prefix("CC ") {
            compiled += 1;
            step.at(&format!("{compiled} files compiled, {}", file.trim()));
        }
    }
    let status = child.wait().context("wait for make")?;
    if status.success() {
        Ok(())
    } else {
        let said = fs::read_to_string(&log).unwrap_or_default();
        let first: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("rror"))
            .take(5)
            .collect();
        Err(Error::failed(format!(
            "the lab's kernel does not build: {}",
            first.join("; ")
        )))
    }
}

fn make(source: &Path) -> Command {
    let mut make = Command::new("make");
    // make and cargo set these variables for their children. The kernel's build must not read them.
    for name in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "CARGO", "RUSTFLAGS"] {
        make.env_remove(name);
    }
    make.arg("--directory").arg(PathBuf::from(source));
    make
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_does_not_take_is_seen() {
        let wanted =
            "# a comment\nCONFIG_A=y\nCONFIG_B=8\n# CONFIG_C is not set\n# CONFIG_D is not set\n";
        let came_out = "CONFIG_X=y\nCONFIG_A=y\nCONFIG_B=4\nCONFIG_D=y\n";
        assert_eq!(
            lost(wanted, came_out),
            ["CONFIG_B=8", "# CONFIG_D is not set"]
        );
    }
}
