//! mini-vmm with the programs of a fleet: udev, a container engine, Slurm, Debian's tools. `make
//! fleet` runs these tests as root, because they need programs that other tests do not.
//!
//! A test whose program is missing prints `SKIPPED` and why, or fails if `MINI_VMM_REQUIRE=1` is in
//! the environment.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[path = "../common/mod.rs"]
mod common;

mod cdi;
mod deb;
mod kubernetes;
mod slurm;
mod udev;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mini-vmm");

/// Prints why a test cannot run here, or fails where it must run.
fn skipped(why: &str) {
    let required = std::env::var_os("MINI_VMM_REQUIRE").is_some_and(|v| v == "1");
    assert!(!required, "{why}");
    eprintln!("SKIPPED: {why}");
}

/// Whether this is root and has these programs. Says so if not.
fn can_run(programs: &[&str]) -> bool {
    if !rustix::process::geteuid().is_root() {
        skipped("only root can make namespaces with device nodes");
        return false;
    }
    for program in programs {
        if find(program).is_none() {
            skipped(&format!("there is no {program}: make deps-fleet"));
            return false;
        }
    }
    true
}

/// A program of this machine, in root's folders too.
fn find(program: &str) -> Option<PathBuf> {
    let folders = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"];
    let mut paths = folders.iter().map(|folder| Path::new(folder).join(program));
    paths.find(|path| path.exists())
}

/// Runs a shell script in a mount namespace of its own. `$1` is the folder.
fn in_namespace(script: &str, folder: &Path) -> Output {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-e", "-u", "-c", script, "sh"]);
    command.arg(folder).env("PROGRAM", PROGRAM);
    command.output().expect("unshare can be started")
}

/// The output of a script that must succeed.
#[track_caller]
fn text_of(output: Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{error}");
    text
}

/// Writes a file and makes the folders above it.
fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
    std::fs::write(path, text).expect("write a file");
}
