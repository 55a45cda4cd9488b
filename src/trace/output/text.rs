//! Lines for people.

use std::borrow::Cow;
use std::io::Write;

use crate::event::{Body, Call, Event, Left};
use crate::guest::access::{Access, Space};
use crate::guest::run_page::{Exit, reason_name};
use crate::guest::vm::Meaning;
use crate::output::duration::duration;
use crate::output::emitter::Output;
use crate::output::{errno_names, fields, totals};
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
        if let (true, Some(why)) = (self.style.why, call.why) {
            let text = format!("{} ({})", why.text, why.document);
            line += &format!("  {}", self.paint("32", &format!("# {text}")));
        }
        line
    }

    fn exit(&self, left: &Left, took: u64) -> String {
        let text = match (&left.exit, left.result) {
            (Some(Exit::Access(access, _)), _) => {
                self.paint("36", &accessed(access, &left.meaning))
            }
            (Some(Exit::Other(reason, fields)), _) => {
                let name = reason_name(*reason);
                let mut text = name.map_or_else(|| format!("exit {reason:#x}"), String::from);
                for (name, value) in fields {
                    text += &format!(" {name}={value:#x}");
                }
                self.paint("36", &text)
            }
            (None, result) if result < 0 => format!("KVM_RUN = {}", errno(result)),
            (None, result) => format!("KVM_RUN = {result} (the exit cannot be read)"),
        };
        let immediate = if left.immediate {
            " [immediate_exit]"
        } else {
            ""
        };
        format!("{text}{immediate} <{}>", duration(took))
    }
}

impl Output for Text {
    fn event(&mut self, event: &Event) {
        if self.style.summary_only {
            return;
        }
        let start = *self.start.get_or_insert(event.time);
        let time = event.time.saturating_sub(start) as f64 / 1e9;
        let file = event.file.as_ref().map_or("", |file| file.name.as_str());
        let (indent, text) = match &event.body {
            Body::Call(call) => {
                let indent = if event.below { "  └ " } else { "" };
                (indent, self.call(call, event.took))
            }
            Body::Exit(left) => ("", self.exit(left, event.took)),
            Body::Coalesced(access, meaning) => {
                let text = format!("coalesced {}", accessed(access, meaning));
                ("", self.paint("2", &text))
            }
            Body::Process(text) => ("", self.paint("33", text)),
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

/// `out cfc.4  00:03.0 BAR0 ← ffffffff (sizing)`.
fn accessed(access: &Access, meaning: &Meaning) -> String {
    let verb = match (access.register.space, access.register.write) {
        (Space::Port, true) => "out",
        (Space::Port, false) => "in",
        (Space::Memory, true) => "store",
        (Space::Memory, false) => "load",
    };
    let mut text = format!("{verb} {:x}.{}", access.register.address, access.width);
    if access.count != 1 {
        text += &format!(" ×{}", access.count);
    }
    if let Some(label) = meaning.label() {
        text += &format!("  {label}");
    }
    let arrow = if access.register.write { '←' } else { '→' };
    text += &match (access.count, access.value()) {
        (1, Some(value)) => {
            format!(" {arrow} {value:0w$x}", w = usize::from(access.width) * 2)
        }
        _ if access.data.is_empty() => format!(" {arrow} ?"),
        _ => {
            let bytes: String = access.data.iter().map(|b| format!("{b:02x}")).collect();
            let more = access.len() > access.data.len() as u64;
            format!(" {arrow} {bytes}{}", if more { "…" } else { "" })
        }
    };
    if let Some(note) = &meaning.note {
        text += &format!(" ({note})");
    }
    text
}

/// `-1 EINTR (Interrupted system call)`.
fn errno(result: i64) -> String {
    let number = i32::try_from(-result).unwrap_or(0);
    let text = std::io::Error::from_raw_os_error(number).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    match errno_names::name(number) {
        Some(name) => format!("-1 {name} ({text})"),
        None => format!("-1 errno {number} ({text})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::access::Register;

    #[test]
    fn accesses() {
        let mut access = Access {
            register: Register {
                space: Space::Port,
                address: 0xcfc,
                write: true,
            },
            width: 4,
            count: 1,
            data: vec![0xff; 4],
        };
        let meaning = Meaning {
            function: Some("00:03.0".into()),
            register: Some("BAR0".into()),
            note: Some("sizing".into()),
        };
        let line = "out cfc.4  00:03.0 BAR0 ← ffffffff (sizing)";
        assert_eq!(accessed(&access, &meaning), line);
        access.count = 20;
        let none = Meaning::default();
        assert_eq!(accessed(&access, &none), "out cfc.4 ×20 ← ffffffff…");
        access.register.write = false;
        access.data.clear();
        assert_eq!(accessed(&access, &none), "in cfc.4 ×20 → ?");
        assert_eq!(errno(-4), "-1 EINTR (Interrupted system call)");
        assert_eq!(duration(1500), "1.5 µs");
        assert_eq!(duration(15_000_000), "15 ms");
    }
}
