//! Hands events to the outputs. A guest's read is shown with its answer, so what its thread does
//! until the answer is kept back and follows it.

use std::collections::HashMap;

use crate::decode::value::{Field, Value};
use crate::event::{Body, Event};
use crate::filter::Filter;
use crate::kernel::instance::InstanceError;
use crate::kernel::order::{Held, Order};
use crate::kernel::source::Source;
use crate::summary::Summary;
use crate::sys::clock;

/// The most events of a thread that wait for an answer.
const MOST: usize = 1024;
/// The most events that are written at a time. While one is, a traced thread waits; and the code
/// that writes is soon out of the caches if each event is written for itself.
const BATCH: usize = 1024;
/// The most bytes of a field of an event that waits.
const SMALL: usize = 64;
/// The call after which what it was made on is gone.
const CLOSE: &str = "close";

/// Something that events are written to. Its errors end it, not the traced program.
pub trait Output {
    /// Writes an event that the filter shows.
    fn event(&mut self, event: &Event);
    /// Writes what is at the end.
    fn end(&mut self, summary: &Summary);
    /// Writes out what is kept in memory.
    fn flush(&mut self);
}

/// All outputs, their filter, and the counts.
#[derive(Default)]
pub struct Emitter {
    outputs: Vec<Box<dyn Output>>,
    filter: Filter,
    summary: Summary,
    held: HashMap<i32, Vec<Event>>,
    order: Option<Order>,
    /// Events that are not written yet.
    batch: Vec<Event>,
    dirty: bool,
    looked_at: bool,
}

impl Emitter {
    /// Makes an emitter, with the kernel's events if there is a source.
    pub fn new(outputs: Vec<Box<dyn Output>>, filter: Filter, kernel: Option<Source>) -> Self {
        Self {
            outputs,
            filter,
            order: kernel.map(Order::new),
            ..Self::default()
        }
    }

    /// Shows an event, or keeps it back if its thread has an exit without an answer.
    pub fn emit(&mut self, event: Event) {
        match self.held.get_mut(&event.tid) {
            Some(held) => {
                held.push(event);
                if held.len() > MOST {
                    let tid = held[0].tid;
                    self.release(tid);
                }
            }
            None => self.show(event),
        }
    }

    /// Keeps back an exit until its answer is known.
    pub fn keep_back(&mut self, event: Event) {
        self.release(event.tid);
        self.held.insert(event.tid, vec![event]);
    }

    /// Completes the exit that is kept back, and shows it with what has followed.
    pub fn answer(&mut self, tid: i32, complete: impl FnOnce(&mut Event)) {
        if let Some(first) = self.held.get_mut(&tid).and_then(|held| held.first_mut()) {
            complete(first);
        }
        self.release(tid);
    }

    /// Shows what is kept back of a thread.
    pub fn release(&mut self, tid: i32) {
        for event in self.held.remove(&tid).unwrap_or_default() {
            self.show(event);
        }
    }

    /// Shows an event in the order of the kernel's times, if there are such times.
    fn show(&mut self, event: Event) {
        match &mut self.order {
            Some(order) => order.push(event),
            None => self.write(event),
        }
    }

    /// A thread is traced from now on. This and what follows is for the order of events with those
    /// of the kernel.
    pub fn born(&mut self, tid: i32, pid: i32) {
        if let Some(order) = &mut self.order {
            order.calls().born(tid, pid, clock::now());
        }
    }

    /// A thread has ended, or has another number.
    pub fn gone(&mut self, tid: i32) {
        self.release(tid);
        if let Some(order) = &mut self.order {
            order.calls().gone(tid, clock::now());
        }
    }

    /// A thread goes on, in a call that the tracer saw begin at this time, or in none whose end
    /// stops it.
    pub fn inside(&mut self, tid: i32, begin: Option<u64>) {
        if let Some(order) = &mut self.order {
            order.calls().goes_on(tid, begin, clock::now());
        }
    }

    /// Whether the kernel's events are shown.
    pub fn has_kernel(&self) -> bool {
        self.order.is_some()
    }

    /// Whether to look at the kernel's events.
    pub fn is_due(&self) -> bool {
        let order = self.order.as_ref();
        order.is_some_and(|order| order.is_due(clock::now()))
    }

    /// Whether the last look at the kernel's events has left some in the buffer.
    pub fn has_more(&self) -> bool {
        self.order.as_ref().is_some_and(Order::has_more)
    }

    /// Looks at the kernel's events, and shows what is due. `idle`: no stop of a thread waits.
    pub fn look(&mut self, idle: bool) {
        let Some(mut order) = self.order.take() else {
            return;
        };
        let held = self.held.iter().filter_map(|(tid, events)| {
            let first = events.first()?;
            let since = first.time.saturating_sub(first.took);
            Some(Held { tid: *tid, since })
        });
        let held: Vec<_> = held.collect();
        order.look(clock::now(), idle, &held, &mut |event| self.write(event));
        self.order = Some(order);
    }

    fn write(&mut self, event: Event) {
        let waits = may_wait(&event);
        self.batch.push(event);
        self.dirty = true;
        if !waits || self.batch.len() == BATCH {
            self.write_batch();
        }
    }

    fn write_batch(&mut self) {
        for event in self.batch.drain(..) {
            self.summary.count(&event);
            if self.filter.shows(&event) {
                for output in &mut self.outputs {
                    output.event(&event);
                }
            }
        }
    }

    /// Writes events out as soon as the tracer has nothing else to do, for a reader who looks on.
    pub fn looked_at(mut self, by_a_reader: bool) -> Self {
        self.looked_at = by_a_reader;
        self
    }

    /// Whether events are to be written out as soon as there is nothing else to do.
    pub fn is_looked_at(&self) -> bool {
        self.looked_at && self.dirty
    }

    /// Whether there are events that are not written out. Of the kernel's, there may always be.
    pub fn is_dirty(&self) -> bool {
        self.dirty || self.order.is_some()
    }

    /// Writes events out.
    pub fn flush(&mut self) {
        if std::mem::take(&mut self.dirty) {
            self.write_batch();
            self.outputs.iter_mut().for_each(|output| output.flush());
        }
    }

    /// Shows all that is left, and the counts.
    ///
    /// # Errors
    /// Something of the kernel's events is left on the host.
    pub fn end(&mut self) -> Result<(), InstanceError> {
        let tids: Vec<_> = self.held.keys().copied().collect();
        for tid in tids {
            self.release(tid);
        }
        let mut removed = Ok(());
        if let Some(order) = self.order.take() {
            let (losses, end) = order.end(&mut |event| self.write(event));
            self.summary.losses = Some(losses);
            removed = end;
        }
        self.write_batch();
        for output in &mut self.outputs {
            output.end(&self.summary);
            output.flush();
        }
        removed
    }
}

/// Whether an event is small, and no end of what it is of: an event keeps its file, and the trace
/// tells files from those that are open.
fn may_wait(event: &Event) -> bool {
    match &event.body {
        Body::Call(call) => {
            let small = |field: &Field| match &field.value {
                Value::Record(_) | Value::List(..) => false,
                Value::Bytes(bytes) => bytes.len() <= SMALL,
                _ => true,
            };
            call.name != CLOSE && call.ins.iter().chain(&call.outs).all(small)
        }
        Body::Process(_) => false,
        Body::Exit(_) | Body::Coalesced(..) | Body::Entered | Body::Kernel(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::event::{Call, Names};

    /// The times of the events that were written.
    #[derive(Default)]
    struct Written(Rc<RefCell<Vec<u64>>>);

    impl Output for Written {
        fn event(&mut self, event: &Event) {
            self.0.borrow_mut().push(event.time);
        }
        fn end(&mut self, _: &Summary) {}
        fn flush(&mut self) {}
    }

    fn event(time: u64, body: Body) -> Event {
        Event {
            time,
            took: 0,
            pid: 1,
            tid: 1,
            below: false,
            file: None,
            body,
        }
    }

    fn call(time: u64, name: &'static str, value: Value) -> Event {
        let name_of_field = "data".into();
        event(
            time,
            Body::Call(Call {
                name: name.into(),
                known: true,
                ins: vec![Field {
                    name: name_of_field,
                    value,
                }],
                outs: Vec::new(),
                result: 0,
                makes: None,
                note: None,
                names: Names::default(),
                why: None,
            }),
        )
    }

    #[test]
    fn small_events_are_written_together_and_in_order() {
        let written = Rc::new(RefCell::new(Vec::new()));
        let output = Written(Rc::clone(&written));
        let mut emitter = Emitter::new(vec![Box::new(output)], Filter::default(), None);
        let count = || written.borrow().len();
        let most = BATCH as u64;
        for time in 1..most {
            emitter.emit(event(time, Body::Entered));
            assert_eq!(count(), 0);
        }
        emitter.emit(call(most, "read", Value::Decimal(1)));
        assert_eq!(count(), BATCH);
        // For a reader who looks on, with the ticks, and at the end.
        emitter.emit(event(most + 1, Body::Entered));
        assert!(emitter.is_dirty());
        emitter.flush();
        assert!(!emitter.is_dirty());
        assert_eq!(count(), BATCH + 1);
        emitter.emit(event(most + 2, Body::Entered));
        assert!(emitter.end().is_ok());
        assert!(written.borrow().is_sorted());
        assert_eq!(count(), BATCH + 2);
    }

    #[test]
    fn what_is_large_or_ends_something_is_written_at_once() {
        let end = || event(0, Body::Process("ends".into()));
        let large = Value::Bytes(vec![0; SMALL + 1]);
        let list = Value::List(Vec::new(), 0);
        let read = |value| call(0, "read", value);
        let at_once = [
            end(),
            call(0, "close", Value::Decimal(3)),
            read(large),
            read(list),
        ];
        for event in at_once {
            let written = Rc::new(RefCell::new(Vec::new()));
            let output = Written(Rc::clone(&written));
            let mut emitter = Emitter::new(vec![Box::new(output)], Filter::default(), None);
            emitter.emit(event);
            assert_eq!(written.borrow().len(), 1);
        }
    }
}
