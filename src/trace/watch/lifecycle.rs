//! New threads and processes, programs that are executed, and ends.

use crate::event::Body;
use crate::files::identify;
use crate::shared::Id;
use crate::sys::clock;
use crate::watch::descriptors::CLONE_FILES;
use crate::watch::kept;
use crate::watch::maps::Mappings;
use crate::watch::thread::{Thread, What};
use crate::watch::world::World;

/// CLONE_VM of sched.h.
const CLONE_VM: u64 = 0x100;
/// CLONE_THREAD of sched.h.
const CLONE_THREAD: u64 = 0x1_0000;

impl World {
    /// The thread of the command itself.
    pub fn first(&mut self, tid: i32) -> Thread {
        let table = self.tables.shared.add(Default::default());
        self.thread(tid, tid, table, None)
    }

    /// A thread whose parent is not known.
    pub fn orphan(&mut self, tid: i32) -> Thread {
        let table = self.tables.shared.add(Default::default());
        self.thread(identify::process(tid).unwrap_or(tid), tid, table, None)
    }

    fn thread(&mut self, pid: i32, tid: i32, table: Id, space: Option<Id>) -> Thread {
        self.out.born(tid, pid);
        self.tables.process(pid, Some(table));
        let space = space.unwrap_or_else(|| self.spaces.add(Mappings::default()));
        let thread = Thread {
            pid,
            tid,
            table,
            space,
            call: None,
            kept: None,
            ended: None,
            stops: false,
            left: None,
        };
        // A process that the kernel does not know makes no stop at KVM_RUN.
        let keeper = self.keeper.as_ref();
        if keeper.is_some_and(|keeper| !keeper.born(pid)) {
            let text = "more processes than are traced: its KVM_RUN is not shown".into();
            self.emit(&thread, clock::now(), 0, None, Body::Process(text));
        }
        thread
    }

    /// A thread or process that `parent` has made in the call that it is in.
    pub fn child(&mut self, parent: &Thread, tid: i32) -> Thread {
        let flags = match &parent.call {
            Some(call) => match call.what {
                What::Clone(flags) => flags,
                _ => 0,
            },
            None => 0,
        };
        let table = match flags & CLONE_FILES {
            0 => self.tables.shared.copy(parent.table),
            _ => self.tables.shared.add_user(parent.table),
        };
        let space = match flags & CLONE_VM {
            0 => self.spaces.copy(parent.space),
            _ => self.spaces.add_user(parent.space),
        };
        let pid = match flags & CLONE_THREAD {
            0 => tid,
            _ => parent.pid,
        };
        if flags & (CLONE_THREAD | CLONE_FILES) == CLONE_THREAD {
            kept::unshared(self, pid);
        }
        self.thread(pid, tid, table, Some(space))
    }

    /// A thread has executed a program. Its memory is new, and its table is its own.
    pub fn exec(&mut self, thread: &mut Thread) {
        kept::ended(self, thread);
        self.out.release(thread.tid);
        self.out.born(thread.tid, thread.pid);
        if let Some(keeper) = &mut self.keeper {
            keeper.forget(thread.pid);
            // The process's first thread may have ended in the call.
            keeper.born(thread.pid);
        }
        self.spaces.leave(thread.space);
        thread.space = self.spaces.add(Mappings::default());
        let copy = self.tables.shared.copy(thread.table);
        self.tables.shared.leave(thread.table);
        thread.table = copy;
        self.tables.process(thread.pid, Some(copy));
        self.tables.exec(thread.table, thread.tid);
        thread.left = None;
        let program = std::fs::read_link(format!("/proc/{}/exe", thread.pid));
        let program = program.map_or_else(|_| "?".into(), |path| path.display().to_string());
        let text = format!("executes {}", program.escape_debug());
        self.emit(thread, clock::now(), 0, None, Body::Process(text));
    }

    /// A thread has ended.
    pub fn gone(&mut self, thread: &mut Thread, how: Option<String>) {
        kept::ended(self, thread);
        self.out.gone(thread.tid);
        // The first thread of a process ends last, for its tracer (ptrace(2), "Death under
        // ptrace").
        if let Some(keeper) = self.keeper.as_mut().filter(|_| thread.pid == thread.tid) {
            keeper.gone(thread.pid);
        }
        if thread.pid == thread.tid {
            self.tables.process(thread.pid, None);
        }
        self.tables.shared.leave(thread.table);
        self.spaces.leave(thread.space);
        if let (Some(how), true) = (how, thread.pid == thread.tid) {
            self.emit(thread, clock::now(), 0, None, Body::Process(how));
        }
    }
}
