//! Reads records and the journal of version 1: lines of a word and a value.
//!
//! Such files exist in /run/mini-vmm if the program was replaced by a newer version while devices
//! were bound. When a record of version 1 changes, it is written in the current form
//! ([`super::form`]).

use pci::Bdf;
use vmm::sys::process::Process;

use crate::bind::record::{Node, Record};

/// The first line of a record.
const RECORD: &str = "mini-vmm record 1";
/// The first line of the journal.
const JOURNAL: &str = "mini-vmm change 1";

/// Reads a record; `None` if the text is not a record. Unknown lines are skipped.
pub(super) fn record(bdf: Bdf, text: &str) -> Option<Record> {
    let mut lines = text.lines();
    if lines.next() != Some(RECORD) {
        return None;
    }
    let mut record = Record::new(bdf);
    for line in lines {
        let (key, value) = line.split_once(' ')?;
        let owned = || Some(value.to_owned());
        match key {
            "modalias" => record.modalias = value.into(),
            "group" => record.group = Some(value.parse().ok()?),
            "driver" => record.driver = owned(),
            "module" => record.module = owned(),
            "override" => record.driver_override = owned(),
            "bound" => record.bound = owned(),
            "along" => record.along = Some(value.parse().ok()?),
            "owner" => {
                let (pid, started) = value.split_once(' ')?;
                record.owner = Some(Process {
                    pid: pid.parse().ok()?,
                    started: started.parse().ok()?,
                });
            }
            "user" => record.user = Some(value.parse().ok()?),
            "node" => {
                let mut parts = value.splitn(3, ' ');
                record.nodes.push(Node {
                    uid: parts.next()?.parse().ok()?,
                    gid: parts.next()?.parse().ok()?,
                    path: parts.next()?.into(),
                });
            }
            "functions" => record.functions = Some(value.parse().ok()?),
            "autoprobe" => record.autoprobe = value == "on",
            _ => {}
        }
    }
    Some(record)
}

/// Reads the journal: each device of the change, and its record from before the change if there was
/// a record. `None` if the text is not a journal.
pub(super) fn journal(text: &str) -> Option<Vec<(Bdf, Option<Record>)>> {
    let rest = text.strip_prefix(JOURNAL)?.strip_prefix('\n')?;
    let mut devices: Vec<(Bdf, String)> = Vec::new();
    for line in rest.lines() {
        // No line of a record begins with `device`.
        match (line.strip_prefix("device "), devices.last_mut()) {
            (Some(bdf), _) => devices.push((bdf.parse().ok()?, String::new())),
            (None, Some((_, record))) => record.push_str(&format!("{line}\n")),
            (None, None) => return None,
        }
    }
    let entries = devices.into_iter().map(|(bdf, text)| {
        let before = match text.as_str() {
            "" => None,
            text => Some(record(bdf, text)?),
        };
        Some((bdf, before))
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_record_is_answered(
            text in "(mini-vmm record 1\n)?(([a-z]{4,8}|owner|node|along) ?[ -~]{0,12}\n){0,6}"
        ) {
            let _ = record("01:00.0".parse().unwrap(), &text);
        }

        #[test]
        fn any_journal_is_answered(
            text in "(mini-vmm change 1\n)?\
                     ((device 0000:01:00.0|mini-vmm record 1|owner 1|[ -~]{0,12})\n){0,6}"
        ) {
            let _ = journal(&text);
        }
    }
}
