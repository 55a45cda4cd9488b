//! Routes: which function answers which request, and how long that may take.

use std::mem;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::message::{Request, Response};
use crate::receive::Attached;

/// How a route is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// At once, on the thread of all connections: the function takes no lock that may be held long.
    Now,
    /// On a thread of its own, one after the other.
    Query,
    /// On another thread, one at a time: a second change meanwhile is refused (409).
    Change,
    /// By the stream of events; the function is not called.
    Events,
}

/// A thread of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerThread {
    /// All connections.
    Connections,
    /// Answers queries.
    Queries,
    /// Makes changes.
    Changes,
}

/// A function that looks at a request that has arrived whole, before anything reads it from its
/// connection. What it returns is the answer, and then no route is asked.
pub type Witness = Arc<dyn Fn(&Request, BorrowedFd<'_>) -> Option<Response> + Send + Sync>;

/// A function that answers requests.
pub type Answer = Box<dyn Fn(&Request, &Caller) -> Response + Send + Sync>;

/// A route.
pub struct Route {
    /// The method, in capitals.
    pub method: &'static str,
    /// The path.
    pub path: &'static str,
    /// How it is answered.
    pub kind: Kind,
    /// The answer.
    pub answer: Answer,
}

impl Route {
    /// Makes a route.
    pub fn new(
        method: &'static str,
        path: &'static str,
        kind: Kind,
        answer: impl Fn(&Request, &Caller) -> Response + Send + Sync + 'static,
    ) -> Self {
        Self {
            method,
            path,
            kind,
            answer: Box::new(answer),
        }
    }
}

/// The client that waits for an answer.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    gone: Arc<AtomicBool>,
    attached: Arc<Mutex<Attached>>,
}

impl Caller {
    pub(crate) fn new(attached: Attached) -> Self {
        Self {
            gone: Arc::default(),
            attached: Arc::new(Mutex::new(attached)),
        }
    }

    /// Takes the descriptor that came with the request. What nobody takes is closed.
    pub fn take_attached(&self) -> Attached {
        let attached = self.attached.lock();
        mem::take(&mut *attached.unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the client has closed its connection, so that nobody learns the answer.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(crate) fn leave(&self) {
        self.gone.store(true, Ordering::Release);
    }
}

/// What a method and a path lead to.
pub(crate) enum Found<'a> {
    Route(&'a Arc<Route>),
    /// The path has only these methods.
    OtherMethods(Vec<&'static str>),
    Nothing,
}

/// All routes.
pub struct Service {
    routes: Vec<Arc<Route>>,
    /// Called by each thread of the server, before it reads anything of a client.
    pub(crate) begin: fn(ServerThread),
    pub(crate) witness: Option<Witness>,
}

impl Service {
    /// Makes a service of these routes.
    pub fn new(routes: Vec<Route>) -> Self {
        Self {
            routes: routes.into_iter().map(Arc::new).collect(),
            begin: |_| {},
            witness: None,
        }
    }

    /// Lets each thread of the server call `begin` before it reads anything of a client.
    #[must_use]
    pub fn begin_threads_with(self, begin: fn(ServerThread)) -> Self {
        Self { begin, ..self }
    }

    /// Lets `witness` look at each request while the request is in its connection: another process
    /// that gets the connection sees the same bytes.
    #[must_use]
    pub fn witnessed_by(self, witness: Witness) -> Self {
        let witness = Some(witness);
        Self { witness, ..self }
    }

    /// Method and path of each route.
    pub fn routes(&self) -> impl Iterator<Item = (&'static str, &'static str)> + '_ {
        self.routes.iter().map(|route| (route.method, route.path))
    }

    pub(crate) fn find(&self, method: &str, path: &str) -> Found<'_> {
        let here: Vec<_> = self.routes.iter().filter(|r| r.path == path).collect();
        match here.iter().find(|r| r.method == method) {
            Some(route) => Found::Route(route),
            None if here.is_empty() => Found::Nothing,
            None => Found::OtherMethods(here.iter().map(|r| r.method).collect()),
        }
    }
}
