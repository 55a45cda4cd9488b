//! Finds the processes that have a file open (proc_pid_fd(5)).

use std::fs;
use std::path::{Path, PathBuf};

/// A process, by its number and its name.
pub(super) type Holder = (u32, String);

/// The processes that have one of these files open, in order of process ID. Root sees all
/// processes; another user sees only the user's own processes.
pub(super) fn holders(proc: &Path, files: &[PathBuf]) -> Vec<Holder> {
    let mut holders: Vec<_> = open_files(proc, files).map(|(holder, _)| holder).collect();
    holders.dedup();
    holders
}

/// Pairs of a process and one of these files that the process has open, sorted and without
/// repetition.
pub(super) fn open_files(
    proc: &Path,
    files: &[PathBuf],
) -> impl Iterator<Item = (Holder, PathBuf)> {
    let processes = fs::read_dir(proc).into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut found = Vec::new();
    for pid in pids {
        let fds = fs::read_dir(proc.join(format!("{pid}/fd")));
        let open = fds.into_iter().flatten().flatten();
        let open = open.filter_map(|fd| fs::read_link(fd.path()).ok());
        let open: Vec<_> = open.filter(|to| files.contains(to)).collect();
        if open.is_empty() {
            continue;
        }
        let name = fs::read_to_string(proc.join(format!("{pid}/comm")));
        let name = name.unwrap_or_default().trim().to_owned();
        found.extend(open.into_iter().map(|to| ((pid, name.clone()), to)));
    }
    found.sort();
    found.dedup();
    found.into_iter()
}
