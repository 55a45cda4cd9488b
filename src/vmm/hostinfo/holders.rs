//! Which processes have a device node open (proc_pid_fd(5)).
//!
//! Files are compared by their device number, not by their path: a container has nodes of its own,
//! and a path in another mount namespace says nothing.

use std::fmt;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// A process, by its number and its name.
pub type Holder = (u32, String);

/// The processes that have a node open, as far as this process may see them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// In the order of their numbers.
    pub processes: Vec<Holder>,
    /// Whether there are processes whose open files this user may not see.
    pub hidden: bool,
}

impl Holders {
    /// The other processes that have one of `nodes` open. A node that does not exist is open
    /// nowhere.
    pub fn of(nodes: &[&Path]) -> Self {
        let numbers = nodes.iter().filter_map(|node| device_number(node));
        let numbers: Vec<u64> = numbers.collect();
        let own = std::process::id();
        Self::find(Path::new("/proc"), own, |file| {
            device_number(file).is_some_and(|number| numbers.contains(&number))
        })
    }

    /// The processes below `proc`, without `own`, of which a file satisfies `wanted`.
    fn find(proc: &Path, own: u32, wanted: impl Fn(&Path) -> bool) -> Self {
        let mut found = Self::default();
        let entries = fs::read_dir(proc).into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        for pid in pids.filter(|pid| *pid != own) {
            let Ok(files) = fs::read_dir(proc.join(format!("{pid}/fd"))) else {
                // A process that has just ended has hidden nothing.
                found.hidden |= proc.join(pid.to_string()).exists();
                continue;
            };
            if files.flatten().any(|file| wanted(&file.path())) {
                found.processes.push((pid, name(proc, pid)));
            }
        }
        found.processes.sort();
        found
    }
}

/// A process's name, without what a terminal would take for a command.
fn name(proc: &Path, pid: u32) -> String {
    let name = fs::read(proc.join(format!("{pid}/comm"))).unwrap_or_default();
    let name = String::from_utf8_lossy(&name);
    name.trim().chars().filter(|c| !c.is_control()).collect()
}

/// The number of the character device behind a path.
fn device_number(path: &Path) -> Option<u64> {
    let data = fs::metadata(path).ok()?;
    data.file_type().is_char_device().then(|| data.rdev())
}

impl fmt::Display for Holders {
    /// `process 12 (mini-vmm) has it open`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.processes[..] {
            [(pid, name)] => write!(f, "process {pid} ({name}) has it open"),
            [] if self.hidden => f.write_str(
                "a process has it open that this user cannot see, because it is another user's",
            ),
            [] => f.write_str("another process has it open, but no process of this /proc"),
            several => {
                let names: Vec<_> = several.iter().map(|(p, n)| format!("{p} ({n})")).collect();
                write!(f, "processes {} have it open", names.join(", "))
            }
        }
    }
}

impl Holders {
    /// The command that ends the processes or shows them.
    pub fn hint(&self, node: &str) -> String {
        match &self.processes[..] {
            [] if self.hidden => format!("as root: fuser -v {node}"),
            [] => "look for it outside of this container, as root: mini-vmm host list".into(),
            [(pid, _)] => format!("end it first, for example with `kill {pid}`"),
            several => {
                let pids: Vec<_> = several.iter().map(|(pid, _)| pid.to_string()).collect();
                format!("end them first, for example with `kill {}`", pids.join(" "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn another_process_is_found_by_the_device_number() {
        let file = File::open("/dev/full").unwrap();
        let mut child = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::from(file))
            .spawn()
            .unwrap();
        let pid = child.id();
        let mut found = Holders::default();
        for _ in 0..2000 {
            found = Holders::of(&[Path::new("/dev/full"), Path::new("/dev/nowhere")]);
            if found.processes.contains(&(pid, "sleep".into())) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            found.processes.contains(&(pid, "sleep".into())),
            "{found:?}"
        );
        // This process does not count.
        let own = std::process::id();
        assert!(found.processes.iter().all(|(pid, _)| *pid != own));
        assert!(
            Holders::of(&[Path::new("/dev/nowhere")])
                .processes
                .is_empty()
        );
    }

    #[test]
    fn what_cannot_be_seen_is_said() {
        let holders = |processes: &[(u32, &str)], hidden| Holders {
            processes: processes.iter().map(|(p, n)| (*p, (*n).into())).collect(),
            hidden,
        };
        for (holders, says, hint) in [
            (
                holders(&[(7, "mini-vmm")], true),
                "process 7 (mini-vmm) has it open",
                "end it first, for example with `kill 7`",
            ),
            (
                holders(&[(7, "a"), (9, "b")], false),
                "processes 7 (a), 9 (b) have it open",
                "end them first, for example with `kill 7 9`",
            ),
            (
                holders(&[], true),
                "a process has it open that this user cannot see, because it is another user's",
                "as root: fuser -v /dev/x",
            ),
        ] {
            assert_eq!(holders.to_string(), says);
            assert_eq!(holders.hint("/dev/x"), hint);
        }
        assert!(holders(&[], false).to_string().contains("of this /proc"));
    }
}
