//! Lines for people.

use std::borrow::Cow;
use std::io::Write;

use crate::decode::calls::Why;
use crate::event::{Body, Call, Event, Left};
use crate::output::duration::duration;
use crate::output::emitter::Output;
use crate::output::line::{accessed, document, errno, exited, kernel, purpose};
use crate::output::{fields, totals};
use crate::purposes;
use crate::summary::Summary;

/// How lines look.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// With colours.
    pub color: bool,
    /// Lines end as a terminal in raw mode needs it: the traced program may have set that mode.
    pub raw: bool,
    /// No lines but the counts at the end.
    pub summary_only: bool,
    /// With what each call is for.
    pub why: bool,
    /// With padding that is zero.
    pub all_fields: bool,
}

/// Text to a writer.
pub struct Text {
    to: Box<dyn Write>,
    style: Style,
    /// The time of the first event.
    start: Option<u64>,
    failed: bool,
}

impl Text {
    /// Makes the output.
    pub fn new(to: Box<dyn Write>, style: Style) -> Self {
        Self {
            to,
            style,
            start: None,
            failed: false,
        }
    }

    fn write(&mut self, text: &str) {
        if self.failed {
            return;
        }
        let text = match self.style.raw {
            true => Cow::Owned(text.replace('\n', "\r\n")),
            false => Cow::Borrowed(text),
        };
        self.failed = self.to.write_all(text.as_bytes()).is_err();
    }

    fn paint(&self, code: &str, text: &str) -> String {
        match self.style.color {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.into(),
        }
    }

    fn call(&self, call: &Call, took: u64) -> String {
        let all = self.style.all_fields;
        let ins = fields::text(&call.ins, &call.names, all);
        let mut line = format!("{}({ins})", self.paint("1", &call.name));
        line += " = ";
        line += &match (&call.makes, call.result) {
            (Some(made), result) => format!("{result} ({made})"),
            (None, result) if (-4095..0).contains(&result) => self.paint("31", &errno(result)),
            (None, result) if result > 0xffff => format!("{result:#x}"),
            (None, result) => result.to_string(),
        };
        if !call.outs.is_empty() {
            line += &format!(" {{{}}}", fields::text(&call.outs, &call.names, all));
        }
        if let Some(note) = &call.note {
            line += &format!(" [{note}]");
        }
        line += &format!(" <{}>", duration(took));
        line + &self.why(call.why.map(|why| (why, None)))
    }

    /// What the line is for, if that is asked for.
    fn why(&self, why: Option<(Why, Option<&str>)>) -> String {
        let Some((why, section)) = why.filter(|_| self.style.why) else {
            return String::new();
        };
        let text = format!("# {} ({})", why.text, document(why, section));
        format!("  {}", self.paint("32", &text))
    }

    fn exit(&self, left: &Left, took: u64) -> String {
        let text = match left.exit {
            Some(_) => self.paint("36", &exited(left)),
            None => exited(left),
        };
        let immediate = if left.immediate {
            " [immediate_exit]"
        } else {
            ""
        };
        let why = self.why(Some(purpose(left)));
        format!("{text}{immediate} <{}>{why}", duration(took))
    }
}

impl Output for Text {
    fn event(&mut self, event: &Event) {
        if self.style.summary_only {
            return;
        }
        let start = *self.start.get_or_insert(event.time);
        let time = event.time.saturating_sub(start) as f64 / 1e9;
        let cpu;
        let file = match (&event.body, &event.file) {
            (Body::Kernel(happened), _) => {
                cpu = format!("kernel cpu {}", happened.cpu);
                &cpu
            }
            (_, Some(file)) => file.name.as_str(),
            (_, None) => "",
        };
        let (indent, text) = match &event.body {
            Body::Call(call) => {
                let indent = if event.below { "  └ " } else { "" };
                (indent, self.call(call, event.took))
            }
            Body::Exit(left) => ("", self.exit(left, event.took)),
            Body::Coalesced(access, meaning) => {
                let text = format!("coalesced {}", accessed(access, meaning));
                let why = self.why(Some((purposes::KEPT, meaning.document)));
                ("", self.paint("2", &text) + &why)
            }
            Body::Process(text) => ("", self.paint("33", text)),
            Body::Kernel(happened) => ("", self.paint("35", &kernel(happened))),
            Body::Entered => return,
        };
        let line = format!("{time:11.6} {:>7} {file:<12} {indent}{text}\n", event.tid);
        self.write(&line);
    }

    fn end(&mut self, summary: &Summary) {
        let text = totals::text(summary);
        self.write(&text);
    }

    fn flush(&mut self) {
        if !self.failed {
            self.failed = self.to.flush().is_err();
        }
    }
}
