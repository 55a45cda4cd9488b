//! Assembles a reader's guest.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{env, fs};

use crate::commands::{Output, finish};
use crate::root;

/// A program that is gone when dropped.
pub struct Program(pub PathBuf);

/// Assembles `source` to a program whose name ends in `end`.
///
/// # Errors
/// The assembler's first message.
pub fn assemble(source: &Path, end: &str) -> Result<Program, String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("tour-{}-{number}", std::process::id());
    let program = Program(env::temp_dir().join(name).with_extension(end));
    let mut script = Command::new(root().join("docs/tour/assemble.sh"));
    let child = script
        .args([source, &program.0])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|e| format!("docs/tour/assemble.sh: {e}"))?;
    if child.status.success() {
        return Ok(program);
    }
    let text = String::from_utf8_lossy(&child.stderr);
    let error = text.lines().find(|line| line.contains("rror: "));
    Err(format!(
        "The assembler does not understand the file: {}.",
        error.or(text.lines().next()).unwrap_or("no message")
    ))
}

impl Drop for Program {
    fn drop(&mut self) {
        for end in ["o", "bin", "elf", "img"] {
            // Not every one of them is there.
            let _ = fs::remove_file(self.0.with_extension(end));
        }
    }
}

/// Runs a program of the workspace, whose errors are a part of what it prints.
///
/// # Errors
/// It cannot be run, or does not end within `limit`.
pub fn run(program: &str, arguments: &[&str], limit: Duration) -> Result<Output, String> {
    // Beside this program: target/debug/tour, or target/debug/deps/tour-... of a test.
    let own = env::current_exe().map_err(|e| format!("this program's name: {e}"))?;
    let folder = own
        .ancestors()
        .skip(1)
        .find(|folder| folder.join(program).is_file());
    let folder = folder.ok_or_else(|| format!("{program} is not built: cargo build"))?;
    let child = Command::new("bash")
        .args(["-c", "exec \"$0\" \"$@\" 2>&1"])
        .arg(folder.join(program))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|e| format!("{program}: {e}"))?;
    finish(child, limit)
}
