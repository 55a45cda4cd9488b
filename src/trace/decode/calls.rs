//! The calls by kind of file and number.

use super::interpret::{self, Phase};
use super::tables::Tables;
use super::value::{Field, Kind, Memory};

/// An ioctl of the traced program.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The kind of the file.
    pub kind: Kind,
    /// The second argument of ioctl(2). Only its low 32 bits count.
    pub request: u32,
    /// The third argument.
    pub argument: u64,
}

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Why {
    /// Half a line.
    pub text: &'static str,
    /// The document and its section.
    pub document: &'static str,
}

/// The name of the call, by the kernel's headers. `None` if the kind has no such call.
pub fn name(kind: Kind, request: u32) -> Option<&'static str> {
    let entry = Tables::get().calls.get(&(kind, request));
    entry.map(|entry| entry.name)
}

/// What the call is for, and where it is described.
pub fn why(kind: Kind, request: u32) -> Option<Why> {
    let entry = Tables::get().calls.get(&(kind, request))?;
    Some(Why {
        text: entry.why,
        document: entry.document,
    })
}

/// All calls. A call that several kinds of files have is there for each.
pub fn all() -> impl Iterator<Item = (Kind, u32, &'static str)> {
    let tables = Tables::get();
    tables.order.iter().flat_map(|entry| {
        // A later entry may be for one of an earlier one's kinds.
        let own = |kind: &&Kind| {
            let found = tables.calls.get(&(**kind, entry.number));
            found.is_some_and(|found| std::ptr::eq(*found, *entry))
        };
        let kinds = entry.kinds.iter().filter(own);
        kinds.map(|kind| (*kind, entry.number, entry.name))
    })
}

/// The version of the kernel's headers that the calls are from.
pub fn version() -> &'static str {
    Tables::get().headers.version
}

/// The fields that the program hands to the kernel. To be called when the call starts. Makes at
/// most a bounded number of fields, whatever the memory has.
pub fn enter(call: &Call, memory: &dyn Memory) -> Vec<Field> {
    interpret::argument(call.kind, call.request, call.argument, Phase::Enter, memory)
}

/// The fields that the kernel has written. To be called when the call has ended; `result` is the
/// value of the call, or the negated errno.
pub fn leave(call: &Call, result: i64, memory: &dyn Memory) -> Vec<Field> {
    let phase = Phase::Leave { result };
    interpret::argument(call.kind, call.request, call.argument, phase, memory)
}
