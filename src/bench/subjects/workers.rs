//! The threads that work for a VMM: its own, and the kernel's for it. Those of io_uring are threads
//! of the VMM since Linux 5.12 (`iou-wrk-TID`, io_uring/io-wq.c), and those of vhost since Linux
//! 6.4 (`vhost-TID`, kernel/vhost_task.c). Before, vhost's were threads of the kernel with the same
//! name (drivers/vhost/vhost.c). TID is the VMM's thread that has set it up.

use std::fs;
use std::path::{Path, PathBuf};

/// The thread of the kernel that starts all others (kernel/kthread.c).
const KTHREADD: u32 = 2;

/// The directories in /proc of all threads that work for a process. `process` is its own.
pub(super) fn all(process: &Path) -> Vec<PathBuf> {
    let mut all = own(process);
    all.extend(of_kernel(process).into_iter().map(|(_, path)| path));
    all
}

fn own(process: &Path) -> Vec<PathBuf> {
    let tasks = fs::read_dir(process.join("task"));
    let tasks = tasks.into_iter().flatten().flatten();
    tasks.map(|task| task.path()).collect()
}

/// The threads that belong to the kernel, not to the process: their numbers and directories.
pub(super) fn of_kernel(process: &Path) -> Vec<(i32, PathBuf)> {
    let own = own(process);
    let is_own = |thread: &str| own.iter().any(|task| task.ends_with(thread));
    let proc = process.parent().unwrap_or(process);
    let all = fs::read_dir(proc).into_iter().flatten().flatten();
    all.filter_map(|entry| {
        let number = entry.file_name().to_string_lossy().parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let (name, parent) = name_and_parent(&stat)?;
        // A program may give itself any name, but not this parent.
        let is_worker = parent == KTHREADD && is_own(name.strip_prefix("vhost-")?);
        is_worker.then(|| (number, entry.path()))
    })
    .collect()
}

/// The name of a process, and its parent (proc_pid_stat(5)).
fn name_and_parent(stat: &str) -> Option<(&str, u32)> {
    let (_, rest) = stat.split_once('(')?;
    let (name, rest) = rest.rsplit_once(')')?;
    let parent = rest.split_ascii_whitespace().nth(1)?;
    Some((name, parent.parse().ok()?))
}

/// The name of a kind of threads: without the number that makes the names of several differ.
pub(super) fn kind(name: &str) -> &str {
    match name.rsplit_once('-') {
        Some((kind, number)) if number.parse::<u32>().is_ok() => kind,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vhost_s_threads_of_older_kernels_are_found() {
        let proc = std::env::temp_dir().join(format!("bench-workers-{}", std::process::id()));
        for thread in ["70", "71"] {
            fs::create_dir_all(proc.join("70/task").join(thread)).unwrap();
        }
        for (number, stat) in [
            ("2", "2 (kthreadd) S 0 0"),
            ("70", "70 (qemu-system-x86) S 1 70"),
            ("80", "80 (vhost-70) S 2 0"),
            ("81", "81 (vhost-71) S 2 0"),
            // Another VMM's, one whose number begins alike, and a program that has such a name.
            ("82", "82 (vhost-90) S 2 0"),
            ("83", "83 (vhost-7) S 2 0"),
            ("84", "84 (vhost-70) S 1 84"),
            ("85", "85 (kworker) 1 (x) S 2 0"),
        ] {
            fs::create_dir_all(proc.join(number)).unwrap();
            fs::write(proc.join(number).join("stat"), stat).unwrap();
        }
        let process = proc.join("70");
        let mut found: Vec<i32> = of_kernel(&process).into_iter().map(|(n, _)| n).collect();
        found.sort_unstable();
        let all = all(&process).len();
        fs::remove_dir_all(&proc).unwrap();
        assert_eq!((found, all), (vec![80, 81], 4));
    }

    #[test]
    fn a_name_may_have_any_letters() {
        assert_eq!(name_and_parent("7 (a) b(c) S 2 0"), Some(("a) b(c", 2)));
        assert_eq!(name_and_parent("7 a S 2"), None);
        for (name, wanted) in [
            ("vhost-1234", "vhost"),
            ("iou-wrk-70", "iou-wrk"),
            ("IO disk-thread", "IO disk-thread"),
            ("qemu-system-x86", "qemu-system-x86"),
            ("", ""),
        ] {
            assert_eq!(kind(name), wanted);
        }
    }
}
