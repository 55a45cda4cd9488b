//! Makes a chapter anew: everything between two marks.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use crate::commands::Commands;
use crate::commands::Output;
use crate::record::{PROMPT, Record};
use crate::stable::Stable;
use crate::{figure, item};

/// The start of a mark.
pub const BEGIN: &str = "<!-- weave: ";
/// The end of what is made.
pub const END: &str = "<!-- end -->";
/// What stands before all that is woven. mdbook-i18n-helpers leaves the next paragraph or block out
/// of what is translated.
pub const SKIP: &str = "<!-- i18n:skip -->\n";
/// From a chapter to the workspace.
const UP: &str = "../../..";

/// The files of the workspace. A test puts other texts over them.
pub struct Sources {
    /// The folder of the workspace.
    pub root: PathBuf,
    /// Texts that stand for files.
    pub instead: HashMap<String, String>,
}

impl Sources {
    /// The files as they are.
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            instead: HashMap::new(),
        }
    }

    /// The text of a file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self, path: &str) -> Result<String, String> {
        match self.instead.get(path) {
            Some(text) => Ok(text.clone()),
            None => fs::read_to_string(self.root.join(path)).map_err(|e| format!("{path}: {e}")),
        }
    }
}

/// What a chapter is woven from.
pub struct Loom<'a> {
    /// The files of the workspace.
    pub sources: &'a Sources,
    /// The commands.
    pub commands: &'a mut Commands,
    /// What differs from run to run.
    pub stable: &'a Stable,
    /// What the commands in the lab have printed.
    pub lab: &'a mut Record,
    /// The chapter's number.
    pub chapter: u32,
}

impl Loom<'_> {
    /// The chapter `text`, made anew.
    ///
    /// # Errors
    /// A mark is wrong, or what it names is missing or ends otherwise. The sentence has the line.
    pub fn weave(&mut self, text: &str) -> Result<String, String> {
        let mut lines = (1..).zip(text.lines());
        let mut woven = String::new();
        while let Some((number, line)) = lines.next() {
            woven += &format!("{line}\n");
            let Some(mark) = line.strip_prefix(BEGIN) else {
                match line == END {
                    true => return Err(format!("line {number}: an end without a beginning")),
                    false => continue,
                }
            };
            let at = |why| format!("line {number}: {why}");
            let mark = mark
                .strip_suffix(" -->")
                .ok_or_else(|| at("an open mark".into()))?;
            let old: Vec<_> = lines
                .by_ref()
                .map(|(_, line)| line)
                .take_while(|line| *line != END && !line.starts_with(BEGIN))
                .collect();
            if !text
                .lines()
                .skip(number + old.len())
                .take(1)
                .any(|line| line == END)
            {
                return Err(at(format!("`{mark}` has no end")));
            }
            woven += &self.part(mark, &old).map_err(at)?;
            woven += &format!("{END}\n");
        }
        Ok(woven)
    }

    fn part(&mut self, mark: &str, old: &[&str]) -> Result<String, String> {
        let (kind, rest) = mark.split_once(' ').unwrap_or((mark, ""));
        match kind {
            "run" => run("$ ", rest, old, |command| {
                let output = self.commands.run(command)?;
                let text = self.stable.apply(&output.text);
                Ok(Output { text, ..output })
            }),
            "lab" => run(PROMPT, rest, old, |command| {
                self.lab.take(self.chapter, command)
            }),
            "source" => self.source(rest),
            "figure" => figure(rest, |command| {
                let output = self.commands.run(command)?;
                Ok(self.stable.apply(&output.text))
            }),
            "lab-figure" => figure(rest, |command| {
                Ok(self.lab.take(self.chapter, command)?.text)
            }),
            _ => Err(format!("`{kind}` is no kind of mark")),
        }
    }

    /// A file, an item of it, or some lines of an item.
    fn source(&self, rest: &str) -> Result<String, String> {
        let (path, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let text = self.sources.read(path)?;
        let (name, between) = rest.split_once(" from ").unwrap_or((rest, ""));
        let whole = (1, text.lines().count());
        let (first, last) = match name {
            "" => whole,
            name => item::find(&text, name).map_err(|e| format!("{path}: {e}"))?,
        };
        let lines: Vec<_> = text
            .lines()
            .skip(first - 1)
            .take(last + 1 - first)
            .collect();
        let lines = between_texts(&lines, between).map_err(|e| format!("{path}: {e}"))?;
        let indent = lines.iter().filter(|line| !line.trim().is_empty());
        let indent = indent
            .map(|l| l.len() - l.trim_start().len())
            .min()
            .unwrap_or(0);
        let language = match path.rsplit_once('.') {
            Some((_, "rs")) => "rust",
            Some((_, "s")) => "asm",
            Some((_, "sh")) => "sh",
            _ => "text",
        };
        let body: String = lines
            .iter()
            .map(|line| format!("{}\n", line.get(indent..).unwrap_or_default()))
            .collect();
        let of = if name.is_empty() {
            String::new()
        } else {
            format!(", `{name}`")
        };
        Ok(format!(
            "{SKIP}```{language}\n{body}```\n\n{SKIP}*[{path}]({UP}/{path}){of}*\n"
        ))
    }
}

/// The commands of a block, each with its output.
fn run(
    prompt: &str,
    options: &str,
    old: &[&str],
    mut output_of: impl FnMut(&str) -> Result<Output, String>,
) -> Result<String, String> {
    let wanted = match options.strip_prefix("status=") {
        Some(number) => number
            .parse()
            .map_err(|_| format!("`{number}` is no status"))?,
        None => 0,
    };
    let commands: Vec<_> = old
        .iter()
        .filter_map(|line| line.strip_prefix(prompt))
        .collect();
    let mut text = format!("{SKIP}```console\n");
    for (index, command) in commands.iter().enumerate() {
        let output = output_of(command)?;
        let wanted = if index + 1 == commands.len() {
            wanted
        } else {
            0
        };
        if output.status != wanted {
            let (status, text) = (output.status, output.text);
            return Err(format!(
                "`{command}` ended with status {status}, not {wanted}:\n{text}"
            ));
        }
        text += &format!("{prompt}{command}\n{}", output.text);
    }
    match commands.is_empty() {
        true => Err("a block without a command".into()),
        false => Ok(text + "```\n"),
    }
}

fn figure(
    rest: &str,
    data_of: impl FnOnce(&str) -> Result<String, String>,
) -> Result<String, String> {
    let (kind, command) = rest.split_once(": ").ok_or("a figure is `KIND: COMMAND`")?;
    let drawn = figure::draw(kind, &data_of(command)?)?;
    Ok(format!(
        "{SKIP}```text\n{drawn}```\n\n*Drawn from the output of* `{command}`\n"
    ))
}

/// The lines from one with the first quoted text to the next with the second.
fn between_texts<'a>(lines: &'a [&'a str], quoted: &str) -> Result<&'a [&'a str], String> {
    if quoted.is_empty() {
        return Ok(lines);
    }
    let texts: Vec<_> = quoted.split('"').skip(1).step_by(2).collect();
    let [from, to] = texts[..] else {
        return Err(format!("`{quoted}` is not `\"A\" to \"B\"`"));
    };
    let find = |text: &str, after: usize| {
        let at = lines
            .iter()
            .skip(after)
            .position(|line| line.contains(text));
        at.map(|at| at + after)
            .ok_or_else(|| format!("no line has `{text}`"))
    };
    let first = find(from, 0)?;
    let last = find(to, first)?;
    Ok(lines.get(first..=last).unwrap_or_default())
}

/// The first line in which two texts differ, in a sentence; `None` if they are the same.
pub fn difference(committed: &str, woven: &str) -> Option<String> {
    let (mut old, mut new) = (committed.lines(), woven.lines());
    for number in 1.. {
        match (old.next(), new.next()) {
            (None, None) => break,
            (a, b) if a == b => {}
            (a, b) => {
                let show = |line: Option<&str>| line.unwrap_or("(the end)").to_owned();
                return Some(format!(
                    "line {number} differs:\n- {}\n+ {}",
                    show(a),
                    show(b)
                ));
            }
        }
    }
    (committed != woven).then(|| "they differ in how they end".into())
}
