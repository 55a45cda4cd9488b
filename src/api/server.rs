//! The thread of all connections: its descriptors and its time limits.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use tracing::{debug, error};

use crate::connection::Connection;
use crate::events::{self, EventLog};
use crate::listener::Listener;
use crate::message::{Request, Response, Status};
use crate::peer::Peer;
use crate::service::{Caller, Found, Kind, ServerThread, Service};
use crate::workers::{Job, Workers};

/// The most connections at a time.
pub const MAX_CONNECTIONS: usize = 16;
/// The most of them that follow the events, which lasts as long as the client likes. The others are
/// for requests, whose connections have a time limit.
pub const MAX_STREAMS: usize = 12;
/// How long the last answers may take to be made, and those and the last events to be read, at the
/// end. A worker that a call of the kernel keeps ends with the process.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The most connections that are taken at a time.
const MOST_ACCEPTED: usize = 64;
/// How long no connection is taken after that has failed: most often, the host has no descriptors
/// left.
const AFTER_A_FAILURE: Duration = Duration::from_millis(100);

const LISTENER: u64 = 0;
const STOP: u64 = 1;
const EVENTS: u64 = 2;
const ANSWERS: u64 = 3;
/// The first number of a connection.
const FIRST: u64 = 16;

/// A running server. Dropping this ends it.
pub struct Server {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `service` and the events of `log` on the socket, by a thread of its own.
    ///
    /// # Errors
    /// The host has no descriptors or threads left.
    pub fn start(listener: Listener, service: Service, log: Arc<EventLog>) -> io::Result<Self> {
        let stop = Arc::new(events::new_eventfd()?);
        let (workers, begin) = (Workers::start(service.begin)?, service.begin);
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let input = EventFlags::IN;
        for (fd, key) in [
            (listener.socket().as_fd(), LISTENER),
            (stop.as_fd(), STOP),
            (log.wake(), EVENTS),
            (workers.wake(), ANSWERS),
        ] {
            epoll::add(&epoll, fd, EventData::new_u64(key), input)?;
        }
        let thread = Thread {
            epoll,
            listener: Some(listener),
            listen_again: None,
            service,
            log,
            workers,
            connections: BTreeMap::new(),
            last: FIRST,
            stop: Arc::clone(&stop),
        };
        let name = thread::Builder::new().name("api".into());
        Ok(Self {
            stop,
            thread: Some(name.spawn(move || {
                begin(ServerThread::Connections);
                thread.run();
            })?),
        })
    }

    /// Ends the server: the socket goes, and the clients get their last answers and events, if they
    /// read them within a second.
    pub fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            events::wake(&self.stop);
            // A panic was printed.
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What the thread owns.
struct Thread {
    epoll: OwnedFd,
    /// `None` once the server is being stopped, or if the socket was shut down.
    listener: Option<Listener>,
    /// When connections are taken again, after taking one has failed.
    listen_again: Option<Instant>,
    service: Service,
    log: Arc<EventLog>,
    workers: Workers,
    connections: BTreeMap<u64, (Connection, EventFlags)>,
    last: u64,
    stop: Arc<OwnedFd>,
}

impl Thread {
    fn run(mut self) {
        let mut end = None;
        while end.is_none_or(|end| Instant::now() < end) {
            let stops = match self.step(end) {
                Ok(stops) => stops,
                Err(e) => return error!("the API's socket is closed: {e}"),
            };
            if stops && end.is_none() {
                self.forget_listener();
                end = Some(Instant::now() + LAST_WORDS);
            }
            if end.is_some() {
                self.finish();
                if self.connections.is_empty() && !self.workers.are_busy() {
                    break;
                }
            }
        }
    }

    /// Lets each connection end once it has its answer and its events.
    fn finish(&mut self) {
        let now = Instant::now();
        for (connection, _) in self.connections.values_mut() {
            connection.finish(&self.log, now);
        }
        self.update();
    }

    /// Waits for descriptors and deadlines, and serves them. Returns whether the server is to stop.
    fn step(&mut self, end: Option<Instant>) -> io::Result<bool> {
        let mut events = Vec::with_capacity(32);
        let timeout = self.timeout(end);
        let buffer = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&self.epoll, buffer, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let mut stops = false;
        for Event { flags, data } in events {
            match data.u64() {
                LISTENER if flags.intersects(EventFlags::HUP | EventFlags::ERR) => {
                    // Another process that has the socket has shut it down for good (shutdown(2)).
                    error!("the control socket was shut down, and takes no more connections");
                    self.forget_listener();
                }
                LISTENER => self.accept(),
                STOP => {
                    events::clear(self.stop.as_fd());
                    stops = true;
                }
                EVENTS => {
                    events::clear(self.log.wake());
                    self.pump();
                }
                ANSWERS => self.answer(),
                number => self.serve(number, flags),
            }
        }
        self.expire();
        self.update();
        Ok(stops)
    }

    /// The time until the next deadline.
    fn timeout(&self, end: Option<Instant>) -> Option<Timespec> {
        let connections = self.connections.values();
        let deadlines = connections.filter_map(|(connection, _)| connection.deadline());
        let next = deadlines.chain(self.listen_again).chain(end).min()?;
        let left = next.saturating_duration_since(Instant::now());
        // Rounded up, so that the deadline is over afterwards.
        Timespec::try_from(left + Duration::from_millis(1)).ok()
    }

    /// Takes connections that wait; the others wait until the rest was served.
    fn accept(&mut self) {
        for _ in 0..MOST_ACCEPTED {
            let Some(listener) = &self.listener else {
                return;
            };
            match listener.socket().accept() {
                Ok((stream, _)) => self.take(stream),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // The client has gone already (accept(2)).
                Err(e) if is_of_client(&e) => debug!("a connection was lost: {e}"),
                Err(e) => {
                    debug!("no connection is taken for a moment: {e}");
                    self.listen_again = Some(Instant::now() + AFTER_A_FAILURE);
                    return self.listen(false);
                }
            }
        }
    }

    /// Closes the socket, of which another process may have a copy: without the first call, epoll
    /// would go on to report it (epoll(7)).
    fn forget_listener(&mut self) {
        if let Some(listener) = self.listener.take() {
            if let Err(e) = epoll::delete(&self.epoll, listener.socket()) {
                error!("the API's socket is still watched: {e}");
            }
            listener.close();
        }
    }

    /// Whether the socket's connections wake the thread.
    fn listen(&self, wanted: bool) {
        let flags = match wanted {
            true => EventFlags::IN,
            false => EventFlags::empty(),
        };
        if let Some(listener) = &self.listener {
            let (socket, data) = (listener.socket(), EventData::new_u64(LISTENER));
            if let Err(e) = epoll::modify(&self.epoll, socket, data, flags) {
                error!("the API takes no connections: {e}");
            }
        }
    }

    /// Takes a connection, if its client may control this process and there are not too many.
    fn take(&mut self, stream: UnixStream) {
        if let Err(e) = stream.set_nonblocking(true) {
            return debug!("a connection cannot be used: {e}");
        }
        let now = Instant::now();
        let peer = Peer::of(stream.as_fd());
        let may = peer.is_ok_and(Peer::may_control);
        let mut connection = Connection::new(stream, now);
        let all = self.connections.values();
        let refused = all.filter(|(c, _)| c.is_refused()).count();
        if !may {
            let why = "Only root and the user of this process may use its socket";
            connection.refuse(&Response::error(Status::Forbidden, &[why]), now);
        } else if self.connections.len() - refused >= MAX_CONNECTIONS {
            let why = format!("There are {MAX_CONNECTIONS} connections already");
            let hint = "hint: try again; a connection without a request ends after 10 seconds";
            connection.refuse(&Response::error(Status::Unavailable, &[&why, hint]), now);
        }
        if connection.is_refused() && refused >= MAX_CONNECTIONS {
            return;
        }
        self.last += 1;
        let (data, input) = (EventData::new_u64(self.last), EventFlags::IN);
        match epoll::add(&self.epoll, connection.fd(), data, input) {
            Ok(()) => _ = self.connections.insert(self.last, (connection, input)),
            Err(e) => debug!("a connection cannot be watched: {e}"),
        }
    }

    /// A connection is readable or writable, or its client has gone.
    fn serve(&mut self, number: u64, flags: EventFlags) {
        let Some((connection, _)) = self.connections.get_mut(&number) else {
            return;
        };
        if flags.contains(EventFlags::OUT) {
            connection.flush();
        }
        if flags.contains(EventFlags::IN) {
            match &self.service.witness {
                Some(witness) => connection.read_before(witness, Instant::now()),
                None => connection.read(),
            }
        }
        connection.pump(&self.log, Instant::now());
        self.requests(number);
        // A client may send its last request and leave.
        if flags.intersects(EventFlags::HUP | EventFlags::ERR)
            && let Some((connection, _)) = self.connections.get_mut(&number)
        {
            connection.hang_up();
        }
    }

    /// Answers the requests of a connection that have arrived, in their order.
    fn requests(&mut self, number: u64) {
        let all = self.connections.values();
        let streams = all.filter(|(c, _)| c.is_stream()).count();
        while let Some((connection, _)) = self.connections.get_mut(&number)
            && let Some((request, attached)) = connection.next_request(Instant::now())
        {
            if let Some(refusal) = connection.take_refusal() {
                connection.respond(&refusal, Instant::now());
                continue;
            }
            let response = match self.service.find(&request.method, &request.path) {
                Found::Nothing => {
                    let why = format!("There is no {}", request.path);
                    Some(Response::error(Status::NotFound, &[why]))
                }
                Found::OtherMethods(methods) => Some(Response::allow_only(&methods)),
                Found::Route(route) if route.kind == Kind::Now => {
                    debug!("{} {}", request.method, request.path);
                    Some((route.answer)(&request, &Caller::new(attached)))
                }
                Found::Route(route) if route.kind == Kind::Events => {
                    follow(connection, &request, &self.log, streams)
                }
                Found::Route(route) => {
                    let job = Job {
                        connection: number,
                        route: Arc::clone(route),
                        request,
                        caller: connection.wait(attached),
                    };
                    hand_over(job, &mut self.workers)
                }
            };
            if let Some(response) = response {
                connection.respond(&response, Instant::now());
            }
        }
    }

    /// Answers of the workers.
    fn answer(&mut self) {
        for done in self.workers.done() {
            if let Some((connection, _)) = self.connections.get_mut(&done.connection) {
                connection.respond(&done.response, Instant::now());
                self.requests(done.connection);
            }
        }
    }

    /// There are events.
    fn pump(&mut self) {
        let now = Instant::now();
        for (connection, _) in self.connections.values_mut() {
            connection.pump(&self.log, now);
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let mut expired = Vec::new();
        for (number, (connection, _)) in &mut self.connections {
            if connection
                .deadline()
                .is_some_and(|deadline| deadline <= now)
            {
                connection.expire(&self.log, now);
                expired.push(*number);
            }
        }
        // What was held in a socket may be whole by now, and then no event tells of it.
        for number in expired {
            self.requests(number);
        }
        if self.listen_again.is_some_and(|again| again <= now) {
            self.listen_again = None;
            self.listen(true);
        }
    }

    /// Drops the connections that are over, and tells epoll what the others wait for.
    fn update(&mut self) {
        self.connections
            .retain(|_, (connection, _)| !connection.is_closed());
        for (number, (connection, told)) in &mut self.connections {
            let mut wanted = EventFlags::empty();
            wanted.set(EventFlags::IN, connection.wants_input());
            wanted.set(EventFlags::OUT, connection.wants_output());
            // What stays in the socket is not told again, but what comes is (epoll(7)).
            wanted.set(EventFlags::ET, connection.is_holding());
            if wanted != *told {
                let data = EventData::new_u64(*number);
                match epoll::modify(&self.epoll, connection.fd(), data, wanted) {
                    Ok(()) => *told = wanted,
                    Err(e) => {
                        debug!("a connection cannot be watched: {e}");
                        connection.hang_up();
                    }
                }
            }
        }
    }
}

/// Answers a request with the stream of events, unless so many others have one.
fn follow(
    connection: &mut Connection,
    request: &Request,
    log: &EventLog,
    others: usize,
) -> Option<Response> {
    if others >= MAX_STREAMS {
        let why = format!("{MAX_STREAMS} readers follow the events already");
        let hint = "hint: end one of them, such as `mini-vmm ctl PATH events`";
        return Some(Response::error(Status::Unavailable, &[&*why, hint]));
    }
    match since(request, log.last()) {
        Ok(seen) => {
            connection.stream(seen);
            connection.pump(log, Instant::now());
            None
        }
        Err(why) => {
            let hint = "hint: leave `since` out: each run numbers its events from 1";
            Some(Response::error(Status::BadRequest, &[&*why, hint]))
        }
    }
}

/// Leaves an answer to a worker.
fn hand_over(job: Job, workers: &mut Workers) -> Option<Response> {
    debug!("{} {}", job.request.method, job.request.path);
    let (takes, status, why) = match job.route.kind {
        Kind::Change => (
            workers.change(job),
            Status::Conflict,
            "Another change is under way: send the request again when that change has ended",
        ),
        _ => (
            workers.query(job),
            Status::Unavailable,
            "Too many requests wait for an answer",
        ),
    };
    (!takes).then(|| Response::error(status, &[why]))
}

/// The number of the last event that a client has seen; without `?since=`, the last there is.
fn since(request: &Request, last: u64) -> Result<u64, String> {
    let Some(text) = request.parameter("since") else {
        return Ok(last);
    };
    match text.parse() {
        Ok(seen) if seen <= last => Ok(seen),
        Ok(_) => Err(format!(
            "since= is after the last event, which has number {last}"
        )),
        Err(_) => Err("since= is the number of an event".into()),
    }
}

/// Whether taking one connection has failed, but the next may be taken at once.
fn is_of_client(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::CONNABORTED | Errno::INTR)
    )
}

#[cfg(test)]
mod tests;
