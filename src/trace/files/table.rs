//! Descriptors to open files, for each table of descriptors: threads share one, and fork copies it.

use std::collections::HashMap;

use libc::pid_t;

use crate::files::identify;
use crate::files::open_file::FileRef;
use crate::files::registry::{Registry, Told};

/// The most descriptors of a table that are remembered; more are looked up each time.
const MOST: usize = 1 << 16;

/// A table of descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TableId(u32);

/// A file that the trace names, or `None` for another.
type Table = HashMap<i32, Option<FileRef>>;

/// All tables of a trace.
#[derive(Debug, Default)]
pub struct Tables {
    tables: HashMap<TableId, (u32, Table)>,
    next: u32,
    registry: Registry,
}

impl Tables {
    /// An empty table, with one user.
    pub fn new_table(&mut self) -> TableId {
        self.insert(Table::new())
    }

    fn insert(&mut self, table: Table) -> TableId {
        self.next += 1;
        let id = TableId(self.next);
        self.tables.insert(id, (1, table));
        id
    }

    /// One user more.
    pub fn share(&mut self, id: TableId) -> TableId {
        if let Some((users, _)) = self.tables.get_mut(&id) {
            *users += 1;
        }
        id
    }

    /// A copy, as fork(2) makes it.
    pub fn copy(&mut self, id: TableId) -> TableId {
        let table = self.tables.get(&id).map(|(_, table)| table.clone());
        self.insert(table.unwrap_or_default())
    }

    /// One user less.
    pub fn leave(&mut self, id: TableId) {
        if let Some((users, _)) = self.tables.get_mut(&id) {
            *users -= 1;
            if *users == 0 {
                self.tables.remove(&id);
            }
        }
    }

    /// The file of a thread's descriptor, if the trace names it.
    pub fn file(&mut self, id: TableId, tid: pid_t, fd: i32) -> Option<FileRef> {
        let table = &mut self.tables.get_mut(&id)?.1;
        if let Some(file) = table.get(&fd) {
            return file.clone();
        }
        let file = self.registry.find(tid, fd, None);
        if table.len() < MOST {
            table.insert(fd, file.clone());
        }
        file
    }

    /// The file of a descriptor that a call has just made.
    pub fn made(&mut self, id: TableId, tid: pid_t, fd: i32, told: Told) -> Option<FileRef> {
        let file = self.registry.find(tid, fd, Some(told));
        let table = &mut self.tables.get_mut(&id)?.1;
        if table.len() < MOST {
            table.insert(fd, file.clone());
        }
        file
    }

    /// `new` leads to where `old` does.
    pub fn duplicate(&mut self, id: TableId, old: i32, new: i32) {
        let Some((_, table)) = self.tables.get_mut(&id) else {
            return;
        };
        match table.get(&old).cloned() {
            Some(file) => table.insert(new, file),
            None => table.remove(&new),
        };
    }

    /// The descriptors `first` to `last` are closed.
    pub fn close(&mut self, id: TableId, first: u32, last: u32) {
        let Some((_, table)) = self.tables.get_mut(&id) else {
            return;
        };
        if first == last {
            table.remove(&(first as i32));
        } else {
            table.retain(|fd, _| *fd < 0 || !(first..=last).contains(&(*fd as u32)));
        }
    }

    /// A thread has executed a program: descriptors with close-on-exec are gone.
    pub fn exec(&mut self, id: TableId, tid: pid_t) {
        if let Some((_, table)) = self.tables.get_mut(&id) {
            table.retain(|fd, file| file.is_some() && identify::link(tid, *fd).is_some());
        }
    }
}
