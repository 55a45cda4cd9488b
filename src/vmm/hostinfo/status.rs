//! A process's name and status (proc_pid_status(5)), which every user may read.

use std::fs;
use std::path::Path;

/// The name of a VMM's process.
pub(super) const VMM: &str = "mini-vmm";

/// The status of a process, by its number or `self`; empty if it has ended.
pub(super) fn status(proc: &Path, pid: &str) -> String {
    fs::read_to_string(proc.join(pid).join("status")).unwrap_or_default()
}

/// The status of the process that asks, which is the first of those that are not looked at. This
/// one may look for it as another user. Where /proc hides it (`hidepid=`), this process's own.
pub(super) fn status_of_asker(proc: &Path, without: &[u32]) -> String {
    let asker = without.first().map(|pid| status(proc, &pid.to_string()));
    let seen = asker.filter(|text| !text.is_empty());
    seen.unwrap_or_else(|| status(proc, "self"))
}

/// The first word of a field.
pub(super) fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = status.lines();
    let rest = lines.find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()
}

/// The real user of a process.
pub(super) fn user(status: &str) -> Option<&str> {
    field(status, "Uid:")
}

/// A process's name, without what a terminal would take for a command.
pub(super) fn name(proc: &Path, pid: &str) -> String {
    let name = fs::read(proc.join(pid).join("comm")).unwrap_or_default();
    let name = String::from_utf8_lossy(&name);
    name.trim().chars().filter(|c| !c.is_control()).collect()
}
