//! The process that outlives a run, to end the run's calls and to give its devices back.

use std::io;
use std::path::{Path, PathBuf};

use crate::hostinfo::status::{self, VMM};

/// The name of the process.
pub const NAME: &str = "vmm-guardian";

/// Whether a process is the guardian of a run that has ended. A guardian is a child of its run and
/// runs the same program; after the run's end it is another process's child.
pub(super) fn is_leftover(proc: &Path, pid: u32, name: &str) -> bool {
    let pid = pid.to_string();
    let program = |pid: &str| -> io::Result<PathBuf> { proc.join(pid).join("exe").read_link() };
    let (Ok(own), true) = (program(&pid), name == NAME) else {
        return false;
    };
    let Some(parent) = parent(proc, &pid) else {
        return false;
    };
    match program(&parent) {
        Ok(program) => program != own,
        // A run that its sandbox hides.
        Err(_) => status::name(proc, &parent) != VMM,
    }
}

/// The parent's number (proc_pid_stat(5), field 4), after the name, which may hold anything.
fn parent(proc: &Path, pid: &str) -> Option<String> {
    let stat = proc.join(pid).join("stat");
    let stat = std::fs::read_to_string(stat).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    Some(rest.split(' ').nth(1)?.to_owned())
}
