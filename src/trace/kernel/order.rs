//! The calls that the tracer has seen and the kernel's events in one order, by the kernel's times.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use crate::event::{Body, Event};
use crate::kernel::calls::Calls;
use crate::kernel::source::{Record, Source};
use crate::sys::clock;

/// The least time between two looks at the buffer.
const INTERVAL: u64 = 5_000_000;
/// How long an event waits for others that have begun before. A call that takes longer is shown
/// when it has ended.
const WAIT: u64 = 50_000_000;
/// How long the times of calls are kept for threads that may prove to be traced.
const KEEP: u64 = 1_000_000_000;
/// The most events that wait.
const MOST: usize = 1 << 18;
/// The most threads that are known.
const THREADS: usize = 1 << 16;
/// Events that happen in the thread that they are about. The others may happen in any thread.
const OF_THREAD: [&str; 5] = ["kvm_exit", "kvm_inj_virq", "kvm_eoi", "map", "unmap"];

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

/// Events that wait for their turn.
pub struct Order {
    source: Source,
    calls: Calls,
    /// Records that are younger than the last look.
    records: Vec<(u64, i32, Record)>,
    /// Calls whose kernel's times may not have been read yet.
    seen: Vec<Event>,
    waiting: BinaryHeap<Reverse<Waiting>>,
    /// The process of each traced thread.
    threads: HashMap<i32, i32>,
    next: u64,
    count: u64,
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
            threads: HashMap::new(),
            next: 0,
            count: 0,
        }
    }

    /// The tracer has seen an event.
    pub fn push(&mut self, event: Event) {
        if self.threads.len() < THREADS {
            self.threads.insert(event.tid, event.pid);
        }
        self.seen.push(event);
    }

    /// The events that are due, in their order, if it is time to look.
    pub fn due(&mut self) -> Vec<Event> {
        let now = clock::now();
        if now < self.next && self.seen.len() < MOST {
            return Vec::new();
        }
        self.next = now + INTERVAL;
        self.read(now);
        self.take(now.saturating_sub(WAIT))
    }

    /// All events that are left, in their order, and the number of records that were lost.
    pub fn end(&mut self) -> (Vec<Event>, u64) {
        self.read(u64::MAX);
        (self.take(u64::MAX), self.source.lost())
    }

    /// Reads the buffer. Afterwards, all that has ended before `now` has the kernel's times.
    fn read(&mut self, now: u64) {
        let records = &mut self.records;
        self.source
            .read(|time, tid, record| records.push((time, tid, record)));
        // A CPU's records are in order, but a thread moves from CPU to CPU. What is younger than
        // `now` may have older records behind it that were not read.
        records.sort_by_key(|(time, ..)| *time);
        let later = records.partition_point(|(time, ..)| *time <= now);
        let later = records.split_off(later);
        for (time, tid, record) in std::mem::replace(&mut self.records, later) {
            self.record(time, tid, record);
        }
        let seen = std::mem::take(&mut self.seen);
        for mut event in seen {
            if end(&event) > now {
                self.seen.push(event);
                continue;
            }
            self.retime(&mut event);
            self.add(event);
        }
        let threads = &self.threads;
        let since = now.saturating_sub(KEEP);
        self.calls.forget(since, |tid| threads.contains_key(&tid));
    }

    fn record(&mut self, time: u64, tid: i32, record: Record) {
        let what = match record {
            Record::Enter => return self.calls.enter(tid, time),
            Record::Exit => return self.calls.exit(tid, time),
            Record::Happened(what) => what,
        };
        let pid = self.threads.get(&tid).copied();
        if pid.is_none() && OF_THREAD.contains(&what.name) {
            return;
        }
        self.add(Event {
            time,
            took: 0,
            pid: pid.unwrap_or(0),
            tid,
            below: false,
            file: None,
            body: Body::Kernel(what),
        });
    }

    fn add(&mut self, event: Event) {
        self.count += 1;
        self.waiting
            .push(Reverse(Waiting(event.time, self.count, event)));
    }

    /// Gives an event the kernel's times in place of the tracer's.
    fn retime(&mut self, event: &mut Event) {
        let is_exit = matches!(event.body, Body::Exit(_));
        if !is_exit && !matches!(event.body, Body::Call(_)) {
            return;
        }
        let (begin, end) = match is_exit {
            true => (event.time.saturating_sub(event.took), event.time),
            false => (event.time, event.time.saturating_add(event.took)),
        };
        if let Some((entered, left)) = self.calls.take(event.tid, begin, end) {
            event.time = if is_exit { left } else { entered };
            event.took = left.saturating_sub(entered);
        }
    }

    fn take(&mut self, until: u64) -> Vec<Event> {
        let mut due = Vec::new();
        while let Some(Reverse(Waiting(time, ..))) = self.waiting.peek()
            && (*time <= until || self.waiting.len() > MOST)
            && let Some(Reverse(Waiting(.., event))) = self.waiting.pop()
        {
            due.push(event);
        }
        due
    }
}

/// When the tracer has seen the end of an event.
fn end(event: &Event) -> u64 {
    match event.body {
        Body::Call(_) => event.time.saturating_add(event.took),
        _ => event.time,
    }
}
