//! Chrome's JSON format, which Perfetto opens (perfetto.dev, "Visualizing external trace formats").
//!
//! | track | slices |
//! | --- | --- |
//! | of each thread | its calls, with KVM_RUN |
//! | of each vCPU | its exits, from the return of KVM_RUN to the next one; calls nest inside |
//! | of each device, for each thread | calls on the device |
//!
//! A flow leads from the exit in which the guest unmasks an MSI-X vector to VFIO_DEVICE_SET_IRQS
//! and KVM_IRQFD with the same eventfd.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Write;

use serde_json::{Value as Json, json};

use crate::decode::value::Kind;
use crate::event::{Body, Call, Event, Happened, Names};
use crate::files::open_file::FileKind;
use crate::output::emitter::Output;
use crate::output::fields;
use crate::output::line::{accessed, exited};
use crate::summary::Summary;

/// The most tracks, and eventfds that may begin or end a flow.
const MOST: usize = 1 << 16;
/// Numbers of tracks that are no thread's: above all numbers of threads (PID_MAX_LIMIT is 2^22).
const FIRST_TRACK: i64 = 1 << 23;

/// An exit whose end is not known yet.
#[derive(Clone, Debug)]
struct Open {
    pid: i32,
    track: i64,
    time: u64,
    name: String,
}

/// A point of a flow: process, track and time.
type Point = (i32, i64, u64);

/// A call that an eventfd was given to, after an exit or not.
#[derive(Clone, Debug)]
struct Given {
    call: &'static str,
    exit: Option<Point>,
    at: Point,
}

/// Events to a writer.
pub struct Perfetto {
    to: Box<dyn Write>,
    failed: bool,
    begun: bool,
    last: u64,
    /// Tracks by file and thread.
    tracks: HashMap<(u32, i32), i64>,
    named: HashSet<(i32, i64)>,
    open: HashMap<i32, Open>,
    given: HashMap<String, Given>,
    flows: u64,
}

impl Perfetto {
    /// Makes the output.
    pub fn new(to: Box<dyn Write>) -> Self {
        Self {
            to,
            failed: false,
            begun: false,
            last: 0,
            tracks: HashMap::new(),
            named: HashSet::new(),
            open: HashMap::new(),
            given: HashMap::new(),
            flows: 0,
        }
    }

    fn write(&mut self, value: &Json) {
        let before = if self.begun { ",\n" } else { "[\n" };
        self.begun = true;
        if !self.failed {
            self.failed = write!(self.to, "{before}{value}").is_err();
        }
    }

    /// Names a track once.
    fn name(&mut self, pid: i32, track: i64, name: &str) {
        if self.named.len() < MOST && self.named.insert((pid, track)) {
            let args = json!({ "name": name });
            let name = "thread_name";
            self.write(&json!({
                "ph": "M", "pid": pid, "tid": track, "name": name, "args": args,
            }));
        }
    }

    /// The track of a file for a thread. Calls of two threads may overlap, and slices must nest.
    fn track(&mut self, event: &Event, file: u32, name: &str) -> i64 {
        let next = FIRST_TRACK + self.tracks.len() as i64;
        let first = !self.tracks.keys().any(|(of, _)| *of == file);
        if self.tracks.len() == MOST && !self.tracks.contains_key(&(file, event.tid)) {
            return i64::from(event.tid);
        }
        let track = *self.tracks.entry((file, event.tid)).or_insert(next);
        if track == next {
            let name = match first {
                true => name.to_string(),
                false => format!("{name} (thread {})", event.tid),
            };
            self.name(event.pid, track, &name);
        }
        track
    }

    fn slice(&mut self, at: Point, took: u64, name: &str, args: &Json) {
        let (pid, track, time) = at;
        self.write(&json!({
            "ph": "X", "pid": pid, "tid": track, "ts": micros(time), "dur": micros(took),
            "name": name, "args": args,
        }));
    }

    fn call(&mut self, event: &Event, call: &Call) {
        let args = json!({
            "file": event.file.as_ref().map(|file| &file.name),
            "in": fields::text(&call.ins, &call.names, false),
            "out": fields::text(&call.outs, &call.names, false),
            "result": call.result,
            "note": call.note,
        });
        let thread = i64::from(event.tid);
        self.name(event.pid, thread, &format!("thread {thread}"));
        let at = (event.pid, thread, event.time);
        self.slice(at, event.took, &call.name, &args);
        let exit = self.open.get(&event.tid).filter(|_| event.below).cloned();
        if let Some(exit) = &exit {
            let inside = (event.pid, exit.track, event.time);
            self.slice(inside, event.took, &call.name, &args);
        }
        if let Some(file) = &event.file
            && file.kind == FileKind::Calls(Kind::Device)
        {
            let track = self.track(event, file.id, &file.name);
            self.slice(
                (event.pid, track, event.time),
                event.took,
                &call.name,
                &args,
            );
        }
        let name = match call.name.as_ref() {
            "VFIO_DEVICE_SET_IRQS" => "VFIO_DEVICE_SET_IRQS",
            "KVM_IRQFD" => "KVM_IRQFD",
            _ => return,
        };
        let exit = exit.map(|exit| (event.pid, exit.track, exit.time));
        for eventfd in eventfds(call) {
            self.give(
                eventfd,
                Given {
                    call: name,
                    exit,
                    at,
                },
            );
        }
    }

    /// An eventfd goes to a call. If it went to the other call before, both make a flow.
    fn give(&mut self, eventfd: String, given: Given) {
        match self.given.get(&eventfd).cloned() {
            Some(before) if before.call != given.call => {
                self.given.remove(&eventfd);
                self.flow(&before, &given);
            }
            _ if self.given.len() < MOST => {
                self.given.insert(eventfd, given);
            }
            _ => {}
        }
    }

    fn flow(&mut self, first: &Given, second: &Given) {
        self.flows += 1;
        let exit = first.exit.or(second.exit);
        let points: Vec<Point> = exit.into_iter().chain([first.at, second.at]).collect();
        let last = points.len() - 1;
        for (i, (pid, track, time)) in points.into_iter().enumerate() {
            let phase = match i {
                0 => "s",
                i if i == last => "f",
                _ => "t",
            };
            let mut event = json!({
                "ph": phase, "id": self.flows, "pid": pid, "tid": track, "ts": micros(time),
                "cat": "interrupt", "name": "interrupt",
            });
            if phase == "f" {
                event["bp"] = "e".into();
            }
            self.write(&event);
        }
    }

    /// The kernel's own events have a track for each CPU, below process 0.
    fn kernel(&mut self, event: &Event, happened: &Happened) {
        let track = i64::from(happened.cpu);
        self.name(0, track, &format!("kernel, CPU {track}"));
        let fields = fields::text(&happened.fields, &Names::default(), false);
        let args = json!({ "fields": fields, "thread": event.tid });
        self.write(&json!({
            "ph": "i", "s": "t", "pid": 0, "tid": track, "ts": micros(event.time),
            "name": happened.name, "args": args,
        }));
    }

    fn close(&mut self, tid: i32, end: u64) {
        if let Some(open) = self.open.remove(&tid) {
            let took = end.saturating_sub(open.time);
            self.slice(
                (open.pid, open.track, open.time),
                took,
                &open.name,
                &json!({}),
            );
        }
    }
}

impl Output for Perfetto {
    fn event(&mut self, event: &Event) {
        self.last = self.last.max(event.time + event.took);
        match (&event.body, &event.file) {
            (Body::Call(call), _) => self.call(event, call),
            (Body::Exit(left), Some(vcpu)) => {
                self.close(event.tid, event.time.saturating_sub(event.took));
                let thread = i64::from(event.tid);
                self.name(event.pid, thread, &format!("thread {thread}"));
                let begun = event.time.saturating_sub(event.took);
                let args = json!({ "file": vcpu.name });
                self.slice((event.pid, thread, begun), event.took, "KVM_RUN", &args);
                let open = Open {
                    pid: event.pid,
                    track: self.track(event, vcpu.id, &vcpu.name),
                    time: event.time,
                    name: exited(left),
                };
                self.open.insert(event.tid, open);
            }
            (Body::Entered, _) => self.close(event.tid, event.time),
            (Body::Coalesced(access, meaning), _) => {
                let name = format!("coalesced {}", accessed(access, meaning));
                let thread = i64::from(event.tid);
                self.write(&json!({
                    "ph": "i", "s": "t", "pid": event.pid, "tid": thread,
                    "ts": micros(event.time), "name": name,
                }));
            }
            (Body::Kernel(happened), _) => self.kernel(event, happened),
            (Body::Process(text), _) => {
                let Some(program) = text.strip_prefix("executes ") else {
                    return;
                };
                let args = json!({ "name": program });
                self.write(&json!({
                    "ph": "M", "pid": event.pid, "tid": event.tid, "name": "process_name",
                    "args": args,
                }));
            }
            (Body::Exit(_), None) => {}
        }
    }

    fn end(&mut self, _: &Summary) {
        let last = self.last;
        let tids: Vec<_> = self.open.keys().copied().collect();
        for tid in tids {
            self.close(tid, last);
        }
        let end = if self.begun { "\n]\n" } else { "[]\n" };
        if !self.failed {
            self.failed = self.to.write_all(end.as_bytes()).is_err();
        }
    }

    fn flush(&mut self) {
        if !self.failed {
            self.failed = self.to.flush().is_err();
        }
    }
}

/// Microseconds, the unit of the format.
fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}

/// The names of the eventfds that a call hands in.
fn eventfds(call: &Call) -> BTreeSet<String> {
    let names = call.names.descriptors.values();
    names
        .filter(|name| name.starts_with("eventfd "))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::io;
    use std::rc::Rc;

    use super::*;
    use crate::event::Left;
    use crate::files::open_file::{FileRef, OpenFile};
    use crate::guest::vm::Meaning;

    #[derive(Clone, Default)]
    struct Kept(Rc<RefCell<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn file(id: u32, kind: Kind, name: &str) -> FileRef {
        Rc::new(OpenFile {
            id,
            kind: FileKind::Calls(kind),
            name: name.into(),
            vm: None,
        })
    }

    fn event(time: u64, took: u64, tid: i32, below: bool, file: &FileRef, body: Body) -> Event {
        Event {
            time,
            took,
            pid: 10,
            tid,
            below,
            file: Some(file.clone()),
            body,
        }
    }

    fn call(name: &'static str, eventfd: &str) -> Body {
        let mut names = Names::default();
        names.descriptors.insert(7, eventfd.into());
        Body::Call(Call {
            name: name.into(),
            known: true,
            ins: Vec::new(),
            outs: Vec::new(),
            result: 0,
            makes: None,
            note: None,
            names,
            why: None,
        })
    }

    fn exit() -> Body {
        Body::Exit(Left {
            result: Some(0),
            immediate: false,
            exit: None,
            meaning: Meaning::default(),
        })
    }

    /// An exit with a call of each kind below it, beside another thread's call on the same device.
    fn written() -> Vec<Json> {
        let kept = Kept::default();
        let mut output = Perfetto::new(Box::new(kept.clone()));
        let vcpu = file(1, Kind::Vcpu, "vcpu 0");
        let device = file(2, Kind::Device, "device 0000:01:00.0");
        let vm = file(3, Kind::Vm, "vm");
        for event in [
            event(2000, 500, 11, true, &vcpu, exit()),
            event(
                2100,
                300,
                11,
                true,
                &device,
                call("VFIO_DEVICE_SET_IRQS", "eventfd 5"),
            ),
            event(
                2200,
                300,
                12,
                false,
                &device,
                call("VFIO_DEVICE_RESET", "other"),
            ),
            event(2500, 100, 11, true, &vm, call("KVM_IRQFD", "eventfd 5")),
            event(2600, 100, 11, true, &vm, call("KVM_IRQFD", "eventfd 6")),
            event(2800, 0, 11, false, &vcpu, Body::Entered),
            event(3000, 200, 11, true, &vcpu, exit()),
        ] {
            output.event(&event);
        }
        output.end(&Summary::default());
        let text = String::from_utf8(kept.0.borrow().clone()).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn slices_nest_on_named_tracks() {
        let events = written();
        let mut tracks: BTreeMap<i64, Vec<(f64, f64)>> = BTreeMap::new();
        for slice in events.iter().filter(|event| event["ph"] == "X") {
            let start = slice["ts"].as_f64().unwrap();
            let end = start + slice["dur"].as_f64().unwrap();
            let track = slice["tid"].as_i64().unwrap();
            tracks.entry(track).or_default().push((start, end));
        }
        let named = |track: i64| {
            let name = events.iter().find(|e| e["ph"] == "M" && e["tid"] == track);
            name.unwrap_or_else(|| panic!("track {track}"))["args"]["name"].clone()
        };
        let names: Vec<_> = tracks.keys().map(|track| named(*track)).collect();
        let device = "device 0000:01:00.0";
        let other = format!("{device} (thread 12)");
        assert_eq!(names, ["thread 11", "thread 12", "vcpu 0", device, &other]);
        for slices in tracks.values() {
            for (start, end) in slices {
                for (other_start, other_end) in slices {
                    let apart = *end <= *other_start || *other_end <= *start;
                    let inside = start >= other_start && end <= other_end;
                    let outside = start <= other_start && end >= other_end;
                    assert!(apart || inside || outside, "{slices:?}");
                }
            }
        }
        // Two exits, and three calls inside of the first.
        assert_eq!(tracks[&FIRST_TRACK].len(), 5);
    }

    #[test]
    fn a_flow_leads_from_the_exit_to_both_calls() {
        let events = written();
        let flow: Vec<_> = events.iter().filter(|e| e["cat"] == "interrupt").collect();
        let phases: Vec<_> = flow.iter().map(|e| e["ph"].as_str().unwrap()).collect();
        assert_eq!(phases, ["s", "t", "f"]);
        let points: Vec<_> = flow
            .iter()
            .map(|e| (e["tid"].as_i64(), e["ts"].as_f64()))
            .collect();
        let expected = [
            (Some(FIRST_TRACK), Some(2.0)),
            (Some(11), Some(2.1)),
            (Some(11), Some(2.5)),
        ];
        assert_eq!(points, expected);
    }
}
