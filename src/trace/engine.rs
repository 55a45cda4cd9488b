//! The loop over all traced threads: waits for a stop, looks, and lets the thread go on.
//!
//! With the capability SYS_ADMIN, the command gets a seccomp filter (SECCOMP_RET_TRACE): only calls
//! that may be shown stop, and a second time only if their end matters. The filter stays as long as
//! the program, and without a tracer its calls would fail with ENOSYS; but the program ends with
//! its tracer (PTRACE_O_EXITKILL), and the tracer waits for all that it traces.
//!
//! An ordinary user may install a filter only with `no_new_privs`, which changes what the program
//! can execute. There each system call of each thread stops twice (PTRACE_SYSCALL).

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;

use crate::kernel::kept::Keeper;
use crate::kernel::program;
use crate::sys::clock;
use crate::sys::ptrace::{self, CallStop, Until};
use crate::sys::seccomp::Filter;
use crate::sys::signals::{self, KeptBack};
use crate::sys::spawn::{Started, Waiting};
use crate::sys::tick;
use crate::sys::wait::{Change, wait};
use crate::watch::calls;
use crate::watch::descriptors::CLONE_UNTRACED;
use crate::watch::kept;
use crate::watch::thread::{Thread, What};
use crate::watch::world::World;

/// How the command has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

/// Why a command could not be traced.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// fork(2) or pipe(2) failed.
    #[error("no process can be made for the command")]
    Start(#[source] io::Error),
    /// PTRACE_SEIZE failed.
    #[error("the command cannot be traced (ptrace)")]
    Seize(#[source] io::Error),
    /// The command could not be executed.
    #[error("{0} cannot be executed")]
    Execute(String, #[source] io::Error),
}

impl TraceError {
    /// The exit status, as env(1) has it: 127 if there is no such command, 126 if it cannot be
    /// executed, 125 for other errors.
    pub fn status(&self) -> u8 {
        match self {
            Self::Execute(_, e) if e.kind() == io::ErrorKind::NotFound => 127,
            Self::Execute(..) => 126,
            Self::Start(_) | Self::Seize(_) => 125,
        }
    }

    /// What the user can type.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Seize(e) if e.kind() == io::ErrorKind::PermissionDenied => Some(
                "see /proc/sys/kernel/yama/ptrace_scope; a container may need the capability \
                 SYS_PTRACE",
            ),
            Self::Execute(_, e) if e.kind() == io::ErrorKind::NotFound => Some(
                "type the command after --, for example: mini-vmm trace -- mini-vmm --kernel \
                 bzImage",
            ),
            _ => None,
        }
    }
}

/// The traced threads.
struct Engine<'a> {
    world: &'a mut World,
    threads: HashMap<i32, Thread>,
    /// New threads that have stopped before their parent's event, and when.
    early: Vec<(i32, u64)>,
    command: i32,
    started: Started,
    /// How far a thread goes on that is in no call.
    until: Until,
    end: Option<End>,
    /// Whether ticks come.
    ticks: bool,
}

/// Runs a command to the end of all that it has started, and tells how the command has ended. With
/// `filter`, a seccomp filter is used if the kernel lets it. Signals are kept back until they can
/// be passed on.
///
/// # Errors
/// The command cannot be started or traced.
pub fn trace(
    world: &mut World,
    command: Vec<OsString>,
    filter: bool,
    signals: KeptBack,
) -> Result<End, TraceError> {
    let name = command.first().map(|word| word.display().to_string());
    // The kernel's own times and order need both stops.
    let keeps = filter && !world.out.has_kernel();
    world.keeper = keeps.then(|| Keeper::new().ok()).flatten();
    let passed: &[u32] = match &world.keeper {
        Some(_) => &program::KEPT,
        None => &[],
    };
    let filter = filter.then(|| Filter::new(&calls::WATCHED, passed));
    let waiting = Waiting::new(command, filter.as_ref(), &signals).map_err(TraceError::Start)?;
    let pid = waiting.pid;
    ptrace::seize(pid).map_err(TraceError::Seize)?;
    let _passing = signals::pass_on(pid).map_err(TraceError::Start)?;
    signals.let_come();
    let started = waiting.go();
    let first = world.first(pid);
    let mut engine = Engine {
        world,
        threads: HashMap::from([(pid, first)]),
        early: Vec::new(),
        command: pid,
        started,
        until: Until::Call,
        end: None,
        ticks: false,
    };
    engine.run();
    let end = engine.end.unwrap_or(End::Status(0));
    match failure(&mut engine.started, end) {
        Some(e) => Err(TraceError::Execute(name.unwrap_or_default(), e)),
        None => Ok(end),
    }
}

fn failure(started: &mut Started, end: End) -> Option<io::Error> {
    matches!(end, End::Status(126 | 127)).then(|| started.failure())?
}

impl Engine<'_> {
    fn run(&mut self) {
        loop {
            self.take();
            match self.next() {
                Ok(Some((tid, change))) => self.change(tid, change),
                Ok(None) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // ECHILD: nothing is left to trace.
                Err(_) => break,
            }
        }
    }

    /// Takes what the kernel has kept of calls until now.
    fn take(&mut self) {
        let Some(mut keeper) = self.world.keeper.take() else {
            return;
        };
        let until = keeper.begun();
        let mut records = Vec::new();
        while let Some(record) = keeper.next(until) {
            records.push(record);
        }
        self.world.keeper = Some(keeper);
        for record in records {
            if let Some(thread) = self.threads.get_mut(&record.tid) {
                kept::record(self.world, thread, record);
            }
        }
    }

    /// Waits for a change, and writes events out: for a reader who looks on at once, else with the
    /// ticks.
    fn next(&mut self) -> io::Result<Option<(i32, Change)>> {
        let out = &mut self.world.out;
        if out.is_due() {
            let next = wait(false);
            out.look(matches!(next, Ok(None)));
            match next {
                // A wait would let the buffer run over, as a guest whose exits the kernel handles
                // by itself may make no stop for long.
                Ok(None) if out.has_more() => {
                    match (tick::due(), self.ticks) {
                        (true, _) => out.flush(),
                        (false, true) => {}
                        (false, false) => {
                            tick::start();
                            self.ticks = true;
                        }
                    }
                    return Ok(None);
                }
                Ok(None) => {}
                next => return next,
            }
        }
        if out.is_looked_at() {
            match wait(false) {
                Ok(None) => out.flush(),
                next => return next,
            }
        }
        let is_dirty = out.is_dirty() || self.world.keeper.is_some();
        match (tick::due(), is_dirty) {
            (true, true) => out.flush(),
            (true, false) if self.ticks => {
                tick::stop();
                self.ticks = false;
            }
            (false, true) if !self.ticks => {
                tick::start();
                self.ticks = true;
            }
            _ => {}
        }
        wait(true)
    }

    fn change(&mut self, tid: i32, change: Change) {
        let stop = match change {
            Change::Call | Change::Event(libc::PTRACE_EVENT_SECCOMP) => Some(ptrace::call(tid)),
            _ => None,
        };
        self.read_rings(tid, stop);
        self.take();
        if let (true, Some(thread)) = (change.keeps_memory(), self.threads.get_mut(&tid)) {
            kept::show(self.world, thread, true);
        }
        match change {
            Change::Exited(status) => self.gone(tid, End::Status(status)),
            Change::Killed(signal) => self.gone(tid, End::Signal(signal)),
            Change::Call | Change::Event(libc::PTRACE_EVENT_SECCOMP) => {
                self.call(tid, stop);
                self.resume(tid, 0);
            }
            Change::Signal(libc::SIGSTOP) if self.is_own(tid) => self.resume(tid, 0),
            Change::Signal(signal) => self.resume(tid, signal),
            Change::GroupStop => ptrace::listen(tid),
            Change::Continued if self.threads.contains_key(&tid) => self.resume(tid, 0),
            // Stopped until the parent's event tells what the thread is.
            Change::Continued => self.early.push((tid, clock::now())),
            Change::Event(event) => {
                self.event(tid, event);
                self.resume(tid, 0);
            }
        }
        if let (true, Some(thread)) = (self.world.out.has_kernel(), self.threads.get(&tid)) {
            let begin = thread.call.as_ref().map(|call| call.time);
            self.world.out.inside(tid, begin);
        }
        self.adopt();
    }

    /// Whether a thread has stopped because what the kernel has kept of its call lacks something.
    fn is_own(&mut self, tid: i32) -> bool {
        let thread = self.threads.get_mut(&tid);
        let stops = thread.filter(|thread| thread.stops && ptrace::is_from_kernel(tid));
        stops.is_some_and(|thread| std::mem::take(&mut thread.stops))
    }

    /// Lets a thread go on: to the end of its call, if that matters.
    fn resume(&self, tid: i32, signal: i32) {
        let thread = self.threads.get(&tid);
        let in_call = thread.is_some_and(|thread| thread.call.is_some());
        let until = if in_call { Until::Call } else { self.until };
        ptrace::resume(tid, signal, until);
    }

    /// Reads rings, if they are looked at at this stop.
    fn read_rings(&mut self, tid: i32, stop: Option<CallStop>) {
        let Some(thread) = self.threads.get(&tid) else {
            return;
        };
        let number = match stop {
            Some(CallStop::Entry(number, _)) => Some(number),
            _ => thread.call.as_ref().map(|call| call.number),
        };
        if let (Some(_), Some(number), Some(_)) = (stop, number, &self.world.keeper) {
            calls::read_rings(self.world, thread, number, clock::now());
        }
    }

    fn call(&mut self, tid: i32, stop: Option<CallStop>) {
        let Some(stop) = stop else {
            return;
        };
        if matches!(stop, CallStop::Entry(number, _) if number == libc::SYS_exit_group as u64) {
            self.ending(tid);
        }
        let Some(thread) = self.threads.get_mut(&tid) else {
            return;
        };
        match stop {
            CallStop::Entry(number, args) => {
                let is_waited_for = calls::enter(self.world, thread, number, args, clock::now());
                if self.until == Until::Filter {
                    follow(tid, thread);
                    if !is_waited_for {
                        thread.call = None;
                    }
                }
            }
            CallStop::Exit(result) => calls::leave(self.world, thread, result, clock::now()),
            // As without a tracer.
            CallStop::Foreign => ptrace::skip(tid),
            CallStop::Other => thread.call = None,
        }
    }

    /// A process ends itself. Its threads do not stop again.
    fn ending(&mut self, tid: i32) {
        let pid = self.threads.get(&tid).map(|thread| thread.pid);
        let threads = self.threads.values_mut();
        for thread in threads.filter(|thread| Some(thread.pid) == pid) {
            kept::show(self.world, thread, true);
        }
    }

    fn event(&mut self, tid: i32, event: i32) {
        match event {
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => {
                if let Some(child) = ptrace::message(tid) {
                    self.child(tid, child);
                }
            }
            libc::PTRACE_EVENT_EXEC => self.exec(tid),
            _ => {}
        }
    }

    fn child(&mut self, parent: i32, tid: i32) {
        if let Some(mut old) = self.threads.remove(&tid) {
            self.world.gone(&mut old, None);
        }
        let Some(parent) = self.threads.get_mut(&parent) else {
            return;
        };
        let thread = self.world.child(parent, tid);
        // The parent may stay in vfork(2) for long, and makes no other child there.
        match (&mut parent.call, self.until) {
            (Some(call), Until::Call) => call.what = What::Plain,
            (call, _) => *call = None,
        }
        self.threads.insert(tid, thread);
        if let Some(at) = self.early.iter().position(|early| early.0 == tid) {
            self.early.swap_remove(at);
            self.resume(tid, 0);
        }
    }

    /// A thread has executed a program and has become the only one of its process, with the
    /// process's number (ptrace(2), "execve(2) under ptrace").
    fn exec(&mut self, pid: i32) {
        if pid == self.command && self.started.has_filter() {
            self.until = Until::Filter;
        } else if self.until == Until::Call {
            self.world.keeper = None;
        }
        let former = ptrace::message(pid).unwrap_or(pid);
        if former != pid
            && let Some(mut thread) = self.threads.remove(&former)
        {
            kept::ended(self.world, &mut thread);
            self.world.out.gone(former);
            thread.tid = pid;
            if let Some(mut leader) = self.threads.insert(pid, thread) {
                self.world.gone(&mut leader, None);
            }
        }
        let others = self
            .threads
            .extract_if(|tid, thread| thread.pid == pid && *tid != pid);
        let others: Vec<_> = others.map(|(_, thread)| thread).collect();
        for mut thread in others {
            self.world.gone(&mut thread, None);
        }
        if let Some(thread) = self.threads.get_mut(&pid) {
            self.world.exec(thread);
        }
    }

    /// Threads whose parent has no event any more, because a signal or another thread's exec has
    /// ended the parent in the call: what they share is not known, and what their descriptors are
    /// is asked of /proc. wait(2) reports the end and the child's stop in any order.
    fn adopt(&mut self) {
        if self.early.is_empty() {
            return;
        }
        let threads = &self.threads;
        let orphans: Vec<_> = self
            .early
            .extract_if(.., |(_, stopped)| {
                !threads
                    .values()
                    .any(|thread| may_be_parent(thread, *stopped))
            })
            .collect();
        for (tid, _) in orphans {
            let thread = self.world.orphan(tid);
            self.threads.insert(tid, thread);
            self.resume(tid, 0);
        }
    }

    fn gone(&mut self, tid: i32, end: End) {
        self.early.retain(|early| early.0 != tid);
        if tid == self.command {
            self.end = Some(end);
        }
        let how = match end {
            End::Status(status) => format!("ends with status {status}"),
            End::Signal(signal) => format!("ends by signal {signal}"),
        };
        if let Some(mut thread) = self.threads.remove(&tid) {
            self.world.gone(&mut thread, Some(how));
        }
    }
}

/// Lets no new process escape, whose calls would fail for want of a tracer: CLONE_UNTRACED is taken
/// from clone(2), and refused to clone3(2) as by a kernel without that call.
fn follow(tid: i32, thread: &Thread) {
    let Some(call) = &thread.call else {
        return;
    };
    match call.what {
        What::Clone(flags) if flags & CLONE_UNTRACED == 0 => {}
        What::Clone(flags) if call.number == libc::SYS_clone as u64 => {
            ptrace::set_first_argument(tid, flags & !CLONE_UNTRACED);
        }
        What::Clone(_) => ptrace::skip(tid),
        _ => {}
    }
}

/// Whether an event of this thread can still tell of a child that stopped at this time: the thread
/// was then in a call that makes one, and is in the same call now.
fn may_be_parent(thread: &Thread, stopped: u64) -> bool {
    let call = thread.call.as_ref();
    call.is_some_and(|call| matches!(call.what, What::Clone(_)) && call.time <= stopped)
}

#[cfg(test)]
mod tests;
