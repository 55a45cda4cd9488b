//! An event as a line of text, and what makes two events alike.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::event::{Body, Event};
use crate::output::fields;
use crate::output::line::{accessed, errno, exited, kernel};

/// The line of an event, without its time, thread and file.
pub fn text(event: &Event) -> String {
    match &event.body {
        Body::Call(call) => {
            let ins = fields::text(&call.ins, &call.names, false);
            let mut line = format!("{}({ins}) = ", call.name);
            line += &match (&call.makes, call.result) {
                (Some(made), result) => format!("{result} ({made})"),
                (None, result) if (-4095..0).contains(&result) => errno(result),
                (None, result) if !(0..=0xffff).contains(&result) => format!("{result:#x}"),
                (None, result) => result.to_string(),
            };
            if !call.outs.is_empty() {
                let outs = fields::text(&call.outs, &call.names, false);
                line += &format!(" {{{outs}}}");
            }
            if let Some(note) = &call.note {
                line += &format!(" [{note}]");
            }
            line
        }
        Body::Exit(left) => exited(left),
        Body::Coalesced(access, meaning) => format!("coalesced {}", accessed(access, meaning)),
        Body::Entered => String::new(),
        Body::Kernel(happened) => kernel(happened),
        Body::Process(text) => text.clone(),
    }
}

/// A number that events which are alike have in common: the same call on the same file, or the same
/// access to the same register, whatever the values.
pub fn key(event: &Event) -> u64 {
    let mut key = DefaultHasher::new();
    event.file.as_ref().map(|file| file.id).hash(&mut key);
    event.below.hash(&mut key);
    match &event.body {
        Body::Call(call) => {
            (0, &call.name, call.result < 0, call.makes.is_some()).hash(&mut key);
        }
        Body::Exit(left) => {
            (1, left.word(), left.immediate).hash(&mut key);
            let access = left.access();
            access.map(|access| access.register).hash(&mut key);
            (&left.meaning.function, &left.meaning.register).hash(&mut key);
        }
        Body::Coalesced(access, meaning) => {
            (2, access.register).hash(&mut key);
            (&meaning.function, &meaning.register).hash(&mut key);
        }
        Body::Entered => 3.hash(&mut key),
        Body::Kernel(happened) => (5, happened.name).hash(&mut key),
        Body::Process(text) => (4, text).hash(&mut key),
    }
    key.finish()
}
