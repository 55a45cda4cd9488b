//! Commands that run in the lab, the emulated machine with an IOMMU: all commands of all chapters
//! in one boot. What they print is recorded in docs/tour/lab.json, so that chapters can be woven
//! where no machine can be emulated. `make tour` and `make test-all` boot the machine.

use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs, process};

use serde_json::{Value, json};

use crate::commands::{Commands, Output};
use crate::stable::Stable;
use crate::weave::{BEGIN, Sources};
use crate::{CHAPTERS, chapter_path};

/// Where the record is.
pub const RECORD: &str = "docs/tour/lab.json";
/// What stands before a command that is typed in the emulated machine.
pub const PROMPT: &str = "L1# ";

/// A boot of the emulated machine takes some ten seconds. The limit is for a busy host that builds
/// the machine's programs and kernel first.
const LIMIT: Duration = Duration::from_secs(3000);

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

/// The commands of a chapter that run in the lab, in order.
pub fn commands(chapter: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in chapter.lines() {
        if let Some(mark) = line.strip_prefix(BEGIN) {
            let mark = mark.trim_end_matches(" -->");
            let figure = mark.strip_prefix("lab-figure ");
            found.extend(figure.and_then(|f| Some(f.split_once(": ")?.1.to_owned())));
            inside = mark == "lab" || mark.starts_with("lab ");
        } else if inside {
            found.extend(line.strip_prefix(PROMPT).map(str::to_owned));
        }
        inside &= line != crate::weave::END;
    }
    found
}

/// The commands of all chapters.
///
/// # Errors
/// A chapter cannot be read.
pub fn all_commands(sources: &Sources) -> Result<Vec<(u32, String)>, String> {
    let mut all = Vec::new();
    for (number, name) in CHAPTERS {
        let text = sources.read(&chapter_path(name))?;
        all.extend(commands(&text).into_iter().map(|command| (number, command)));
    }
    Ok(all)
}

/// Runs commands of chapters in one boot.
///
/// # Errors
/// The machine does not start, or ends before the last command.
pub fn entries(
    commands: &[(u32, String)],
    stable: &Stable,
    programs: &Commands,
) -> Result<Vec<Entry>, String> {
    let texts: Vec<_> = commands
        .iter()
        .map(|(_, command)| command.clone())
        .collect();
    let outputs = run(&texts, stable, programs)?;
    let pairs = commands.iter().zip(outputs);
    let entries = pairs.map(|((chapter, command), output)| Entry {
        chapter: *chapter,
        command: command.clone(),
        output,
    });
    Ok(entries.collect())
}

/// A file that is gone when dropped.
struct Script(PathBuf);

impl Drop for Script {
    fn drop(&mut self) {
        // It was written, unless the disk is full.
        let _ = fs::remove_file(&self.0);
    }
}

/// Boots the machine once, and runs commands in it.
///
/// # Errors
/// The machine does not start, or ends before the last command.
pub fn run(
    commands: &[String],
    stable: &Stable,
    programs: &Commands,
) -> Result<Vec<Output>, String> {
    let script = Script(env::temp_dir().join(format!("tour-lab-{}", process::id())));
    fs::write(&script.0, script_of(commands))
        .map_err(|e| format!("{}: {e}", script.0.display()))?;
    programs.build_lab()?;
    let command = format!("target/debug/shell --run '{}'", script.0.display());
    let ended = programs.shell(&command, LIMIT)?;
    let outputs = outputs(&ended.text, commands.len());
    outputs
        .map_err(|why| format!("{why}; the lab says:\n{}", ended.text))
        .map(|outputs| {
            let stabilize = |output: Output| Output {
                text: stable.apply(&output.text),
                ..output
            };
            outputs.into_iter().map(stabilize).collect()
        })
}

/// The script that runs each command in a shell of its own, and marks what it prints.
pub fn script_of(commands: &[String]) -> String {
    let mut script = String::from(
        "tour() {\n\
         \techo \"@begin $1\"\n\
         \tstatus=0\n\
         \ttimeout 60 sh /run/command </dev/null >/run/printed 2>&1 || status=$?\n\
         \tcat /run/printed\n\
         \t[ -z \"$(tail -c 1 /run/printed)\" ] || echo\n\
         \techo \"@end $1 $status\"\n\
         }\n",
    );
    for (number, command) in commands.iter().enumerate() {
        script += &format!(
            "cat >/run/command <<'COMMAND-ENDS'\n{command}\nCOMMAND-ENDS\ntour {number}\n"
        );
    }
    script
}

/// The outputs between the marks.
///
/// # Errors
/// Not all commands have ended.
pub fn outputs(text: &str, count: usize) -> Result<Vec<Output>, String> {
    let mut lines = text.lines();
    let output = |number: usize| {
        let begin = format!("@begin {number}");
        let end = format!("@end {number} ");
        lines.by_ref().find(|line| *line == begin)?;
        let mut text = String::new();
        for line in lines.by_ref() {
            if let Some(status) = line.strip_prefix(&end) {
                let status = status.parse().ok()?;
                return Some(Output { text, status });
            }
            text += &format!("{line}\n");
        }
        None
    };
    let outputs: Vec<_> = (0..count).map_while(output).collect();
    match outputs.len() == count {
        true => Ok(outputs),
        false => Err(format!(
            "only {} of {count} commands ended in the emulated machine",
            outputs.len()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_the_lab_are_found_and_others_are_not() {
        let chapter = "<!-- weave: run -->\n$ here\n<!-- end -->\nL1# prose\n\
            <!-- weave: lab status=1 -->\n```console\nL1# first | x\nout\nL1# second\n```\n\
            <!-- end -->\n<!-- weave: lab-figure bars: third --json -->\n<!-- end -->\n";
        assert_eq!(commands(chapter), ["first | x", "second", "third --json"]);
    }

    #[test]
    fn outputs_are_told_apart_and_a_missing_one_is_an_error() {
        let text = "noise\n@begin 0\na\n\nb\n@end 0 0\n@begin 1\n@end 1 3\n";
        let both = outputs(text, 2).unwrap();
        assert_eq!((both[0].text.as_str(), both[0].status), ("a\n\nb\n", 0));
        assert_eq!((both[1].text.as_str(), both[1].status), ("", 3));
        assert!(outputs(text, 3).unwrap_err().contains("2 of 3"));
    }

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
