//! The calls that the tracer has seen and the kernel's events in one order, by the kernel's times.
//!
//! An event is shown when nothing earlier can come any more: all records until then were read, and
//! the tracer has seen the end of each call that began before. When the tracer looks does not
//! matter. A call that takes longer than [`WAIT`](crate::kernel::calls::WAIT) by the kernel's clock
//! is not waited for: such a call is shown when it has ended.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use crate::event::{Body, Event};
use crate::kernel::calls::Calls;
use crate::kernel::instance::InstanceError;
use crate::kernel::source::{Record, Source};

/// The least time between two looks at the buffer.
const INTERVAL: u64 = 5_000_000;
/// A CPU that is held up while it writes a record down, as a virtual one may be, has done so after
/// this time.
const SETTLED: u64 = 50_000_000;
/// The most reads at the end. They are more than the largest buffer has parts; the kernel that
/// records on in spite of a stop is not followed for ever.
const LAST_READS: usize = 1 << 10;
/// The most events, and the most records of calls, that wait.
pub const MOST: usize = 1 << 17;

/// An event by time, then as it has come.
struct Waiting(u64, u64, Event);

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// An event of a call, from start to end by the tracer. Its kernel's times are not known yet.
struct Seen {
    begin: u64,
    end: u64,
    event: Event,
}

/// A thread whose exit is kept back until it has an answer.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// The thread.
    pub tid: i32,
    /// When its KVM_RUN began.
    pub since: u64,
}

/// What was not shown as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Records that were lost.
    pub lost: u64,
    /// Events that were shown after later ones.
    pub late: u64,
}

/// Events that wait for their turn.
pub struct Order {
    source: Source,
    calls: Calls,
    /// Starts (true) and ends of traced threads' calls that are not settled: a thread moves from
    /// CPU to CPU, and each CPU's buffer is read by itself.
    records: Vec<(u64, i32, bool)>,
    seen: Vec<Seen>,
    waiting: BinaryHeap<Reverse<Waiting>>,
    next: u64,
    has_more: bool,
    count: u64,
    last: u64,
    losses: Losses,
}

impl Order {
    /// Of a source.
    pub fn new(source: Source) -> Self {
        Self {
            source,
            calls: Calls::default(),
            records: Vec::new(),
            seen: Vec::new(),
            waiting: BinaryHeap::new(),
            next: 0,
            has_more: false,
            count: 0,
            last: 0,
            losses: Losses::default(),
        }
    }

    /// The traced threads, of which the tracer tells.
    pub fn calls(&mut self) -> &mut Calls {
        &mut self.calls
    }

    /// The tracer has seen an event.
    pub fn push(&mut self, event: Event) {
        let (time, took) = (event.time, event.took);
        let (begin, end) = match event.body {
            Body::Call(_) => (time, time.saturating_add(took)),
            Body::Exit(_) => (time.saturating_sub(took), time),
            // Entries of the ring that a return of KVM_RUN has shown are before that return.
            Body::Coalesced(..) => (self.calls.inside(event.tid).unwrap_or(time), time),
            Body::Entered | Body::Kernel(_) | Body::Process(_) => (time, time),
        };
        match begin < end {
            true => self.seen.push(Seen { begin, end, event }),
            false => self.add(event),
        }
    }

    /// Whether it is time to look at the buffer.
    pub fn is_due(&self, now: u64) -> bool {
        now >= self.next || self.seen.len() > MOST
    }

    /// Whether the last look has left records in the buffer.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// Reads the buffer and shows the events whose turn has come. `idle`: no stop of a traced
    /// thread waits for the tracer.
    pub fn look(&mut self, now: u64, idle: bool, held: &[Held], show: &mut dyn FnMut(Event)) {
        let read = self.read(now, show);
        self.has_more = read < now;
        self.next = if self.has_more { now } else { now + INTERVAL };
        let known = read.min(now.saturating_sub(SETTLED));
        self.retime(known);
        let is_held = |held: &&Held| !idle || !self.calls.is_slow(held.tid, now);
        let held_since = held.iter().filter(is_held).map(|held| held.since).min();
        let seen_since = self.seen.iter().map(|seen| seen.begin).min();
        let until = [held_since, seen_since].into_iter().flatten().min();
        let until = until.unwrap_or(known).min(self.calls.open(known));
        self.show(until, show);
        let mut needs: HashMap<i32, u64> = HashMap::new();
        let seen = self.seen.iter().map(|seen| (seen.event.tid, seen.begin));
        for (tid, since) in seen.chain(held.iter().map(|held| (held.tid, held.since))) {
            let first = needs.entry(tid).or_insert(since);
            *first = since.min(*first);
        }
        self.calls.forget(known, &needs);
    }

    /// Shows all that is left, and removes the instance.
    ///
    /// # Errors
    /// The instance is still there.
    pub fn end(mut self, show: &mut dyn FnMut(Event)) -> (Losses, Result<(), InstanceError>) {
        self.source.stop();
        for _ in 0..LAST_READS {
            if self.read(u64::MAX, show) == u64::MAX {
                break;
            }
        }
        self.retime(u64::MAX);
        self.show(u64::MAX, show);
        self.losses.lost += self.source.lost();
        (self.losses, self.source.remove())
    }

    /// Reads the buffer. All records until the returned time, at most `now`, were read.
    fn read(&mut self, now: u64, show: &mut dyn FnMut(Event)) -> u64 {
        let Self {
            source,
            calls,
            records,
            waiting,
            count,
            last,
            losses,
            ..
        } = self;
        let is_traced = |tid: i32, time: u64| calls.process(tid, time).is_some();
        let read = source.read(is_traced, |time, tid, record| {
            let is_start = match record {
                Record::Enter => true,
                Record::Exit => false,
                Record::Happened(what) => {
                    let event = Event {
                        time,
                        took: 0,
                        pid: calls.process(tid, time).unwrap_or(0),
                        tid,
                        below: false,
                        file: None,
                        body: Body::Kernel(what),
                    };
                    *count += 1;
                    waiting.push(Reverse(Waiting(time, *count, event)));
                    if waiting.len() > MOST
                        && let Some(Reverse(Waiting(.., event))) = waiting.pop()
                    {
                        out(event, last, losses, show);
                    }
                    return;
                }
            };
            match records.len() < MOST {
                true => records.push((time, tid, is_start)),
                false => losses.lost += 1,
            }
        });
        read.min(now)
    }

    /// Gives calls that have ended before `known` the kernel's times.
    fn retime(&mut self, known: u64) {
        self.records.sort_by_key(|(time, ..)| *time);
        let later = self.records.partition_point(|(time, ..)| *time <= known);
        for (time, tid, is_start) in self.records.drain(..later) {
            match is_start {
                true => self.calls.enter(tid, time),
                false => self.calls.exit(tid, time),
            }
        }
        // Without room, a call has the times that are known.
        let full = self.seen.len() > MOST;
        let settled: Vec<_> = self
            .seen
            .extract_if(.., |seen| full || seen.end <= known)
            .collect();
        for Seen { begin, end, event } in settled {
            let event = self.retimed(event, begin, end);
            self.add(event);
        }
    }

    /// An event with the kernel's times in place of the tracer's.
    fn retimed(&self, mut event: Event, begin: u64, end: u64) -> Event {
        if let Some((entered, left)) = self.calls.times(event.tid, begin, end) {
            let took = left.saturating_sub(entered);
            (event.time, event.took) = match event.body {
                Body::Exit(_) => (left, took),
                Body::Coalesced(..) => (left, 0),
                _ => (entered, took),
            };
        }
        event
    }

    fn add(&mut self, event: Event) {
        self.count += 1;
        self.waiting
            .push(Reverse(Waiting(event.time, self.count, event)));
    }

    fn show(&mut self, until: u64, show: &mut dyn FnMut(Event)) {
        while let Some(Reverse(Waiting(time, ..))) = self.waiting.peek()
            && (*time < until || until == u64::MAX || self.waiting.len() > MOST)
            && let Some(Reverse(Waiting(.., event))) = self.waiting.pop()
        {
            out(event, &mut self.last, &mut self.losses, show);
        }
    }
}

fn out(event: Event, last: &mut u64, losses: &mut Losses, show: &mut dyn FnMut(Event)) {
    losses.late += u64::from(event.time < *last);
    *last = event.time.max(*last);
    show(event);
}
