//! The last events, each with its number.
//!
//! Publishing an event never waits for a reader: the log keeps the last [`KEPT`] events, and a
//! reader that is further behind learns how many it has lost.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// The number of events that are kept.
pub const KEPT: usize = 1024;

/// The events of a run.
pub struct EventLog {
    state: Mutex<State>,
    wake: OwnedFd,
}

#[derive(Default)]
struct State {
    /// The number of the last event; the first has the number 1.
    last: u64,
    lines: VecDeque<Arc<str>>,
}

/// What a reader gets next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// There is no later event yet.
    Nothing,
    /// The event after the last one that the reader has seen, as a line of JSON.
    Line(Arc<str>),
    /// The reader is too far behind. The line tells how many events it has lost, and is its last.
    Lost(String),
}

/// A line of the stream.
#[derive(Serialize)]
struct Line<'a, T> {
    seq: u64,
    event: &'a str,
    monotonic_ns: u64,
    #[serde(flatten)]
    fields: &'a T,
}

/// The last line of a reader that was too slow.
#[derive(Serialize)]
struct Lost {
    /// The number of the last lost event: a new reader asks for the events since then.
    seq: u64,
    event: &'static str,
    count: u64,
}

impl EventLog {
    /// Makes an empty log.
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            state: Mutex::default(),
            wake: new_eventfd()?,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event. What it tells of must be readable by now: a reader may ask at once. `fields`
    /// is a struct or a map, which becomes a part of the line.
    pub fn publish(&self, event: &str, fields: &impl Serialize) {
        let mut state = self.lock();
        let seq = state.last + 1;
        let line = Line {
            seq,
            event,
            monotonic_ns: monotonic_ns(),
            fields,
        };
        match serde_json::to_string(&line) {
            Ok(line) => {
                state.last = seq;
                if state.lines.len() == KEPT {
                    state.lines.pop_front();
                }
                state.lines.push_back(line.into());
            }
            Err(e) => tracing::error!("an event is no JSON: {e}"),
        }
        drop(state);
        wake(&self.wake);
    }

    /// The number of the last event; 0 if there was none.
    pub fn last(&self) -> u64 {
        self.lock().last
    }

    /// What comes after event number `seen`, for a reader that has seen it.
    pub fn after(&self, seen: u64) -> Next {
        let state = self.lock();
        let kept = state.lines.len() as u64;
        // The number of the last event that is no longer kept.
        let gone = state.last - kept;
        if seen < gone {
            let lost = Lost {
                seq: gone,
                event: "lost",
                count: gone - seen,
            };
            return Next::Lost(serde_json::to_string(&lost).unwrap_or_default());
        }
        let index = usize::try_from(seen - gone).unwrap_or(usize::MAX);
        match state.lines.get(index) {
            Some(line) => Next::Line(Arc::clone(line)),
            None => Next::Nothing,
        }
    }

    /// An eventfd that is readable after each [`EventLog::publish`].
    pub(crate) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// CLOCK_MONOTONIC in nanoseconds, as in the report of `--stats`.
fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Makes an eventfd that wakes the server's thread.
pub(crate) fn new_eventfd() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Signals an eventfd. A full counter wakes the thread too.
pub(crate) fn wake(fd: &OwnedFd) {
    let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
}

/// Makes an eventfd unreadable until the next signal.
pub(crate) fn clear(fd: BorrowedFd<'_>) {
    let mut counter = [0; 8];
    // An empty eventfd has nothing to read.
    let _ = rustix::io::read(fd, &mut counter);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Fields {
        number: u64,
    }

    fn line(log: &EventLog, seen: u64) -> serde_json::Value {
        match log.after(seen) {
            Next::Line(line) => serde_json::from_str(&line).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn events_have_numbers_and_come_in_order() {
        let log = EventLog::new().unwrap();
        assert_eq!((log.last(), log.after(0)), (0, Next::Nothing));
        log.publish("a", &Fields { number: 7 });
        log.publish("b", &Fields { number: 8 });
        assert_eq!(log.last(), 2);
        let first = line(&log, 0);
        assert_eq!((&first["seq"], &first["event"]), (&1.into(), &"a".into()));
        assert_eq!(first["number"], 7);
        assert_eq!(line(&log, 1)["seq"], 2);
        assert_eq!(log.after(2), Next::Nothing);
        // A number of an earlier run.
        assert_eq!(log.after(u64::MAX), Next::Nothing);
    }

    #[test]
    fn a_reader_that_is_too_far_behind_learns_how_many_it_has_lost() {
        let log = EventLog::new().unwrap();
        for number in 0..KEPT as u64 {
            log.publish("x", &Fields { number });
        }
        assert_eq!(line(&log, 0)["seq"], 1);
        log.publish("x", &Fields { number: 0 });
        let lost =
            |count, seq| Next::Lost(format!(r#"{{"seq":{seq},"event":"lost","count":{count}}}"#));
        assert_eq!(log.after(0), lost(1, 1));
        assert_eq!(line(&log, 1)["seq"], 2);
        for number in 0..9 {
            log.publish("x", &Fields { number });
        }
        assert_eq!(log.after(4), lost(6, 10));
        assert_eq!(line(&log, 10)["seq"], 11);
    }
}
