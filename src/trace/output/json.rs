//! One JSON object a line (docs/trace.md).

use std::io::Write;

use serde_json::{Map, Value as Json, json};

use crate::decode::calls::Why;
use crate::decode::value::{Field, Value};
use crate::event::{Body, Call, Event, Left, Names};
use crate::guest::access::Access;
use crate::guest::run_page::{Exit, reason_name};
use crate::guest::vm::Meaning;
use crate::output::emitter::Output;
use crate::output::errno_names;
use crate::output::line::{document, purpose};
use crate::purposes;
use crate::summary::Summary;

/// JSON to a writer.
pub struct Lines {
    to: Box<dyn Write>,
    why: bool,
    failed: bool,
}

impl Lines {
    /// Makes the output, with what each call is for if `why`.
    pub fn new(to: Box<dyn Write>, why: bool) -> Self {
        Self {
            to,
            why,
            failed: false,
        }
    }

    /// What the line is for, if that is asked for.
    fn why(&self, line: &mut Map<String, Json>, why: Option<(Why, Option<&str>)>) {
        if let Some((why, section)) = why.filter(|_| self.why) {
            line.insert("why".into(), why.text.into());
            line.insert("document".into(), document(why, section).into());
        }
    }

    fn write(&mut self, value: &Json) {
        if !self.failed {
            self.failed = writeln!(self.to, "{value}").is_err();
        }
    }
}

impl Output for Lines {
    fn event(&mut self, event: &Event) {
        let mut line = Map::new();
        let word = match &event.body {
            Body::Call(_) => "call",
            Body::Exit(_) => "exit",
            Body::Coalesced(..) => "coalesced",
            Body::Process(_) => "process",
            Body::Kernel(_) => "kernel",
            Body::Entered => return,
        };
        line.insert("type".into(), word.into());
        line.insert("time_ns".into(), event.time.into());
        line.insert("took_ns".into(), event.took.into());
        line.insert("pid".into(), event.pid.into());
        line.insert("tid".into(), event.tid.into());
        line.insert("below".into(), event.below.into());
        if let Some(file) = &event.file {
            line.insert("file".into(), file.name.clone().into());
            line.insert("kind".into(), file.kind.word().into());
        }
        match &event.body {
            Body::Call(call) => {
                self::call(&mut line, call);
                self.why(&mut line, call.why.map(|why| (why, None)));
            }
            Body::Exit(left) => {
                exit(&mut line, left);
                self.why(&mut line, Some(purpose(left)));
            }
            Body::Coalesced(access, meaning) => {
                self::access(&mut line, access, meaning);
                self.why(&mut line, Some((purposes::KEPT, meaning.document)));
            }
            Body::Kernel(happened) => {
                line.insert("event".into(), happened.name.into());
                line.insert("cpu".into(), happened.cpu.into());
                line.insert("fields".into(), record(&happened.fields, &Names::default()));
            }
            Body::Process(text) => {
                line.insert("text".into(), text.clone().into());
            }
            Body::Entered => {}
        }
        self.write(&Json::Object(line));
    }

    fn end(&mut self, summary: &Summary) {
        let line = totals(summary);
        self.write(&line);
    }

    fn flush(&mut self) {
        if !self.failed {
            self.failed = self.to.flush().is_err();
        }
    }
}

fn hex(value: u64) -> Json {
    format!("{value:#x}").into()
}

fn call(line: &mut Map<String, Json>, call: &Call) {
    line.insert("call".into(), call.name.clone().into());
    line.insert("known".into(), call.known.into());
    line.insert("in".into(), record(&call.ins, &call.names));
    line.insert("out".into(), record(&call.outs, &call.names));
    line.insert("result".into(), call.result.into());
    let errno = i32::try_from(-call.result)
        .ok()
        .filter(|e| (1..4096).contains(e));
    if let Some(errno) = errno {
        let name = errno_names::name(errno).map(Json::from);
        line.insert("errno".into(), name.unwrap_or_else(|| errno.into()));
    }
    if let Some(made) = &call.makes {
        line.insert("makes".into(), made.clone().into());
    }
    if let Some(note) = &call.note {
        line.insert("note".into(), note.clone().into());
    }
}

fn exit(line: &mut Map<String, Json>, left: &Left) {
    line.insert("reason".into(), left.word().into());
    line.insert("immediate".into(), left.immediate.into());
    line.insert("result".into(), left.result.into());
    match &left.exit {
        Some(Exit::Access(access, _)) => self::access(line, access, &left.meaning),
        Some(Exit::Other(reason, fields)) => {
            let name = reason_name(*reason).map_or_else(|| hex((*reason).into()), Json::from);
            line.insert("kvm_reason".into(), name);
            let fields = fields
                .iter()
                .map(|(name, value)| json!([name, hex(*value)]));
            line.insert("fields".into(), fields.collect());
        }
        None => {}
    }
}

fn access(line: &mut Map<String, Json>, access: &Access, meaning: &Meaning) {
    line.insert("space".into(), access.register.space.word().into());
    line.insert("address".into(), hex(access.register.address));
    line.insert("write".into(), access.register.write.into());
    line.insert("width".into(), access.width.into());
    line.insert("count".into(), access.count.into());
    let bytes: String = access
        .data
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    line.insert("data".into(), bytes.into());
    if let Some(value) = access.value() {
        line.insert("value".into(), hex(value));
    }
    let parts = [
        ("function", &meaning.function),
        ("register", &meaning.register),
        ("note", &meaning.note),
    ];
    for (name, part) in parts {
        if let Some(part) = part {
            line.insert(name.into(), part.clone().into());
        }
    }
}

fn record(fields: &[Field], names: &Names) -> Json {
    let fields = fields.iter();
    let pairs = fields.map(|field| (field.name.to_string(), value(&field.value, names)));
    Json::Object(pairs.collect())
}

fn value(of: &Value, names: &Names) -> Json {
    match of {
        Value::Decimal(number) => (*number).into(),
        Value::Signed(number) => (*number).into(),
        Value::Hex(number, _) | Value::Pointer(number) => hex(*number),
        Value::Name(_, name) => (*name).into(),
        Value::Flags { raw, names, rest } => {
            json!({ "raw": hex(*raw), "names": names, "rest": hex(*rest) })
        }
        Value::Descriptor(fd) => match names.descriptors.get(fd) {
            Some(name) => json!({ "fd": fd, "file": name }),
            None => json!({ "fd": fd }),
        },
        Value::Object(id) => match names.objects.get(id) {
            Some(name) => json!({ "id": id, "object": name }),
            None => json!({ "id": id }),
        },
        Value::Text(text) => text.clone().into(),
        Value::Bytes(bytes) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            digits.into()
        }
        Value::Record(fields) => record(fields, names),
        Value::List(values, 0) => values.iter().map(|v| value(v, names)).collect(),
        Value::List(values, left_out) => {
            let values: Vec<_> = values.iter().map(|v| value(v, names)).collect();
            json!({ "values": values, "left_out": left_out })
        }
        Value::Unreadable(at) => json!({ "unreadable": hex(*at) }),
    }
}

fn totals(summary: &Summary) -> Json {
    let calls = summary.calls().into_iter().map(|(name, calls)| {
        let (count, errors, ns) = (calls.count, calls.errors, calls.ns);
        json!({ "call": name, "count": count, "errors": errors, "ns": ns })
    });
    let registers = summary.registers().into_iter().map(|(register, accesses)| {
        json!({
            "space": register.space.word(),
            "address": hex(register.address),
            "write": register.write,
            "count": accesses.exits,
            "coalesced": accesses.coalesced,
        })
    });
    let names = summary
        .names()
        .into_iter()
        .map(|((name, write), accesses)| {
            let (count, coalesced) = (accesses.exits, accesses.coalesced);
            json!({ "name": name, "write": write, "count": count, "coalesced": coalesced })
        });
    let (calls, registers): (Vec<_>, Vec<_>) = (calls.collect(), registers.collect());
    let names: Vec<_> = names.collect();
    let reasons: Map<_, _> = summary
        .reasons()
        .into_iter()
        .map(|(reason, count)| (reason.to_string(), count.into()))
        .collect();
    let mut totals = json!({
        "type": "summary",
        "calls": calls,
        "unknown_calls": summary.unknown,
        "exits": {
            "total": summary.total(),
            "by_reason": reasons,
            "immediate": summary.immediate,
            "registers": registers,
            "names": names,
            "other_registers": summary.other_registers,
            "coalesced_writes": summary.coalesced,
        },
    });
    if let Some(losses) = summary.losses {
        let events = summary.kernel().into_iter();
        let events: Map<_, _> = events.map(|(n, count)| (n.into(), count.into())).collect();
        totals["kernel"] = json!({
            "events": events, "lost": losses.lost, "late": losses.late,
        });
    }
    totals
}
