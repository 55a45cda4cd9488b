//! Descriptors to open files, for each table of descriptors: threads share one, and fork copies it.

use std::collections::HashMap;

use libc::pid_t;

use crate::files::identify;
use crate::files::open_file::FileRef;
use crate::files::registry::{Registry, Told};
use crate::files::same::same;
use crate::shared::{Id, Shared};

/// The most descriptors of a table that are remembered; more are looked up each time.
const MOST: usize = 1 << 16;

/// A file that the trace names, or `None` for another.
type Table = HashMap<i32, Option<FileRef>>;

/// All tables of a trace.
#[derive(Debug, Default)]
pub struct Tables {
    /// The tables by their users.
    pub shared: Shared<Table>,
    registry: Registry,
    /// The table of each process's newest thread.
    processes: HashMap<pid_t, Id>,
}

impl Tables {
    /// A process has this table from now on, or none any more.
    pub fn process(&mut self, pid: pid_t, table: Option<Id>) {
        match table {
            Some(id) => self.processes.insert(pid, id),
            None => self.processes.remove(&pid),
        };
    }

    /// The file that pidfd_getfd(2) has copied to a thread's descriptor from a traced process. The
    /// registry cannot tell if the descriptor that it compares with is gone.
    pub fn copied(&mut self, to: (pid_t, i32), (pidfd, from): (i32, i32)) -> Option<FileRef> {
        let pid = identify::of_pidfd(to.0, pidfd)?;
        let file = self.file(*self.processes.get(&pid)?, pid, from)?;
        // The process may have another file there by now, or this thread's own table.
        (same(to, (pid, from)) != Some(false)).then_some(file)
    }

    /// The file of a thread's descriptor, if the trace names it.
    pub fn file(&mut self, id: Id, tid: pid_t, fd: i32) -> Option<FileRef> {
        let table = self.shared.get(id)?;
        if let Some(file) = table.get(&fd) {
            return file.clone();
        }
        let file = self.registry.find(tid, fd, None);
        // A call on a number that is no descriptor says nothing of what gets the number later.
        if table.len() < MOST && (file.is_some() || identify::link(tid, fd).is_some()) {
            table.insert(fd, file.clone());
        }
        file
    }

    /// The file of a descriptor that a call has just made.
    pub fn made(&mut self, id: Id, tid: pid_t, fd: i32, told: Told) -> Option<FileRef> {
        let file = self.registry.find(tid, fd, Some(told));
        let table = self.shared.get(id)?;
        if table.len() < MOST {
            table.insert(fd, file.clone());
        }
        file
    }

    /// A message has brought a descriptor.
    pub fn received(&mut self, id: Id, (tid, fd): (pid_t, i32), file: Option<FileRef>) {
        if let Some(file) = &file {
            self.registry.moved(file, (tid, fd));
        }
        let Some(table) = self.shared.get(id) else {
            return;
        };
        if table.len() < MOST {
            table.insert(fd, file);
        }
    }

    /// `new` leads to where `old` does.
    pub fn duplicate(&mut self, id: Id, old: i32, new: i32) {
        let Some(table) = self.shared.get(id) else {
            return;
        };
        match table.get(&old).cloned() {
            Some(file) => table.insert(new, file),
            None => table.remove(&new),
        };
    }

    /// The descriptors `first` to `last` are closed.
    pub fn close(&mut self, id: Id, first: u32, last: u32) {
        let Some(table) = self.shared.get(id) else {
            return;
        };
        if first == last {
            table.remove(&(first as i32));
        } else {
            table.retain(|fd, _| *fd < 0 || !(first..=last).contains(&(*fd as u32)));
        }
    }

    /// A thread has executed a program: descriptors with close-on-exec are gone.
    pub fn exec(&mut self, id: Id, tid: pid_t) {
        if let Some(table) = self.shared.get(id) {
            table.retain(|fd, file| file.is_some() && identify::link(tid, *fd).is_some());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_number_that_was_no_descriptor_is_looked_up_again() {
        let own = std::process::id() as pid_t;
        let mut tables = Tables::default();
        let id = tables.shared.add(Table::default());
        let null = File::open("/dev/null").unwrap();
        assert_eq!(tables.file(id, own, null.as_raw_fd()), None);
        assert!(
            tables
                .shared
                .get(id)
                .unwrap()
                .contains_key(&null.as_raw_fd())
        );
        // No process may have so many descriptors.
        assert_eq!(tables.file(id, own, i32::MAX), None);
        assert_eq!(tables.shared.get(id).unwrap().len(), 1);
    }
}
