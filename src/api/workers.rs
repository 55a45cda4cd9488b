//! Threads for the answers that take long: one for queries, and one for changes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::thread;

use crate::events;
use crate::message::{Request, Response};
use crate::service::{Caller, Route, ServerThread};

/// The most queries that may wait: more than there can be connections, for clients that have gone.
const MOST_WAITING: usize = 64;

/// A request for a worker.
pub struct Job {
    pub connection: u64,
    pub route: Arc<Route>,
    pub request: Request,
    pub caller: Caller,
}

/// An answer of a worker.
pub struct Done {
    pub connection: u64,
    pub response: Response,
    /// Whether the worker of changes made it.
    is_change: bool,
}

/// The two threads.
pub struct Workers {
    queries: mpsc::Sender<Job>,
    changes: mpsc::Sender<Job>,
    waiting: usize,
    changing: bool,
    done: mpsc::Receiver<Done>,
    wake: Arc<OwnedFd>,
}

impl Workers {
    /// Starts the threads, which first call `begin`.
    pub fn start(begin: fn(ServerThread)) -> io::Result<Self> {
        let wake = Arc::new(events::new_eventfd()?);
        let (sender, done) = mpsc::channel();
        Ok(Self {
            queries: worker(
                ServerThread::Queries,
                begin,
                sender.clone(),
                Arc::clone(&wake),
            )?,
            changes: worker(ServerThread::Changes, begin, sender, Arc::clone(&wake))?,
            waiting: 0,
            changing: false,
            done,
            wake,
        })
    }

    /// An eventfd that is readable when an answer is ready.
    pub fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Takes a query; returns `false` if too many wait.
    pub fn query(&mut self, job: Job) -> bool {
        let takes = self.waiting < MOST_WAITING && self.queries.send(job).is_ok();
        self.waiting += usize::from(takes);
        takes
    }

    /// Takes a change; returns `false` if another is being made.
    pub fn change(&mut self, job: Job) -> bool {
        let takes = !self.changing && self.changes.send(job).is_ok();
        self.changing |= takes;
        takes
    }

    /// The answers that are ready.
    pub fn done(&mut self) -> Vec<Done> {
        events::clear(self.wake.as_fd());
        let done: Vec<Done> = self.done.try_iter().collect();
        done.iter().for_each(|done| self.count(done));
        done
    }

    fn count(&mut self, done: &Done) {
        match done.is_change {
            true => self.changing = false,
            false => self.waiting = self.waiting.saturating_sub(1),
        }
    }

    /// Whether an answer is being made.
    pub fn are_busy(&self) -> bool {
        self.changing || self.waiting > 0
    }
}

fn worker(
    which: ServerThread,
    begin: fn(ServerThread),
    to: mpsc::Sender<Done>,
    wake: Arc<OwnedFd>,
) -> io::Result<mpsc::Sender<Job>> {
    let (sender, jobs) = mpsc::channel::<Job>();
    let is_change = which == ServerThread::Changes;
    let name = if is_change {
        "api changes"
    } else {
        "api queries"
    };
    thread::Builder::new().name(name.into()).spawn(move || {
        begin(which);
        for job in jobs {
            let response = (job.route.answer)(&job.request, &job.caller);
            let done = Done {
                connection: job.connection,
                response,
                is_change,
            };
            if to.send(done).is_err() {
                return;
            }
            events::wake(&wake);
        }
    })?;
    Ok(sender)
}
