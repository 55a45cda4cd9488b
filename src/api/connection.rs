//! One client: what it has sent, and what it still has to read.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::events::{EventLog, Next};
use crate::limits::{MAX_BODY, MAX_HEAD};
use crate::message::{self, CONTINUE, Request, Response, Status};
use crate::parser::{Parsed, parse};
use crate::receive::{Attached, peek, receive};
use crate::service::{Caller, Witness};

/// How long a request may take to arrive, and an answer to be read; a connection without a request
/// is closed after the same time.
pub const TIME_LIMIT: Duration = Duration::from_secs(10);
/// How long a reader of events may read nothing while its socket is full. A program that is stopped
/// in a terminal for a moment is no such reader: a socket holds more than a thousand events.
const STALL_LIMIT: Duration = Duration::from_secs(10);
/// How long a client that was refused may take to end its request.
const LINGER: Duration = Duration::from_secs(1);
/// How long the parts of a request are left in the socket for a witness: a socket has room for some
/// hundred parts, and then the client waits for a reader.
const PARTS_LIMIT: Duration = Duration::from_secs(1);
/// The bytes of a stream that wait for its reader; the other events wait in the log.
const STREAM_BUFFER: usize = 16 << 10;
/// More than the largest request has, with its chunks: the next request waits in the socket.
const INPUT_BUFFER: usize = 2 * MAX_HEAD + MAX_BODY + MAX_HEAD;

/// What the connection waits for.
#[derive(Debug)]
enum State {
    /// A request.
    Reading,
    /// The answer that another thread makes.
    Waiting(Caller),
    /// Events after number `seen`.
    Streaming { seen: u64, chunks: bool },
    /// That the client reads the last bytes.
    Closing,
    /// That a client that was refused ends its request. Closing at once would make its write fail,
    /// and it might not read the answer (RFC 9112, 9.6).
    Lingering,
    /// Nothing.
    Closed,
}

/// How the last request wants its answer.
#[derive(Clone, Copy, Debug)]
struct Form {
    keep_alive: bool,
    with_body: bool,
    chunks: bool,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    state: State,
    form: Form,
    input: Vec<u8>,
    /// What came with bytes of the input, and the index of the last of these bytes.
    attached: Option<(usize, Attached)>,
    /// Whether the client has said all it will say.
    input_ended: bool,
    /// Whether "100 Continue" was sent for the request that is arriving.
    continued: bool,
    output: Vec<u8>,
    /// Whether the client may still be sending what nobody reads.
    refused: bool,
    /// How much of the output was written.
    written: usize,
    deadline: Option<Instant>,
    /// Until when a part of a request stays in the socket.
    held: Option<Instant>,
    /// How a witness has answered the request that the input begins with.
    refusal: Option<Response>,
}

impl Connection {
    /// Takes a stream, which must not block.
    pub fn new(stream: UnixStream, now: Instant) -> Self {
        Self {
            stream,
            state: State::Reading,
            form: Form {
                keep_alive: false,
                with_body: true,
                chunks: true,
            },
            input: Vec::new(),
            attached: None,
            input_ended: false,
            continued: false,
            refused: false,
            output: Vec::new(),
            written: 0,
            deadline: Some(now + TIME_LIMIT),
            held: None,
            refusal: None,
        }
    }

    /// The descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether the connection is over.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Whether the connection is over but for a client that was refused.
    pub fn is_refused(&self) -> bool {
        self.refused
    }

    /// Whether more input is wanted now.
    pub fn wants_input(&self) -> bool {
        if matches!(self.state, State::Lingering) {
            return true;
        }
        matches!(self.state, State::Reading) && self.output.is_empty() && !self.input_ended
    }

    /// Whether the client follows the events.
    pub fn is_stream(&self) -> bool {
        matches!(self.state, State::Streaming { .. })
    }

    /// Whether output waits for the client.
    pub fn wants_output(&self) -> bool {
        !self.output.is_empty() && !self.is_closed()
    }

    /// Whether a part of a request stays in the socket, so that only more of it is input.
    pub fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    /// When the client has waited for too long.
    pub fn deadline(&self) -> Option<Instant> {
        self.held.into_iter().chain(self.deadline).min()
    }

    /// The client has closed its side of the connection for good.
    pub fn hang_up(&mut self) {
        if let State::Waiting(caller) = &self.state {
            caller.leave();
        }
        self.state = State::Closed;
    }

    /// The deadline is over.
    pub fn expire(&mut self, log: &EventLog, now: Instant) {
        if self.held.take().is_some() {
            self.read();
            if self.deadline.is_none_or(|deadline| deadline > now) {
                return;
            }
        }
        match self.state {
            State::Streaming { .. } => {
                // epoll calls a socket writable once it is almost empty: a reader that is only slow
                // has made room for a write.
                self.flush();
                match self.deadline.is_some_and(|deadline| deadline <= now) {
                    true => self.hang_up(),
                    false => self.pump(log, now),
                }
            }
            State::Reading if !self.input.is_empty() && self.output.is_empty() => {
                let late = "The request is incomplete after 10 seconds";
                let late = Response::error(Status::RequestTimeout, &[late]);
                self.refuse(&late, Instant::now());
            }
            _ => self.hang_up(),
        }
    }

    /// Reads the next request, after a witness has looked at it. The parts of a request stay in the
    /// socket until it is whole, but not for ever.
    pub fn read_before(&mut self, witness: &Witness, now: Instant) {
        if !matches!(self.state, State::Reading) || !self.input.is_empty() {
            // The rest of a request of which a part was read.
            return self.read();
        }
        let held = self.held.take();
        let waiting = peek(self.stream.as_fd(), INPUT_BUFFER).unwrap_or_default();
        let over = waiting.bytes.is_empty() || waiting.attached || self.is_at_end();
        match parse(&waiting.bytes) {
            Parsed::Whole(request, used) => {
                self.refusal = witness(&request, self.stream.as_fd());
                // The next request is looked at in its turn.
                self.read_to(used);
                self.read_rest(waiting.bytes.len());
            }
            Parsed::Partial { expects } if !over && waiting.bytes.len() < INPUT_BUFFER => {
                self.held = held.or(Some(now + PARTS_LIMIT));
                self.go_on(expects);
            }
            Parsed::Partial { .. } | Parsed::Bad(_) => self.read(),
        }
    }

    /// Reads the rest of a message of which a part was read with its descriptors. A look has ended
    /// with the message, after so many bytes.
    fn read_rest(&mut self, end: usize) {
        let mut before = 0;
        while let Some((at, _)) = &mut self.attached
            && (before + 1..end).contains(&self.input.len())
        {
            *at = end - 1;
            before = self.input.len();
            self.read_to(end);
        }
    }

    /// Whether the client has said all it will say.
    fn is_at_end(&self) -> bool {
        let mut ends = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        poll(&mut ends, Some(&Timespec::default())).is_ok_and(|count| count > 0)
    }

    /// Tells the client that its body is wanted.
    fn go_on(&mut self, expects: bool) {
        if expects && !self.continued {
            self.continued = true;
            self.output.extend(CONTINUE);
            self.flush();
        }
    }

    /// Reads what there is.
    pub fn read(&mut self) {
        self.read_to(INPUT_BUFFER);
    }

    /// Reads until the input has so many bytes.
    fn read_to(&mut self, most: usize) {
        let mut space = [0; 16 << 10];
        while self.input.len() < most {
            let left = space.len().min(most - self.input.len());
            let Some(buffer) = space.get_mut(..left) else {
                break;
            };
            match receive(&self.stream, buffer) {
                Ok((0, _)) => {
                    self.input_ended = true;
                    break;
                }
                Ok(_) if matches!(self.state, State::Lingering) => {}
                Ok((count, attached)) => {
                    self.input.extend(buffer.iter().take(count));
                    self.keep(attached);
                    // The next read may have the descriptor of the next request: this one's is
                    // taken first, if the request is whole.
                    if self.attached.is_some() {
                        break;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return self.hang_up(),
            }
        }
        if self.input_ended && matches!(self.state, State::Lingering) {
            self.state = State::Closed;
        }
    }

    /// Keeps what came with the last read. The read may have begun with bytes that came without
    /// descriptors, and has ended with the last byte of those that came with some
    /// (unix_stream_read_generic of net/unix/af_unix.c). A request may have one descriptor.
    fn keep(&mut self, attached: Attached) {
        self.attached = match (self.attached.take(), attached) {
            (before, Attached::Nothing) => before,
            (None, attached) => Some((self.input.len().saturating_sub(1), attached)),
            (Some((at, _)), _) => Some((at, Attached::Several)),
        };
    }

    /// What came with the first `used` bytes of the input, which are a request.
    fn take_attached(&mut self, used: usize) -> Attached {
        match self.attached.take() {
            Some((at, attached)) if at < used => attached,
            later => {
                self.attached = later.map(|(at, attached)| (at - used, attached));
                Attached::Nothing
            }
        }
    }

    /// The next request that has arrived whole, if this connection can answer one now. A request
    /// that is none of ours is answered here.
    pub fn next_request(&mut self, now: Instant) -> Option<(Request, Attached)> {
        if !matches!(self.state, State::Reading) || !self.output.is_empty() {
            return None;
        }
        if self.input.is_empty() {
            if self.input_ended {
                self.state = State::Closed;
            }
            return None;
        }
        match parse(&self.input) {
            Parsed::Whole(request, used) => {
                let attached = self.take_attached(used);
                self.input.drain(..used);
                self.continued = false;
                self.deadline = None;
                self.form = Form {
                    keep_alive: request.keep_alive,
                    with_body: request.method != "HEAD",
                    chunks: request.chunks,
                };
                Some((*request, attached))
            }
            Parsed::Partial { .. } if self.input_ended => {
                // Nobody is there who would read an answer.
                self.state = State::Closed;
                None
            }
            Parsed::Partial { .. } if self.input.len() >= INPUT_BUFFER => {
                // Nothing more is read: the rest of the request would never arrive.
                let why = "The request with the framing of its chunks has more than 88 KiB";
                self.refuse(&Response::error(Status::ContentTooLarge, &[why]), now);
                None
            }
            Parsed::Partial { expects } => {
                self.go_on(expects);
                None
            }
            Parsed::Bad(response) => {
                self.refuse(&response, now);
                None
            }
        }
    }

    /// How a witness has answered the request that was just returned.
    pub fn take_refusal(&mut self) -> Option<Response> {
        self.refusal.take()
    }

    /// Another thread makes the answer. Returns what tells that thread whether the client has gone,
    /// and what came with the request.
    pub fn wait(&mut self, attached: Attached) -> Caller {
        let caller = Caller::new(attached);
        self.state = State::Waiting(caller.clone());
        caller
    }

    /// Queues the answer to the last request.
    pub fn respond(&mut self, response: &Response, now: Instant) {
        let Form {
            keep_alive,
            with_body,
            ..
        } = self.form;
        self.output.extend(response.encode(keep_alive, with_body));
        self.state = match keep_alive {
            true => State::Reading,
            false => State::Closing,
        };
        self.deadline = Some(now + TIME_LIMIT);
        self.flush();
    }

    /// Answers what is no request of ours; the connection is of no further use.
    pub fn refuse(&mut self, response: &Response, now: Instant) {
        self.refused = true;
        self.form.keep_alive = false;
        self.form.with_body = true;
        self.respond(response, now);
    }

    /// Answers the last request with the events after number `seen`.
    pub fn stream(&mut self, seen: u64) {
        let chunks = self.form.chunks;
        self.state = State::Streaming { seen, chunks };
        self.output.extend(message::stream_head(chunks));
        self.flush();
    }

    /// Writes events that the client has not seen, as far as it reads. Without new events nothing
    /// happens.
    pub fn pump(&mut self, log: &EventLog, now: Instant) {
        while let State::Streaming { seen, chunks } = self.state
            && self.output.len() < STREAM_BUFFER
        {
            match log.after(seen) {
                Next::Nothing => return,
                Next::Line(line) => {
                    let seen = seen + 1;
                    self.state = State::Streaming { seen, chunks };
                    self.output
                        .extend(message::stream_line(Some(&line), chunks));
                }
                Next::Lost(line) => {
                    self.output
                        .extend(message::stream_line(Some(&line), chunks));
                    self.end_stream(chunks, now);
                }
            }
            self.flush();
        }
    }

    /// Ends the connection, at the end of the server: a stream after its last event.
    pub fn finish(&mut self, log: &EventLog, now: Instant) {
        self.pump(log, now);
        match self.state {
            // The client has yet to read what comes before the others.
            State::Streaming { seen, .. } if log.after(seen) != Next::Nothing => {}
            State::Streaming { chunks, .. } => self.end_stream(chunks, now),
            State::Lingering => self.state = State::Closed,
            State::Reading if self.output.is_empty() => self.state = State::Closed,
            State::Reading => self.state = State::Closing,
            _ => {}
        }
    }

    /// The socket is full. A reader of events that reads nothing for too long is disconnected.
    fn stall(&mut self, progress: bool) {
        if self.is_stream() && (progress || self.deadline.is_none()) {
            self.deadline = Some(Instant::now() + STALL_LIMIT);
        }
    }

    fn end_stream(&mut self, chunks: bool, now: Instant) {
        self.output.extend(message::stream_line(None, chunks));
        self.state = State::Closing;
        self.deadline = Some(now + TIME_LIMIT);
        self.flush();
    }

    /// Writes what the client takes.
    pub fn flush(&mut self) {
        let mut progress = false;
        while let Some(rest @ [_, ..]) = self.output.get(self.written..) {
            match self.stream.write(rest) {
                Ok(count) => {
                    self.written += count;
                    progress = true;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return self.stall(progress),
                Err(_) => return self.hang_up(),
            }
        }
        self.output.clear();
        self.written = 0;
        if self.is_stream() {
            self.deadline = None;
        }
        if matches!(self.state, State::Closing) {
            self.state = match self.refused && !self.input_ended {
                false => State::Closed,
                true => {
                    // A client that has gone needs no end.
                    let _ = self.stream.shutdown(Shutdown::Write);
                    self.deadline = Some(Instant::now() + LINGER);
                    State::Lingering
                }
            };
        }
    }
}
