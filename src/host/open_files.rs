//! Finds the processes that use a file: that have it open, or have mapped it (proc_pid_fd(5),
//! proc_pid_maps(5)).
//!
//! Nothing here asks a file system that may not answer: a link under /proc leads to the inode
//! without a walk, and its kind and number are taken as they are (`AT_STATX_DONT_SYNC`).

use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};
use serde::{Deserialize, Serialize};

use crate::limited;
use crate::nodes::{Kind, Node};
use crate::paths::HostPaths;

/// A process, by its number and its name.
pub(super) type Holder = (u32, String);

/// The number of a device node.
type Number = (Kind, u32, u32);

/// The files to look for, by path or by the number of a device node.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    paths: Vec<PathBuf>,
    numbers: Vec<Number>,
}

impl Files {
    /// These nodes.
    pub(super) fn of(nodes: Vec<Node>) -> Self {
        let mut files = Self::default();
        for node in nodes {
            match node {
                Node::Number(kind, major, minor) => files.numbers.push((kind, major, minor)),
                Node::Path(path) => files.paths.push(path),
            }
        }
        files
    }

    /// The files of a list that are among these.
    pub(super) fn among<'a>(&self, open: &'a [Open]) -> impl Iterator<Item = &'a Open> {
        open.iter().filter(|open| {
            self.paths.contains(&open.path)
                || open
                    .number
                    .is_some_and(|number| self.numbers.contains(&number))
        })
    }
}

/// A process and a file that it uses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Open {
    /// The process ID.
    pub(super) process: u32,
    /// The name of the process.
    pub(super) name: String,
    /// The path by which the process opened the file.
    pub(super) path: PathBuf,
    /// The number, if the file is a device node.
    pub(super) number: Option<Number>,
}

/// The processes that use one of these files, in order of process ID. Root sees all processes;
/// another user sees only the user's own processes.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`]: a process hung, and the kernel did not answer about it.
pub(super) fn holders(paths: &HostPaths, files: &[PathBuf]) -> io::Result<Vec<Holder>> {
    let files = Files {
        paths: files.to_vec(),
        numbers: Vec::new(),
    };
    let found = limited::within(limited::LIMIT, || {
        let open = open_files(paths);
        let holders = files
            .among(&open)
            .map(|open| (open.process, open.name.clone()));
        holders.collect::<Vec<Holder>>()
    });
    let mut holders = found?;
    holders.dedup();
    Ok(holders)
}

/// All pairs of a process and a device node or a file below /dev that the process uses, sorted and
/// without repetition.
pub(super) fn open_files(paths: &HostPaths) -> Vec<Open> {
    let processes = fs::read_dir(&paths.proc).into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut found = Vec::new();
    for pid in pids {
        let process = paths.proc.join(pid.to_string());
        let mut files = opened(&process, &paths.dev);
        files.extend(mapped(&process, &paths.dev));
        if files.is_empty() {
            continue;
        }
        let name = fs::read_to_string(process.join("comm"));
        let name = name.unwrap_or_default().trim().to_owned();
        found.extend(files.into_iter().map(|(path, number)| Open {
            process: pid,
            name: name.clone(),
            path,
            number,
        }));
    }
    found.sort();
    found.dedup();
    found
}

type File = (PathBuf, Option<Number>);

fn opened(process: &Path, dev: &Path) -> Vec<File> {
    let links = fs::read_dir(process.join("fd")).into_iter().flatten();
    let links = links.flatten().map(|entry| entry.path());
    let found = links.filter_map(|link| {
        let to = fs::read_link(&link).ok()?;
        // Pipes and sockets have no path.
        let number = to.is_absolute().then(|| number(&link)).flatten();
        (number.is_some() || to.starts_with(dev)).then(|| (without_mark(&to), number))
    });
    found.collect()
}

/// A mapping keeps its file open after the descriptor is closed.
fn mapped(process: &Path, dev: &Path) -> Vec<File> {
    let maps = fs::read(process.join("maps")).unwrap_or_default();
    let maps = String::from_utf8_lossy(&maps);
    let found = maps.lines().filter_map(|line| {
        // Range, access, offset, device, inode, path.
        let range = line.split(' ').next()?;
        let at = line.find(" /")?;
        let to = Path::new(line.get(at + 1..)?);
        // Nodes are below /dev; the files of programs are most of the lines.
        if !to.starts_with("/dev") && !to.starts_with(dev) {
            return None;
        }
        // Without the right to follow the link, the path must do.
        let link = process.join("map_files").join(range);
        Some((without_mark(to), number(&link).or_else(|| number(to))))
    });
    found.collect()
}

/// The path without the mark of a removed file.
fn without_mark(path: &Path) -> PathBuf {
    let text = path.to_string_lossy();
    text.strip_suffix(" (deleted)")
        .map_or_else(|| path.into(), PathBuf::from)
}

/// The kind and number of a device node.
fn number(path: &Path) -> Option<Number> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let facts = statx(CWD, path, flags, StatxFlags::TYPE).ok()?;
    let kind = match FileType::from_raw_mode(facts.stx_mode.into()) {
        FileType::CharacterDevice => Kind::Character,
        FileType::BlockDevice => Kind::Block,
        _ => return None,
    };
    Some((kind, facts.stx_rdev_major, facts.stx_rdev_minor))
}

/// Whether this user sees the open files of all processes, as root does: the link of a file under
/// /proc can be read with CAP_SYS_PTRACE (ptrace(2)).
pub(super) fn sees_all(proc: &Path) -> bool {
    const CAP_SYS_PTRACE: u32 = 19;
    let status = fs::read_to_string(proc.join("self/status")).unwrap_or_default();
    let mut lines = status.lines();
    let field = lines.find_map(|line| line.strip_prefix("CapEff:"));
    let set = field.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    set.is_some_and(|set| set & 1 << CAP_SYS_PTRACE != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::tree::Tree;

    /// What is found of /dev/null, which is on every host, and at which anybody may look.
    fn null(tree: &Tree, kind: Kind) -> Vec<(u32, String, PathBuf)> {
        let files = Files::of(vec![Node::Number(kind, 1, 3)]);
        let open = open_files(&tree.paths());
        let found = files.among(&open).cloned();
        found
            .map(|open| (open.process, open.name, open.path))
            .collect()
    }

    fn process(tree: &Tree, pid: u32, name: &str) -> PathBuf {
        tree.file(&format!("proc/{pid}/comm"), &format!("{name}\n"));
        tree.directory(&format!("proc/{pid}/fd"));
        tree.path(&format!("proc/{pid}"))
    }

    #[test]
    fn nodes_by_number_and_by_path() {
        let tree = Tree::new();
        let holder = process(&tree, 12, "player");
        symlink("/dev/zero", holder.join("fd/0")).unwrap();
        symlink("pipe:[7]", holder.join("fd/1")).unwrap();
        assert_eq!(null(&tree, Kind::Character), []);
        symlink("/dev/null", holder.join("fd/3")).unwrap();
        symlink("/dev/null", holder.join("fd/4")).unwrap();
        let found = (12, "player".to_owned(), PathBuf::from("/dev/null"));
        assert_eq!(null(&tree, Kind::Character), [found]);
        assert_eq!(null(&tree, Kind::Block), []);
        assert_eq!(
            holders(&tree.paths(), &["/dev/zero".into()]).unwrap(),
            [(12, "player".to_owned())]
        );
        assert_eq!(holders(&tree.paths(), &[]).unwrap(), []);
    }

    #[test]
    fn mapped_nodes_count() {
        let tree = Tree::new();
        let holder = process(&tree, 13, "mapper");
        let maps = "7f0000000000-7f0000001000 rw-s 00000000 00:05 4 /dev/zero\n\
                    7f0000002000-7f0000003000 r-xp 00000000 08:01 5 /usr/bin/a program\n\
                    7f0000004000-7f0000005000 rw-p 00000000 00:00 0 [heap]\n";
        std::fs::write(holder.join("maps"), maps).unwrap();
        assert_eq!(null(&tree, Kind::Character), []);
        // A removed node: only the link leads to it.
        let line = "7f0000006000-7f0000007000 rw-s 00000000 00:05 4 /dev/gone (deleted)\n";
        std::fs::write(holder.join("maps"), format!("{maps}{line}")).unwrap();
        std::fs::create_dir(holder.join("map_files")).unwrap();
        let link = holder.join("map_files/7f0000006000-7f0000007000");
        symlink("/dev/null", link).unwrap();
        let found = (13, "mapper".to_owned(), PathBuf::from("/dev/gone"));
        assert_eq!(null(&tree, Kind::Character), [found]);
    }

    #[test]
    fn who_sees_all() {
        let tree = Tree::new();
        let proc = tree.path("proc");
        assert!(!sees_all(&proc));
        tree.file("proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n");
        assert!(sees_all(&proc));
        tree.file("proc/self/status", "CapEff:\t0000000000000000\n");
        assert!(!sees_all(&proc));
    }
}
