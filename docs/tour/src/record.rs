//! What the commands of the lab have printed: docs/tour/lab.json.

use serde_json::{Value, json};

use crate::commands::Output;

/// Where the record is.
pub const RECORD: &str = "docs/tour/lab.json";
/// What stands before a command that is typed in the emulated machine.
pub const PROMPT: &str = "L1# ";

/// A command of a chapter, and what it printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The chapter.
    pub chapter: u32,
    /// The command.
    pub command: String,
    /// What it printed, made stable, and its exit status.
    pub output: Output,
}

/// What all commands printed, in the order of the chapters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The commands.
    pub entries: Vec<Entry>,
    next: usize,
}

impl Record {
    /// A record that is read from its start.
    pub fn new(entries: Vec<Entry>) -> Self {
        Self { entries, next: 0 }
    }

    /// Parses the file.
    ///
    /// # Errors
    /// The text is no record.
    pub fn parse(text: &str) -> Result<Self, String> {
        let values: Vec<Value> =
            serde_json::from_str(text).map_err(|e| format!("{RECORD}: {e}"))?;
        let entry = |value: &Value| {
            let lines = value["prints"].as_array()?.iter();
            let lines: Option<String> = lines.map(|l| Some(format!("{}\n", l.as_str()?))).collect();
            Some(Entry {
                chapter: value["chapter"].as_u64()?.try_into().ok()?,
                command: value["command"].as_str()?.to_owned(),
                output: Output {
                    text: lines?,
                    status: value["status"].as_i64()?.try_into().ok()?,
                },
            })
        };
        let entries: Option<_> = values.iter().map(entry).collect();
        let entries = entries.ok_or_else(|| format!("{RECORD}: an entry lacks a key"))?;
        Ok(Self::new(entries))
    }

    /// The text of the file.
    pub fn text(&self) -> String {
        let entries = self.entries.iter().map(|entry| {
            let lines: Vec<_> = entry.output.text.lines().collect();
            json!({
                "chapter": entry.chapter,
                "command": entry.command,
                "status": entry.output.status,
                "prints": lines,
            })
        });
        format!("{:#}\n", Value::Array(entries.collect()))
    }

    /// What the next command of a chapter printed.
    ///
    /// # Errors
    /// The record has another command there.
    pub fn take(&mut self, chapter: u32, command: &str) -> Result<Output, String> {
        let entry = self.entries.get(self.next);
        let entry = entry.filter(|e| e.chapter == chapter && e.command == command);
        let entry = entry.ok_or_else(|| {
            format!("{RECORD} does not have `{command}` here; `make tour` makes it anew")
        })?;
        self.next += 1;
        Ok(entry.output.clone())
    }

    /// Whether each command was taken.
    pub fn is_used_up(&self) -> bool {
        self.next == self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let entry = |command: &str, text: &str| Entry {
            chapter: 1,
            command: command.into(),
            output: Output {
                text: text.into(),
                status: 0,
            },
        };
        let entries = vec![entry("one", "a\n\nb\n"), entry("one", "")];
        let mut record = Record::parse(&Record::new(entries.clone()).text()).unwrap();
        assert_eq!(record.entries, entries);
        assert_eq!(record.take(1, "one").unwrap().text, "a\n\nb\n");
        assert!(record.take(1, "two").is_err() && record.take(2, "one").is_err());
        assert_eq!(record.take(1, "one").unwrap().text, "");
        assert!(record.is_used_up());
    }
}
