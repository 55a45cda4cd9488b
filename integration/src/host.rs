//! The programs that L0 needs, and the lab's directories on L0. The lab installs nothing. `make
//! deps` installs the programs, and the hints name that command.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Context, Error, Result};

/// The environment variable that turns a skip into a failure. An empty value and 0 do not count.
pub const REQUIRE: &str = "MINI_VMM_REQUIRE";

/// The programs of L0 that every lab machine needs.
#[derive(Clone, Debug)]
pub struct Host {
    /// QEMU, the machine emulator.
    pub qemu: PathBuf,
    /// A static busybox, the whole user space of L1 and L2.
    pub busybox: PathBuf,
}

impl Host {
    /// Finds all programs. The error names each missing program.
    pub fn find() -> Result<Self> {
        if !cfg!(target_arch = "x86_64") {
            return Err(Error::cannot_run(
                "the lab builds and runs x86-64 programs, and this machine is not x86-64",
                "run it on an x86-64 machine",
            ));
        }
        let qemu = program("qemu-system-x86_64");
        let busybox = program("busybox").filter(|path| is_static(path));
        match (qemu, busybox) {
            (Some(qemu), Some(busybox)) => Ok(Self { qemu, busybox }),
            (qemu, busybox) => {
                let mut missing = Vec::new();
                if qemu.is_none() {
                    missing.push("qemu-system-x86_64");
                }
                if busybox.is_none() {
                    missing.push("a static busybox");
                }
                Err(Error::cannot_run(
                    format!("this machine lacks {}", missing.join(" and ")),
                    "make deps",
                ))
            }
        }
    }
}

/// Whether a host that cannot run the lab counts as a failure.
pub fn required() -> bool {
    env::var_os(REQUIRE).is_some_and(|value| !value.is_empty() && value != "0")
}

/// Finds a program on PATH or in the directories of root's programs.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

fn is_static(path: &Path) -> bool {
    // ldd fails on a file that has no dynamic section.
    Command::new("ldd")
        .arg(path)
        .output()
        .is_ok_and(|output| !output.status.success())
}

/// The directory of downloads. The directory is outside of the source tree, so that `cargo clean`
/// keeps it.
pub fn cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env::var_os("HOME").ok_or_else(|| {
            Error::cannot_run(
                "neither XDG_CACHE_HOME nor HOME is set, so the kernel cache has no directory",
                "export XDG_CACHE_HOME=/var/tmp/cache",
            )
        })?)
        .join(".cache"),
    };
    Ok(base.join("mini-vmm"))
}

/// The workspace from which this lab was built.
pub fn workspace() -> &'static Path {
    let member = Path::new(env!("CARGO_MANIFEST_DIR"));
    member.parent().unwrap_or(member)
}

/// cargo's target directory.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(
        || workspace().join("target"),
        |dir| workspace().join(PathBuf::from(dir)),
    )
}

/// The directory of a machine: its images, archives and logs.
pub fn dir(name: &str) -> PathBuf {
    target().join("lab").join(name)
}

/// Creates an empty directory for a machine.
pub fn fresh_dir(name: &str) -> Result<PathBuf> {
    let dir = dir(name);
    forget(&dir)?;
    std::fs::create_dir_all(&dir).context(format!("make {}", dir.display()))?;
    Ok(dir)
}

/// Removes the directory of an earlier machine, if there is one.
pub fn forget(dir: &Path) -> Result<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).context(format!("remove {}", dir.display()))?;
    }
    Ok(())
}

/// Lists a directory. The list is empty if the directory cannot be read.
pub fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).map_or_else(
        |_| Vec::new(),
        |list| list.flatten().map(|entry| entry.path()).collect(),
    )
}

/// Runs a command and returns its standard output. The error has the last lines of its messages.
pub fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().context(format!("run {name}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = stderr.lines().rev().take(5).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    Err(Error::failed(format!(
        "{name} ended with {}: {}",
        output.status,
        last.join("; ")
    )))
}
