//! The loop over all traced threads: waits for a stop, looks, and lets the thread go on.
//!
//! Every system call of every thread stops twice (PTRACE_SYSCALL). A seccomp filter with
//! SECCOMP_RET_TRACE would stop for the calls of interest alone, but an ordinary user may install
//! one only with no_new_privs, which changes what the traced program can execute, and the filter
//! stays for ever: without its tracer, the calls would fail with ENOSYS.

use std::collections::HashMap;
use std::io;

use crate::sys::clock;
use crate::sys::ptrace::{self, CallStop};
use crate::sys::signals;
use crate::sys::spawn::{Started, Waiting};
use crate::sys::wait::{Change, wait};
use crate::watch::calls;
use crate::watch::thread::Thread;
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
    /// New threads that have stopped before their parent's event.
    early: Vec<i32>,
    command: i32,
    end: Option<End>,
}

/// Runs a command to the end of all that it has started, and tells how the command has ended.
///
/// # Errors
/// The command cannot be started or traced.
pub fn trace(world: &mut World, command: Vec<std::ffi::OsString>) -> Result<End, TraceError> {
    let name = command.first().map(|word| word.display().to_string());
    let waiting = Waiting::new(command).map_err(TraceError::Start)?;
    let pid = waiting.pid;
    ptrace::seize(pid).map_err(TraceError::Seize)?;
    let _passing = signals::pass_on(pid).map_err(TraceError::Start)?;
    let mut started = waiting.go();
    let first = world.first(pid);
    let mut engine = Engine {
        world,
        threads: HashMap::from([(pid, first)]),
        early: Vec::new(),
        command: pid,
        end: None,
    };
    engine.run();
    let end = engine.end.unwrap_or(End::Status(0));
    match failure(&mut started, end) {
        Some(e) => Err(TraceError::Execute(name.unwrap_or_default(), e)),
        None => Ok(end),
    }
}

fn failure(started: &mut Started, end: End) -> Option<io::Error> {
    (end == End::Status(127)).then(|| started.failure())?
}

impl Engine<'_> {
    fn run(&mut self) {
        loop {
            let next = match wait(false) {
                Ok(None) => {
                    self.world.out.idle();
                    wait(true)
                }
                next => next,
            };
            match next {
                Ok(Some((tid, change))) => self.change(tid, change),
                Ok(None) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // ECHILD: nothing is left to trace.
                Err(_) => break,
            }
        }
    }

    fn change(&mut self, tid: i32, change: Change) {
        match change {
            Change::Exited(status) => self.gone(tid, End::Status(status)),
            Change::Killed(signal) => self.gone(tid, End::Signal(signal)),
            Change::Call => {
                self.call(tid);
                ptrace::resume(tid, 0);
            }
            Change::Signal(signal) => ptrace::resume(tid, signal),
            Change::GroupStop => ptrace::listen(tid),
            Change::Continued if self.threads.contains_key(&tid) => ptrace::resume(tid, 0),
            // Stopped until the parent's event tells what the thread is.
            Change::Continued => self.early.push(tid),
            Change::Event(event) => {
                self.event(tid, event);
                ptrace::resume(tid, 0);
            }
        }
    }

    fn call(&mut self, tid: i32) {
        let Some(thread) = self.threads.get_mut(&tid) else {
            return;
        };
        match ptrace::call(tid) {
            CallStop::Entry(number, args) => {
                calls::enter(self.world, thread, number, args, clock::now());
            }
            CallStop::Exit(result) => calls::leave(self.world, thread, result, clock::now()),
            CallStop::Other => thread.call = None,
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
        let Some(parent) = self.threads.get(&parent) else {
            return;
        };
        let thread = self.world.child(parent, tid);
        if let Some(old) = self.threads.insert(tid, thread) {
            self.world.gone(&old, None);
        }
        if let Some(at) = self.early.iter().position(|early| *early == tid) {
            self.early.swap_remove(at);
            ptrace::resume(tid, 0);
        }
    }

    /// A thread has executed a program and has become the only one of its process, with the
    /// process's number (ptrace(2), "execve(2) under ptrace").
    fn exec(&mut self, pid: i32) {
        let former = ptrace::message(pid).unwrap_or(pid);
        if former != pid
            && let Some(mut thread) = self.threads.remove(&former)
        {
            self.world.out.release(former);
            thread.tid = pid;
            if let Some(leader) = self.threads.insert(pid, thread) {
                self.world.gone(&leader, None);
            }
        }
        let others = self
            .threads
            .extract_if(|tid, thread| thread.pid == pid && *tid != pid);
        let others: Vec<_> = others.map(|(_, thread)| thread).collect();
        for thread in others {
            self.world.gone(&thread, None);
        }
        if let Some(thread) = self.threads.get_mut(&pid) {
            self.world.exec(thread);
        }
    }

    fn gone(&mut self, tid: i32, end: End) {
        self.early.retain(|early| *early != tid);
        if tid == self.command {
            self.end = Some(end);
        }
        let how = match end {
            End::Status(status) => format!("ends with status {status}"),
            End::Signal(signal) => format!("ends by signal {signal}"),
        };
        if let Some(thread) = self.threads.remove(&tid) {
            self.world.gone(&thread, Some(how));
        }
    }
}
