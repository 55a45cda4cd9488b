//! Which processes have a device node open (proc_pid_fd(5)).
//!
//! Files are compared by their device number, not by their path: a container has nodes of its own,
//! and a path in another mount namespace says nothing.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::hostinfo::guardian;
use crate::hostinfo::looker::{self, Look};
use crate::hostinfo::status::{VMM, name, status, status_of_asker, user};

/// A process, by its number and its name.
pub type Holder = (u32, String);

/// The processes that have a node open, as far as this process may see them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// In the order of their numbers.
    pub processes: Vec<Holder>,
    /// Those of them that are guardians of runs that have ended.
    pub leftovers: Vec<u32>,
    /// Whether there are processes whose open files this process may not see.
    pub hidden: bool,
    /// Those of them that belong to this user, such as a VMM that its sandbox hides.
    pub own_hidden: Vec<Holder>,
}

impl Holders {
    /// The other processes that have one of `nodes` open. A node that does not exist is open
    /// nowhere. A confined process lets another one look.
    pub fn of(nodes: &[&Path]) -> Self {
        let names = || nodes.iter().map(|node| node.to_string_lossy().into());
        match looker::ask(|| Look::Holders(names().collect())) {
            None => Self::look(nodes, &[std::process::id()]),
            Some(answer) => answer
                .ok()
                .and_then(|lines| Self::from_lines(&lines))
                .unwrap_or_else(Self::refused),
        }
    }

    /// What a process knows that may not look.
    fn refused() -> Self {
        Self {
            hidden: true,
            ..Self::default()
        }
    }

    /// As [`Holders::of`], by this process itself, for the first of the processes `without`, which
    /// are not looked at.
    pub fn look(nodes: &[&Path], without: &[u32]) -> Self {
        let numbers = nodes.iter().filter_map(|node| device_number(node).ok()?);
        let numbers: Vec<u64> = numbers.collect();
        Self::find(Path::new("/proc"), without, |file| {
            let number = device_number(file)?;
            Ok(number.is_some_and(|number| numbers.contains(&number)))
        })
    }

    /// The processes below `proc`, without some, of which a file satisfies `wanted`.
    fn find(proc: &Path, without: &[u32], wanted: impl Fn(&Path) -> io::Result<bool>) -> Self {
        let Ok(entries) = fs::read_dir(proc) else {
            return Self::refused();
        };
        let asker = status_of_asker(proc, without);
        let own = user(&asker);
        let mut found = Self::default();
        let entries = entries.flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        for pid in pids.filter(|pid| !without.contains(pid)) {
            let process = proc.join(pid.to_string());
            match any_file(&process, &wanted) {
                Ok(true) => {
                    let name = name(proc, &pid.to_string());
                    if guardian::is_leftover(proc, pid, &name) {
                        found.leftovers.push(pid);
                    }
                    found.processes.push((pid, name));
                }
                Ok(false) => {}
                // A process that has just ended has hidden nothing.
                Err(_) if !process.exists() => {}
                Err(_) => {
                    found.hidden = true;
                    if own.is_some() && user(&status(proc, &pid.to_string())) == own {
                        found.own_hidden.push((pid, name(proc, &pid.to_string())));
                    }
                }
            }
        }
        found.processes.sort();
        found
    }

    /// Whether all are guardians of runs that have ended, and there is one.
    pub fn are_leftovers(&self) -> bool {
        !self.leftovers.is_empty() && self.leftovers.len() == self.processes.len()
    }

    /// The value as lines of text, for the process that has asked.
    pub fn to_lines(&self) -> String {
        let processes = self.processes.iter();
        let processes = processes.map(|(pid, name)| format!("open {pid} {name}\n"));
        let leftovers = self.leftovers.iter().map(|pid| format!("leftover {pid}\n"));
        let hidden = self.hidden.then(|| "hidden\n".to_owned());
        let own = self.own_hidden.iter();
        let own = own.map(|(pid, name)| format!("own {pid} {name}\n"));
        processes
            .chain(leftovers)
            .chain(hidden)
            .chain(own)
            .collect()
    }

    /// The value from its lines; `None` if they are none of [`Holders::to_lines`].
    pub fn from_lines(lines: &str) -> Option<Self> {
        let mut holders = Self::default();
        for line in lines.lines() {
            let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
            let (pid, name) = rest.split_once(' ').unwrap_or((rest, ""));
            let holder = || Some((pid.parse().ok()?, name.to_owned()));
            match kind {
                "open" => holders.processes.push(holder()?),
                "leftover" => holders.leftovers.push(pid.parse().ok()?),
                "hidden" => holders.hidden = true,
                "own" => holders.own_hidden.push(holder()?),
                _ => return None,
            }
        }
        Some(holders)
    }
}

/// Whether one of a process's open files satisfies `wanted`. Root may list files at which it may
/// not look (fs/proc/fd.c, proc_fd_permission, and fs/proc/base.c, proc_pid_get_link).
fn any_file(process: &Path, wanted: impl Fn(&Path) -> io::Result<bool>) -> io::Result<bool> {
    let mut refused = None;
    for file in fs::read_dir(process.join("fd"))?.flatten() {
        match wanted(&file.path()) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => refused = Some(e),
            // It has been closed.
            Err(_) => {}
        }
    }
    refused.map_or(Ok(false), Err)
}

/// The number of the character device behind a path, if there is one.
fn device_number(path: &Path) -> io::Result<Option<u64>> {
    let data = fs::metadata(path)?;
    Ok(data.file_type().is_char_device().then(|| data.rdev()))
}

impl fmt::Display for Holders {
    /// `process 12 (mini-vmm) has it open`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.processes[..] {
            [(pid, name)] => write!(f, "process {pid} ({name}) has it open"),
            [] if self.hidden => {
                f.write_str("a process has it open that this user cannot see")?;
                let mut vmms = self.own_hidden.iter().filter(|(_, name)| name == VMM);
                match vmms.next() {
                    Some((pid, name)) => {
                        write!(
                            f,
                            ", perhaps process {pid} ({name}), which its sandbox hides"
                        )
                    }
                    None if self.own_hidden.is_empty() => {
                        f.write_str(", because it is another user's")
                    }
                    None => f.write_str(", because it is another user's or hides itself"),
                }
            }
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

    /// A process that may not look at all does not say that nobody has the node.
    #[test]
    fn a_refused_look_is_no_empty_one() {
        let found = Holders::find(Path::new("/nowhere"), &[], |_| Ok(false));
        assert!(found.hidden && found.processes.is_empty());
    }

    #[test]
    fn lines_arrive_as_they_were() {
        let holders = Holders {
            processes: vec![(7, "mini-vmm".into()), (8, "two words".into())],
            leftovers: vec![8],
            hidden: true,
            own_hidden: vec![(9, String::new())],
        };
        for holders in [holders, Holders::default()] {
            assert_eq!(Holders::from_lines(&holders.to_lines()), Some(holders));
        }
        for nonsense in ["x", "open", "open x y", "leftover -1", "own"] {
            assert_eq!(Holders::from_lines(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn what_cannot_be_seen_is_said() {
        let named = |all: &[(u32, &str)]| all.iter().map(|(p, n)| (*p, (*n).into())).collect();
        let holders = |processes: &[(u32, &str)], hidden| Holders {
            processes: named(processes),
            hidden,
            ..Holders::default()
        };
        let own = |own: &[(u32, &str)]| Holders {
            own_hidden: named(own),
            ..Holders::refused()
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
            (
                own(&[(5, "agent")]),
                "a process has it open that this user cannot see, because it is another user's or \
                 hides itself",
                "as root: fuser -v /dev/x",
            ),
            (
                own(&[(5, "agent"), (7, "mini-vmm")]),
                "a process has it open that this user cannot see, perhaps process 7 (mini-vmm), \
                 which its sandbox hides",
                "as root: fuser -v /dev/x",
            ),
        ] {
            assert_eq!(holders.to_string(), says);
            assert_eq!(holders.hint("/dev/x"), hint);
        }
        assert!(holders(&[], false).to_string().contains("of this /proc"));
    }
}
